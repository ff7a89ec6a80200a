"""docs/gpu_registers.md against the compilers: no kernel takes more, or is missing. The device probe compiles, too."""
import importlib.util
import os
import shutil
import subprocess

import pytest

from benchmarks import tree_kernels
from benchmarks.gpu import registers
from biasgen import _settings

LISTED, COMPILERS = registers.read(registers.PAGE.read_text())
# Of a CUDA kernel at most: a multiprocessor has 65536, and 256 threads of 80 leave room for three blocks.
MOST_REGISTERS = {"any_tree_kernel": 128, "any_tree_kernel, float32": 80, "any_tree_kernel, float64": 80}


def need(tool, present):
    """Skips where a tool is missing; fails where BIASGEN_REQUIRE_BACKENDS asks for it."""
    if not present:
        (pytest.fail if tool in _settings.required_backends() else pytest.skip)(f"{tool} is not installed here")


@pytest.fixture
def nvcc():
    need("nvcc", shutil.which("nvcc") is not None)


@pytest.fixture
def triton(monkeypatch):
    need("triton", importlib.util.find_spec("triton") is not None)
    monkeypatch.setenv("TRITON_CACHE_DIR", os.environ.get("TRITON_CACHE_DIR") or str(tree_kernels.ROOT / "build/triton"))


def assert_within_the_page(found, compiler):
    kind = next(iter(found))[0].split(":")[0]
    assert set(found) == {key for key in LISTED if key[0].startswith(kind)}, "make gpu-registers"
    for key, usage in found.items():
        if compiler in COMPILERS:   # another one allocates as it likes, within what registers.faults allows
            for name, found_there, listed in zip(usage._fields, usage, LISTED[key], strict=True):
                assert found_there <= listed, f"{key}: {usage}, {name}"


def test_cuda_kernels(nvcc):
    found = registers.cuda()
    assert_within_the_page(found, tree_kernels.nvcc_version())
    assert registers.faults(found) == []


def test_triton_kernels(triton):
    import triton

    found = registers.triton()
    assert_within_the_page(found, f"Triton {triton.__version__}")
    assert registers.faults(found) == []


def test_cuda_kernels_leave_room_for_other_blocks():
    for (name, _), usage in LISTED.items():
        kernel = name.removeprefix("CUDA: ")
        assert usage.registers <= MOST_REGISTERS.get(kernel, MOST_REGISTERS.get(kernel.split(",")[0], 255)), name


def test_the_page_says_what_was_compiled():
    usage = registers.Usage
    table = {("CUDA: a, float32", 80): usage(1, 2, 3), ("CUDA: a, float32", 90): usage(4, 5, 6), ("Triton: b", 80): usage(7, 8, 0)}
    table["Triton: b", 90] = usage(9, 0, 0)
    assert registers.read(registers.page(table, "nvcc 1.2.3, Triton 4.5.6")) == (table, "nvcc 1.2.3, Triton 4.5.6")
    assert registers.faults(table) == [
        "CUDA: a, float32, sm_80: 2 bytes of stack, 3 spilled; want 0 at most",
        "CUDA: a, float32, sm_90: 5 bytes of stack, 6 spilled; want 0 at most",
    ]
    table["Triton: b", 80], table["Triton: b", 90] = usage(9, 88, 0), usage(9, 8, 0)
    assert [fault.split(";")[0] for fault in registers.faults(table)[2:]] == [
        "Triton: b, sm_80: 88 bytes of stack, 0 spilled", "Triton: b, sm_90: 8 bytes of stack, 0 spilled"
    ]


def test_a_spill_is_not_written(monkeypatch, tmp_path):
    monkeypatch.setattr(registers, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(registers, "cuda", lambda: {("CUDA: a", at): registers.Usage(255, 8, 8) for at in (80, 90)})
    monkeypatch.setattr(registers, "triton", dict)
    with pytest.raises(SystemExit, match=r"^gpu-registers: CUDA: a, sm_80: 8 bytes of stack"):
        registers.main()
    assert not registers.PAGE.exists()


@pytest.mark.parametrize("capability", [80, 90])
def test_the_device_programs_compile(nvcc, capability, tmp_path):
    """The probe of _cuda, and the test program that compute-sanitizer runs."""
    for source in (f"{tree_kernels.ROOT}/csrc/cuda/probe.cu", tree_kernels.TEST):
        subprocess.run([*tree_kernels.NVCC, f"-arch=sm_{capability}", "-x", "cu", "-c", source, "-o", tmp_path / "device.o"], check=True)
