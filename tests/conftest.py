"""Fixtures: `implementation` runs a test on every backend and instruction set; `kernels` are the CUDA tree kernels on the host shim."""
import shutil

import pytest

from biasgen import backends
from biasgen._settings import required_backends


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, default=300, help="random calls that test_fuzz.py makes")


IMPLEMENTATIONS = ("torch", "cpu/baseline", "cpu/avx2", "cpu/avx512")


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request, monkeypatch):
    """Name of a backend, with BIASGEN_CPU_ISA set where it has instruction sets.

    A backend that is missing is skipped, but fails where BIASGEN_REQUIRE_BACKENDS names it; an instruction set that this machine lacks
    is skipped.
    """
    name, _, isa = request.param.partition("/")
    module, why = backends.load(name)
    if module is None:
        (pytest.fail if name in required_backends() else pytest.skip)(f"{name}: {why}")
    if isa:
        if isa not in module._cpu.isa_levels():
            pytest.skip(f"this machine has no {isa}")
        monkeypatch.setenv("BIASGEN_CPU_ISA", isa)
    return name


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    """benchmarks.tree_kernels.TreeKernels, compiled once."""
    if shutil.which("g++") is None:
        (pytest.fail if "g++" in required_backends() else pytest.skip)("g++ is not installed here")
    from benchmarks import tree_kernels  # not at the top: the tests of an installed wheel have no benchmarks beside them

    return tree_kernels.TreeKernels(tree_kernels.host_library(tmp_path_factory.mktemp("host")))
