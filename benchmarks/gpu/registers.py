"""Registers, stack and spills of every GPU kernel: docs/gpu_registers.md, which
`make gpu-registers` writes, one table for each compiler. Wants no GPU."""
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


def faults(table: Table) -> list[str]:
    """What may not be: a spilling CUDA kernel, a Triton kernel with more stack than MOST_STACK."""
    most = {name: MOST_STACK if name.startswith("Triton") else dict.fromkeys(CAPABILITIES, 0) for name, _ in table}
    return [
        f"{name}, sm_{at}: {usage.stack} bytes of stack, {usage.spilled} spilled; want {most[name][at]} at most"
        for (name, at), usage in table.items() if max(usage.stack, usage.spilled) > most[name][at]
    ]


def page(tables: dict[str, Table]) -> str:
    """The text of the page: a table for each compiler, by its name."""
    lines = [
        "# Registers, stack and spills of the GPU kernels", "",
        "Written by `make gpu-registers`, not by hand; nothing ran. Compilers differ, and each has its",
        "own table. Of a thread: registers / bytes of stack / bytes of spill stores (of a Triton kernel",
        "they are part of the stack). tests/test_gpu_registers.py compiles all kernels with the",
        "compilers that are installed and compares. With another version of Triton:", "",
        "```sh",
        "pip install --no-deps --target DIR triton==3.6.0",
        "PYTHONPATH=DIR TRITON_CACHE_DIR=DIR/cache make gpu-registers",
        "```",
    ]  # fmt: skip
    heads = " | ".join(f"sm_{at}" for at in CAPABILITIES)
    for compiler, table in sorted(tables.items()):
        lines += ["", f"## {compiler}", "", f"| kernel | {heads} |"]
        lines += ["|---" * (1 + len(CAPABILITIES)) + "|"]
        for name in dict.fromkeys(name for name, _ in table):
            cells = (" / ".join(map(str, table[name, at])) for at in CAPABILITIES)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def read(text: str) -> dict[str, Table]:
    """The tables of a page, by compiler."""
    tables = {}
    for line in text.splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if line.startswith("## "):
            table = tables[line.removeprefix("## ")] = {}
        elif name.startswith(("CUDA: ", "Triton: ")):
            usages = (Usage(*map(int, cell.split(" / "))) for cell in cells)
            table |= {(name, at): usage for at, usage in zip(CAPABILITIES, usages, strict=True)}
    return tables


def main() -> None:
    from triton import __version__ as version

    found = {tree_kernels.nvcc_version(): cuda(), f"Triton {version}": triton()}
    wrong = [fault for table in found.values() for fault in faults(table)]
    if wrong:
        sys.exit("\n".join(f"gpu-registers: {fault}" for fault in wrong))
    kept = read(PAGE.read_text()) if PAGE.exists() else {}
    others = {name: table for name, table in kept.items() if name.startswith("Triton ")}
    PAGE.write_text(page(others | found))
    for name, table in others.items():
        if table.keys() != found[f"Triton {version}"].keys():
            print(f"{PAGE.name}: {name} has other kernels; compile them with that version, too")
    print(f"wrote {PAGE.name}: {', '.join(found)}")


if __name__ == "__main__":
    main()
