"""Each header of csrc compiles by itself, whatever was included before it. Usage: headers_alone.py

A header that leans on what its users happen to include breaks when they change. A kernel's header
(*-inl.h) is compiled for every instruction set of CMakeLists.txt; what wants nvcc, on the host shim.
"""

import os
import platform
import re
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WANT_NVCC = ("cuda/", "core/launch.h")


def variants(header: str) -> dict[str, list[str]]:
    """Name -> flags of the ways in which `header`, a path below csrc, is compiled."""
    if header.startswith(WANT_NVCC):
        return {"on the host shim": ["-include", f"{ROOT}/csrc/tests/host_shim.h"]}
    if header.startswith("bindings/"):
        return {
            "with Python": [f"-I{path}" for path in (sysconfig.get_path("include"), _pybind11())]
        }
    if not header.endswith("-inl.h"):
        return {"": []}
    sets = re.findall(r"biasgen_isa\((\w+) (-m[^)]*)\)", (ROOT / "CMakeLists.txt").read_text())
    on_x86 = platform.machine() in ("x86_64", "AMD64")
    return {
        f"for {name}": [f"-DBIASGEN_ISA={name}", *flags.split()] for name, flags in sets if on_x86
    } or {"for baseline": ["-DBIASGEN_ISA=baseline"]}


def first_error(csrc: Path, header: str, flags: list[str]) -> str | None:
    """The compiler's first error in a source that includes `header` alone, or None."""
    command = ["c++", "-std=c++17", "-fsyntax-only", "-Wno-psabi", f"-I{csrc}", *flags]
    found = subprocess.run(
        [*command, "-x", "c++", "-"], input=f'#include "{header}"\n', capture_output=True, text=True
    )
    if found.returncode == 0:
        return None
    return next((line for line in found.stderr.splitlines() if "error" in line), found.stderr)


def _pybind11() -> Path:
    import torch  # which brings the headers along

    return Path(torch.__file__).parent / "include"


def main() -> int:
    csrc = ROOT / "csrc"
    headers = sorted(str(path.relative_to(csrc)) for path in csrc.rglob("*.h"))
    cases = [
        (header, name, flags) for header in headers for name, flags in variants(header).items()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = list(pool.map(lambda case: first_error(csrc, case[0], case[2]), cases))
    broken = [
        f"{header} {name}: {error}"
        for (header, name, _), error in zip(cases, errors, strict=True)
        if error
    ]
    print(
        "\n".join(
            [
                *broken,
                f"{len(headers)} headers in {len(cases)} ways, {len(broken)} do not compile alone",
            ]
        )
    )
    return 1 if broken or not headers else 0


if __name__ == "__main__":
    sys.exit(main())
