"""The CUDA tree kernels as a shared library, compiled by nvcc or with the host shim, behind the functions of biasgen._cuda."""
import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [f"{ROOT}/csrc/cuda/{name}.cu" for name in ("tree_posterior", "any_tree")]
HOST = ["g++", "-O1", "-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/csrc"]
ON_SHIM = ["-include", f"{ROOT}/csrc/tests/host_shim.h", f"{ROOT}/csrc/tests/tree_kernels_on_host.cpp", "-x", "c++", *SOURCES]
NVCC = ["nvcc", "-O3", "-std=c++17", "-Werror=all-warnings", "-Xptxas=-v", f"-I{ROOT}/csrc"]
CAPABILITIES = (80, 90)


class _PosteriorCall(ctypes.Structure):
    """TreePosteriorCall of csrc/cuda/tree_posterior.h."""

    _fields_ = [(name, ctypes.c_int64) for name in ("B", "L", "Q", "R", "double_field")] + [
        (name, ctypes.c_void_p)
        for name in ("log_field", "rules", "weights", "rule_lists", "scratch", "marginals", "log_z", "impossible", "refused", "stream")
    ]


class TreeKernels:
    """What biasgen._cuda has for trees, from a shared library."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.tree_posterior_scratch.restype = ctypes.c_int64

    def set_fibre_order(self, order: int) -> None:
        """Order of the threads on the host shim: 0 forward, 1 reversed, from 2 on shuffled with this seed."""
        self._library.set_fibre_order(order)

    def tree_posterior_scratch(self, B: int, L: int, Q: int, rules: np.ndarray, weights: np.ndarray) -> int:
        call = _PosteriorCall(B, L, Q, len(rules), rules=rules.ctypes.data, weights=weights.ctypes.data)
        return self._library.tree_posterior_scratch(ctypes.byref(call))

    def tree_posterior(self, B, L, Q, rules, weights, rule_lists, log_field, double_field, *pointers) -> None:
        head = B, L, Q, len(rules), double_field, log_field, rules.ctypes.data, weights.ctypes.data, rule_lists
        self._launch("launch_tree_posterior", _PosteriorCall(*head, *pointers))

    def _launch(self, name: str, call: ctypes.Structure) -> None:
        launch = getattr(self._library, name)
        launch.restype = ctypes.c_char_p
        error = launch(ctypes.byref(call))
        if error:
            raise ValueError(error.decode())


def host_library(directory: Path) -> TreeKernels:
    """The kernels on the host shim."""
    path = directory / "tree_kernels_on_host.so"
    subprocess.run([*HOST, "-fPIC", "-shared", *ON_SHIM, "-o", path], check=True)
    return TreeKernels(path)


def device_library(directory: Path, capability: int) -> TreeKernels:
    """The kernels for this GPU."""
    path = directory / "tree_kernels.so"
    subprocess.run([*NVCC, f"-arch=sm_{capability}", "-Xcompiler=-fPIC", "-shared", *SOURCES, "-o", path], check=True, capture_output=True)
    return TreeKernels(path)


def resources(directory: Path, sources: list[str] = SOURCES) -> dict[tuple[str, int], tuple[int, int]]:
    """{(kernel and field type, compute capability): (registers, bytes spilled)} as ptxas tells them."""
    targets = [option for c in CAPABILITIES for option in ("-gencode", f"arch=compute_{c},code=sm_{c}")]
    found = {}
    for source in sources:
        command = [*NVCC, *targets, "-fatbin", source, "-o", str(directory / "kernel.fatbin")]
        log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        kernel = r"entry function '\S*?\d([a-z][a-z_]*_kernel)(?:I([fd])E)?\S*' for 'sm_(\d+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers"
        for name, letter, capability, spilled, registers in re.findall(kernel, log, re.DOTALL):
            field = {"f": ", float32", "d": ", float64", "": ""}[letter]
            found[name + field, int(capability)] = int(registers), int(spilled)
    return found
