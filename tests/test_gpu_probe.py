"""The GPU probe without a GPU: the host shim's own test, Triton's interpreter, the compilers."""
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_probe
from benchmarks.tree_kernels import HOST
from biasgen import _settings

ROOT = Path(__file__).resolve().parents[1]
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fsanitize-sections=biasgen_shared", "-fno-sanitize-recover=all"]


def need(tool: str, present: bool) -> None:
    """Skips where a tool is missing; fails where BIASGEN_REQUIRE_BACKENDS asks for it."""
    if not present:
        (pytest.fail if tool in _settings.required_backends() else pytest.skip)(f"{tool} is not installed here")


@pytest.fixture
def triton_cache(tmp_path, monkeypatch):
    need("triton", importlib.util.find_spec("triton") is not None)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("options", [[], SANITIZE], ids=["plain", "sanitized"])
def test_host_shim_catches_what_it_should(options, tmp_path):
    need("g++", shutil.which("g++") is not None)
    program = tmp_path / "host_shim_test"
    subprocess.run([*HOST, *options, ROOT / "csrc/tests/host_shim_test.cpp", "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "host_shim_test: 0 failures\n"


@pytest.mark.parametrize("capability", [80, 90])
def test_device_probe_compiles(capability, tmp_path):
    need("nvcc", shutil.which("nvcc") is not None)
    flags = [f"-arch=sm_{capability}", "-std=c++17", "-Werror=all-warnings", f"-I{ROOT}/csrc"]
    subprocess.run(["nvcc", *flags, "-c", f"{ROOT}/csrc/cuda/probe.cu", "-o", tmp_path / "probe.o"], check=True)


@pytest.mark.parametrize("capability", [80, 90])
def test_triton_kernel_compiles(triton_cache, capability):
    assert gpu_probe.triton_usage(capability).endswith(" 0 bytes of stack")


def test_triton_kernel_agrees_with_the_oracle(triton_cache):
    """In a process of its own: Triton chooses its interpreter when a kernel is defined."""
    command = [sys.executable, "-W", "error", "-m", "benchmarks.gpu_probe", "--only-check-top1"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("top1: equals the oracle to the bit")


@pytest.mark.parametrize(
    ("query", "reference", "error", "message"),
    [
        ([[1]], torch.zeros(1, 1, dtype=torch.uint8), TypeError, "^query: want a torch.Tensor, got list"),
        (torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.uint8), ValueError, r"^query: want \(rows, features\) uint8, got "),
        (torch.zeros(1, 2, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.uint8), ValueError, "^query: want 1 features .* got 2"),
        (torch.zeros(1, 1, dtype=torch.uint8), torch.zeros(0, 1, dtype=torch.uint8), ValueError, "^reference: want 1 to .* rows, got 0"),
        (torch.zeros(1, 33026, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.uint8), ValueError, "^query: want 1 to 33025 features"),
    ],
)
def test_top1_refuses_bad_input(triton_cache, query, reference, error, message):
    from biasgen.triton_kernels.top1_int8 import top1

    with pytest.raises(error, match=message):
        top1(query, reference)


@pytest.mark.parametrize("missing", ["nvcc", "g++"])
def test_probe_says_which_tool_is_missing(triton_cache, monkeypatch, missing):
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == missing else f"/usr/bin/{tool}")
    monkeypatch.setattr(sys, "argv", ["gpu_probe.py"])
    with pytest.raises(SystemExit, match=f"^gpu_probe: {missing.replace('+', '.')} is not on PATH$"):
        gpu_probe.main()
