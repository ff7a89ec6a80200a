"""Loads peak.cpp: what one core can do at most of one instruction, measured beside the kernels that are made of it."""
import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from biasgen.backends import cpu_backend

ROUNDS = 4_000_000  # about 10 ms


@cache
def library() -> ctypes.CDLL | None:
    """The loops, compiled once; None without a compiler or AVX-512."""
    if cpu_backend.probe() or cpu_backend.isa() != "avx512" or shutil.which("c++") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(__file__).with_suffix(".cpp"), f"{folder}/peak.so"
        subprocess.run(["c++", "-O2", "-shared", "-fPIC", "-mavx512f", str(source), "-o", library], check=True)
        return ctypes.CDLL(library)


def byte_products(rounds: int = ROUNDS) -> None:
    """12 * 128 operations (64 multiplications and additions each) a round."""
    library().byte_products(ctypes.c_int64(rounds))
