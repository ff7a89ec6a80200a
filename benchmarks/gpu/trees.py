"""Every CUDA tree kernel on the device against its oracle. python -m benchmarks.gpu.trees

Of its 20 s in check.py 4.6 s are the oracle of 512 samples on one core: the time of these checks
on the host shim less that in kernels (AMD EPYC with AVX-512, OMP_NUM_THREADS=1, 2026-11-25). The
others are a guess for imports, the start of a device and the kernels.
"""

import sys

from benchmarks import tree_checks
from benchmarks.gpu.folder import Folder

SAMPLES = 512


def check_probe(native) -> None:
    """The build can use this machine's device."""
    why = native.probe()
    assert why is None, why


def run(folder: Folder, native, device: str, n: int = SAMPLES) -> None:
    folder.once("probe", lambda: check_probe(native))
    for name, check in tree_checks.checks(native, device, n).items():
        folder.once(name, check)


def main() -> None:
    from biasgen import _cuda

    folder = Folder.of_step()
    run(folder, _cuda, "cuda")
    sys.exit(folder.failures > 0)


if __name__ == "__main__":
    main()
