"""csrc/tests/headers_alone.py, which CI runs on every header: it finds one that leans on others."""

import importlib.util
import shutil
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
SCRIPT = CSRC / "tests/headers_alone.py"
pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler here")


@pytest.fixture(scope="module")
def checker():
    spec = importlib.util.spec_from_file_location("headers_alone", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_header_that_leans_on_another_is_found(checker, tmp_path):
    (tmp_path / "sizes.h").write_text("#pragma once\nusing Size = long;\n")
    (tmp_path / "alone.h").write_text(
        '#pragma once\n#include "sizes.h"\ninline Size one() { return 1; }\n'
    )
    (tmp_path / "leaning.h").write_text("#pragma once\ninline Size two() { return 2; }\n")
    assert checker.first_error(tmp_path, "alone.h", []) is None
    assert "Size" in checker.first_error(tmp_path, "leaning.h", [])


def test_the_header_that_leaned_on_others(checker):
    header = "cpu/tree_map-inl.h"
    flags = checker.variants(header)["for baseline"]
    assert checker.first_error(CSRC, header, flags) is None


def test_every_kind_of_header_has_its_flags(checker):
    assert any(
        "host_shim" in flag for flag in checker.variants("cuda/paper_tree.h")["on the host shim"]
    )
    assert checker.variants("cpu/knn.h") == {"": []}
    assert "-DBIASGEN_ISA=baseline" in checker.variants("cpu/knn-inl.h")["for baseline"]
