"""csrc/tests/isa_objects.py, which `make sanitize` runs on the kernels: it finds what it is there for."""
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "csrc/tests/isa_objects.py"
pytestmark = pytest.mark.skipif(not all(shutil.which(tool) for tool in ("c++", "nm", "objdump")), reason="no compiler or no binutils here")
KERNEL = "namespace biasgen { inline namespace avx2 { %s } }"
SOURCES = {
    "functions of its own": (KERNEL % "static int own(int i) { return i + 1; } int kernel(int i) { return own(i); }", None),
    "an inline function": (KERNEL % "inline int shared(int i) { return i + 1; } int kernel(int i) { return shared(i); }", "weak symbol"),
    "a template": (KERNEL % "template <class T> T shared(T i) { return i; } int kernel(int i) { return shared(i); }", "weak symbol"),
    "a container": ("#include <vector>\n" + KERNEL % "int kernel(int i) { return int(std::vector<int>(i).size()); }", "weak symbol"),
    "a static object": (KERNEL % "int next(); static const int first = next(); int kernel(int i) { return i + first; }", "initializer"),
    "a function outside": ("int kernel(int i) { return i; }", "not in biasgen::avx2"),
    "of another set": ("namespace biasgen { inline namespace avx512 { int kernel(int i) { return i; } } }", "not in biasgen::avx2"),
}


@pytest.fixture(scope="module")
def checker():
    spec = importlib.util.spec_from_file_location("isa_objects", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", SOURCES)
def test_breaches(checker, tmp_path, case):
    source, expected = SOURCES[case]
    (tmp_path / "kernel_avx2.cpp").write_text(source)
    subprocess.run(["c++", "-O0", "-c", "kernel_avx2.cpp"], check=True, cwd=tmp_path)
    found = checker.breaches(tmp_path / "kernel_avx2.o", "avx2")
    assert (expected is None and not found) or (expected and any(expected in sentence for sentence in found)), found
    assert checker.functions(tmp_path / "kernel_avx2.o") >= 1
