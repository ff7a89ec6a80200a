"""Registers, stack and spills of every GPU kernel: docs/gpu_registers.md, which `make gpu-registers` writes. Wants no GPU."""
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks import tree_kernels

PAGE = Path(__file__).resolve().parents[2] / "docs/gpu_registers.md"
CAPABILITIES = tree_kernels.CAPABILITIES
MOST_STACK = {80: 80, 90: 0}   # bytes that a Triton kernel may put there: 80 for blocks of 128 x 128, which are timed before use


class Usage(NamedTuple):
    """Of a thread: registers, bytes of stack, bytes of spill stores (of a Triton kernel they are part of the stack)."""

    registers: int
    stack: int
    spilled: int


Table = dict[tuple[str, int], Usage]   # by kernel and compute capability


def cuda() -> Table:
    """As ptxas tells them."""
    with tempfile.TemporaryDirectory() as directory:
        return {(f"CUDA: {name}", at): Usage(*numbers) for (name, at), numbers in tree_kernels.resources(Path(directory)).items()}


def triton(names: Iterable[str] | None = None) -> Table:
    """As cuobjdump tells them, of the kernels in biasgen/triton_kernels/ahead_of_time.py."""
    from triton import __file__ as package

    from biasgen.triton_kernels.ahead_of_time import compile_for, kernels

    cuobjdump = Path(package).parent / "backends/nvidia/bin/cuobjdump"
    found = {}
    for name in names or kernels():
        for capability in CAPABILITIES:
            with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
                cubin.write(compile_for(name, capability).asm["cubin"])
                cubin.flush()
                log = subprocess.run([cuobjdump, "-res-usage", cubin.name], check=True, capture_output=True, text=True).stdout
            registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", log).groups())
            found[f"Triton: {name}", capability] = Usage(registers, stack, 0)
    return found


def versions() -> str:
    """Of both compilers, to the patch."""
    import triton

    return f"{tree_kernels.nvcc_version()}, Triton {triton.__version__}"


def faults(table: Table) -> list[str]:
    """What may not be: a spilling CUDA kernel, a Triton kernel with more stack than MOST_STACK."""
    most = {name: MOST_STACK if name.startswith("Triton") else dict.fromkeys(CAPABILITIES, 0) for name, _ in table}
    return [
        f"{name}, sm_{at}: {usage.stack} bytes of stack, {usage.spilled} spilled; want {most[name][at]} at most"
        for (name, at), usage in table.items() if max(usage.stack, usage.spilled) > most[name][at]
    ]


def page(table: Table, compilers: str) -> str:
    """The text of the page."""
    names = dict.fromkeys(name for name, _ in table)
    lines = [
        "# Registers, stack and spills of the GPU kernels", "",
        f"Written by `make gpu-registers`, not by hand. Compiled by {compilers}; nothing ran. Of a thread: registers /",
        "bytes of stack / bytes of spill stores (of a Triton kernel they are part of the stack). tests/test_gpu_registers.py compiles all",
        "of them again where both compilers are.", "",
        "| kernel | " + " | ".join(f"sm_{at}" for at in CAPABILITIES) + " |", "|---" * (1 + len(CAPABILITIES)) + "|",
    ]
    lines += [f"| {name} | " + " | ".join(" / ".join(map(str, table[name, at])) for at in CAPABILITIES) + " |" for name in names]
    return "\n".join(lines) + "\n"


def read(text: str) -> tuple[Table, str]:
    """The table of a page, and its compilers."""
    table = {}
    for line in text.splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if name.startswith(("CUDA: ", "Triton: ")):
            table |= {(name, at): Usage(*map(int, cell.split(" / "))) for at, cell in zip(CAPABILITIES, cells, strict=True)}
    return table, re.search(r"Compiled by (.*?); nothing ran", text)[1]


def main() -> None:
    table = cuda() | triton()
    wrong = faults(table)
    if wrong:
        sys.exit("\n".join(f"gpu-registers: {fault}" for fault in wrong))
    PAGE.write_text(page(table, versions()))
    print(f"wrote {PAGE.name}: {len(table)} kernels")


if __name__ == "__main__":
    main()
