"""compute-sanitizer on every CUDA kernel, in csrc/tests/tree_kernels_test.cpp.

python -m benchmarks.gpu.sanitizer
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import tree_kernels
from benchmarks.gpu.folder import Folder

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
NOT_HERE = "Device not supported"  # said in some virtual machines, where the program itself runs


def find(nvcc: str | None) -> str | None:
    """The tool, on PATH or where a toolkit has it."""
    folder = Path(nvcc).resolve().parent if nvcc else Path("/usr/local/cuda/bin")
    places = (
        shutil.which("compute-sanitizer"),
        folder / "compute-sanitizer",
        folder.parent / "compute-sanitizer/compute-sanitizer",
    )
    return next((str(place) for place in places if place and Path(place).is_file()), None)


def check(folder: Folder, program: Path, tool: str | None) -> None:
    """Run the program by itself, then under every tool, and print the last line of each."""
    folder.once("alone", lambda: _run([program]))
    if tool is None:
        print("compute-sanitizer is not on this machine: only the program itself ran")
        return
    for name in TOOLS:
        command = [tool, "--tool", name, "--error-exitcode", "9", program]
        folder.once(name, lambda command=command: _run(command))


def _run(command: list) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if NOT_HERE in said:
        return f"cannot run here ({NOT_HERE})"
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command))}: exit status {done.returncode}\n{said[-4000:]}"
        )
    return said.strip().splitlines()[-1]


def main() -> None:
    import torch

    folder = Folder.of_step()
    major, minor = torch.cuda.get_device_capability()
    with tempfile.TemporaryDirectory() as directory:
        program = tree_kernels.device_test(Path(directory), 10 * major + minor)
        check(folder, program, find(shutil.which("nvcc")))
    sys.exit(folder.failures > 0)


if __name__ == "__main__":
    main()
