"""Loads peak.cpp: what one core can do at most of a few instructions, measured beside the kernels that are made of them."""
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


def token_pairs(rounds: int = ROUNDS // 4) -> None:
    """12 * 32 pairs of rows of 16 symbols of 3 bits a round, of five instructions for 32."""
    library().token_pairs(ctypes.c_int64(rounds))
