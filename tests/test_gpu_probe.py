"""The GPU probe without a GPU: the host shim's own test, the device probe, missing tools."""
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_probe
from benchmarks.tree_kernels import HOST
from biasgen import _settings

ROOT = Path(__file__).resolve().parents[1]
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fsanitize-sections=biasgen_shared", "-fno-sanitize-recover=all"]


def need(tool: str, present: bool) -> None:
    """Skips where a tool is missing; fails where BIASGEN_REQUIRE_BACKENDS asks for it."""
    if not present:
        (pytest.fail if tool in _settings.required_backends() else pytest.skip)(f"{tool} is not installed here")


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


@pytest.mark.parametrize("missing", ["nvcc", "g++"])
def test_probe_says_which_tool_is_missing(monkeypatch, missing):
    need("triton", importlib.util.find_spec("triton") is not None)
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == missing else f"/usr/bin/{tool}")
    monkeypatch.setattr(sys, "argv", ["gpu_probe.py"])
    with pytest.raises(SystemExit, match=f"^gpu_probe: {missing.replace('+', '.')} is not on PATH$"):
        gpu_probe.main()
