"""Objects of one instruction set keep to themselves, also without optimization. Usage: isa_objects.py COMPILE_COMMANDS

A function that the linker may merge (a weak symbol) would be taken from any object, and then run AVX-512 on a machine without it. A static
initializer runs before anybody asked which instructions there are. So each object defines, for others, functions of its own namespace
biasgen::<set>:: and nothing else. COMPILE_COMMANDS: compile_commands.json of CMake; every file of a set is compiled as there, and at -O0.
"""
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

SETS = ("baseline", "avx2", "avx512")
INITIALIZERS = re.compile(r"^\.(init_array|ctors|preinit_array|init)\b")


def breaches(path: str | Path, isa: str) -> list[str]:
    """What is wrong with the object file: one sentence a symbol or section."""
    found = []
    for line in _output("nm", "--demangle", "--defined-only", str(path)).splitlines():
        _, kind, name = line.split(maxsplit=2)
        if kind in "WwVvuU":
            found.append(f"{name}: a weak symbol, which the linker may merge with others")
        elif "_GLOBAL__sub_I" in name:
            found.append(f"{name}: a static initializer")
        elif kind.isupper() and not name.startswith(f"biasgen::{isa}::"):
            found.append(f"{name}: visible outside, and not in biasgen::{isa}")
    for line in _output("objdump", "--section-headers", str(path)).splitlines():
        fields = line.split()
        if len(fields) > 2 and INITIALIZERS.match(fields[1]):
            found.append(f"{fields[1]}: a section of static initializers")
    return found


def functions(path: str | Path) -> int:
    """Number of functions that others may call."""
    return sum(line.split()[1] == "T" for line in _output("nm", "--defined-only", str(path)).splitlines())


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(commands: str) -> int:
    checked = wrong = 0
    for entry in json.loads(Path(commands).read_text()):
        isa = Path(entry["file"]).stem.rpartition("_")[2]
        if isa not in SETS:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for level in ((), ("-O0",)):
                target = f"{folder}/kernel.o"
                command = shlex.split(entry["command"])
                command[command.index("-o") + 1] = target
                subprocess.run([*command, *level], check=True, cwd=entry["directory"])
                found = breaches(target, isa)
                if not functions(target):
                    found.append("no function is visible: was anything compiled?")
                for sentence in found:
                    print(f"{Path(entry['file']).name} {' '.join(level)}: {sentence}")
                checked, wrong = checked + 1, wrong + bool(found)
    print(f"ISA objects: {checked} checked (as built, and at -O0), {wrong} with symbols that leave them")
    return int(wrong > 0 or not checked)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
