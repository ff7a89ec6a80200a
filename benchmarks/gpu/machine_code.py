"""SASS and registers of every kernel for the device that is here, by the compilers that are here.

python -m benchmarks.gpu.machine_code; the SASS goes to details.zip of gpu-check's folder.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.folder import Folder
from benchmarks.tree_kernels import CAPABILITIES

WORKERS = 8


class Code(NamedTuple):
    """Of a kernel: registers a thread, bytes of stack, SASS."""

    registers: int
    stack: int
    sass: str


def said(*command: object) -> str:
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout


def dump(cubin: bytes, cuobjdump: str) -> Code:
    """Of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = said(cuobjdump, "-res-usage", file.name)
        registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
        return Code(registers, stack, said(cuobjdump, "-sass", file.name))


def bundled() -> str:
    """The cuobjdump that comes with Triton."""
    from triton import __file__ as package

    return str(Path(package).parent / "backends/nvidia/bin/cuobjdump")


def of_triton(name: str, capability: int) -> Code:
    """Of a kernel of triton_kernels/ahead_of_time.py."""
    from biasgen.triton_kernels.ahead_of_time import compile_for

    return dump(compile_for(name, capability).asm["cubin"], bundled())


def triton(folder: Folder, names: Sequence[str], code_of: Callable[[str], Code], every=map) -> None:
    """Registers as measurements, SASS as texts. every: map, or that of a pool of processes."""
    texts = {}
    for name, code in zip(names, every(code_of, names), strict=True):
        fields = {
            "value": code.registers,
            "unit": "registers",
            "note": f"{code.stack} bytes of stack",
        }
        folder.once(f"registers of {name}", lambda fields=fields: fields)
        texts[f"sass/{re.sub('[^a-z0-9]+', '-', name.lower())}.txt"] = code.sass
    folder.keep(texts)


def cuda(folder: Folder, library: Path, cuobjdump: str, capability: int) -> str:
    """SASS and the use of registers of biasgen._cuda, as two texts."""
    built = max(number for number in CAPABILITIES if number <= capability)  # what the device runs
    texts = {}
    for what in ("sass", "res-usage"):
        texts[f"sass/cuda-{what}.txt"] = said(cuobjdump, f"-arch=sm_{built}", f"-{what}", library)
    assert "Function" in texts["sass/cuda-sass.txt"], f"{library.name} has no code for sm_{built}"
    folder.keep(texts)
    return f"details.zip: {', '.join(texts)}"


def main() -> None:
    import torch

    from biasgen import _cuda
    from biasgen.triton_kernels.ahead_of_time import kernels

    folder = Folder.of_step()
    major, minor = torch.cuda.get_device_capability()
    capability, library = 10 * major + minor, Path(_cuda.__file__)
    folder.once("SASS of the CUDA module", lambda: cuda(folder, library, bundled(), capability))
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        compiled = partial(of_triton, capability=capability)
        work = partial(triton, folder, list(kernels()), compiled, pool.map)
        folder.once("SASS of Triton", work)
    sys.exit(folder.failures > 0)


if __name__ == "__main__":
    main()
