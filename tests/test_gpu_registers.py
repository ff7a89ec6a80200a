"""docs/gpu_registers.md against the compilers that are here: no kernel takes more, or is missing.
The device probe compiles, too."""
import importlib.util
import os
import shutil
import subprocess

import pytest

from benchmarks import tree_kernels
from benchmarks.gpu import registers
from biasgen import _settings

LISTED = registers.read(registers.PAGE.read_text())
# Of a CUDA kernel at most: a multiprocessor has 65536, and 256 threads of 80 leave room for three
# blocks.
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
    """Of a compiler that has no table registers.faults alone is asked."""
    for key, usage in found.items():
        if compiler in LISTED:
            for name, here, listed in zip(usage._fields, usage, LISTED[compiler][key], strict=True):
                assert here <= listed, f"{key}: {usage}, {name}"
    kind = compiler.split()[0]
    for other in (table for name, table in LISTED.items() if name.startswith(kind)):
        assert found.keys() == other.keys(), "make gpu-registers, with each compiler"
    assert registers.faults(found) == []


def test_cuda_kernels(nvcc):
    assert_within_the_page(registers.cuda(), tree_kernels.nvcc_version())


def test_triton_kernels(triton):
    import triton

    assert_within_the_page(registers.triton(), f"Triton {triton.__version__}")


def test_versions_of_triton_have_their_own_tables(triton):
    """That of torch for CUDA 13 among them, and each has every kernel: without compiling one."""
    from biasgen.triton_kernels import ahead_of_time

    tables = {name: table for name, table in LISTED.items() if name.startswith("Triton ")}
    assert tables.keys() >= {"Triton 3.6.0", "Triton 3.9.0"}
    every = {
        (f"Triton: {name}", at) for name in ahead_of_time.kernels() for at in registers.CAPABILITIES
    }
    for name, table in tables.items():
        assert table.keys() == every, name
        assert registers.faults(table) == []


def test_cuda_kernels_leave_room_for_other_blocks():
    (table,) = (table for compiler, table in LISTED.items() if compiler.startswith("nvcc "))
    for (name, _), usage in table.items():
        kernel = name.removeprefix("CUDA: ")
        assert usage.registers <= MOST_REGISTERS.get(kernel, MOST_REGISTERS.get(kernel.split(",")[0], 255)), name


def test_the_page_says_what_was_compiled():
    usage = registers.Usage
    table = {("CUDA: a, float32", 80): usage(1, 2, 3), ("CUDA: a, float32", 90): usage(4, 5, 6)}
    others = [
        {("Triton: b", 80): usage(7 + i, 8, 0), ("Triton: b", 90): usage(9, 0, 0)} for i in range(2)
    ]
    tables = {"nvcc 1.2.3": table, "Triton 4.5.6": others[0], "Triton 4.6.0": others[1]}
    assert registers.read(registers.page(tables)) == tables
    table |= others[0]
    assert registers.faults(table) == [
        "CUDA: a, float32, sm_80: 2 bytes of stack, 3 spilled; want 0 at most",
        "CUDA: a, float32, sm_90: 5 bytes of stack, 6 spilled; want 0 at most",
    ]
    table["Triton: b", 80], table["Triton: b", 90] = usage(9, 88, 0), usage(9, 8, 0)
    assert [fault.split(";")[0] for fault in registers.faults(table)[2:]] == [
        "Triton: b, sm_80: 88 bytes of stack, 0 spilled", "Triton: b, sm_90: 8 bytes of stack, 0 spilled"
    ]


def test_a_compiler_replaces_its_own_table_only(triton, monkeypatch, tmp_path, capsys):
    def table(n, kernel="Triton: b"):
        return {(kernel, at): registers.Usage(n, 0, 0) for at in registers.CAPABILITIES}

    tables = {"nvcc 1.2.3": table(1, "CUDA: a"), "Triton 0.1": table(2, "Triton: old")}
    monkeypatch.setattr(registers, "PAGE", tmp_path / "page.md")
    registers.PAGE.write_text(registers.page(tables))
    monkeypatch.setattr(registers, "cuda", lambda: table(3, "CUDA: a"))
    monkeypatch.setattr(registers, "triton", lambda: table(4))
    monkeypatch.setattr(tree_kernels, "nvcc_version", lambda: "nvcc 1.2.4")
    monkeypatch.setattr("triton.__version__", "0.2")
    registers.main()
    assert registers.read(registers.PAGE.read_text()) == {
        "nvcc 1.2.4": table(3, "CUDA: a"), "Triton 0.1": tables["Triton 0.1"], "Triton 0.2": table(4)
    }
    assert "Triton 0.1 has other kernels" in capsys.readouterr().out


def test_a_spill_is_not_written(triton, monkeypatch, tmp_path):
    monkeypatch.setattr(registers, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(registers, "cuda", lambda: {("CUDA: a", at): registers.Usage(255, 8, 8) for at in (80, 90)})
    monkeypatch.setattr(registers, "triton", dict)
    monkeypatch.setattr(tree_kernels, "nvcc_version", lambda: "nvcc 1.2.3")
    with pytest.raises(SystemExit, match=r"^gpu-registers: CUDA: a, sm_80: 8 bytes of stack"):
        registers.main()
    assert not registers.PAGE.exists()


@pytest.mark.parametrize("capability", [80, 90])
def test_the_device_programs_compile(nvcc, capability, tmp_path):
    """The probe of _cuda, and the test program that compute-sanitizer runs."""
    for source in (f"{tree_kernels.ROOT}/csrc/cuda/probe.cu", tree_kernels.TEST):
        subprocess.run([*tree_kernels.NVCC, f"-arch=sm_{capability}", "-x", "cu", "-c", source, "-o", tmp_path / "device.o"], check=True)
