"""The CUDA tree kernels as a shared library, compiled by nvcc or with the host shim, behind the functions of biasgen._cuda."""
import ctypes
import re
import subprocess
from pathlib import Path

from biasgen.ops.tree import Arrays

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [f"{ROOT}/csrc/cuda/{name}.cu" for name in ("tree_posterior", "any_tree", "tree_trajectory", "tree_sample")]
HOST = ["g++", "-O1", "-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/csrc"]
TEST = f"{ROOT}/csrc/tests/tree_kernels_test.cpp"
_SHIM = ["-include", f"{ROOT}/csrc/tests/host_shim.h"]
ON_SHIM = [*_SHIM, f"{ROOT}/csrc/tests/tree_kernels_on_host.cpp", "-x", "c++", *SOURCES]
NVCC = ["nvcc", "-O3", "-std=c++17", "-Werror=all-warnings", "-Xptxas=-v", f"-I{ROOT}/csrc"]
CAPABILITIES = (80, 90)
_RESOURCES = (   # in ptxas's words: kernel, field type, whether it draws strings, compute capability, stack, spills, registers
    r"entry function '\S*?\d([a-z][a-z_]*_kernel)(?:I([fd])(?:Lb([01])E)?E)?\S*' for 'sm_(\d+)'"
    r".*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers"
)


def _call(name: str, **fields: str) -> type[ctypes.Structure]:
    """A struct of csrc/cuda: names by type, in order."""
    types = {"numbers": ctypes.c_int64, "words": ctypes.c_uint64, "reals": ctypes.c_double, "pointers": ctypes.c_void_p}
    listed = [(field, types[kind.split("_")[0]]) for kind, names in fields.items() for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": listed})


PosteriorCall = _call(
    "PosteriorCall",
    numbers="B L Q R double_field",
    pointers="log_field rules weights rule_lists scratch marginals log_z impossible refused",
    numbers_2="draws",
    words="seed",
    pointers_2="strings stream",
)
TrajectoryCall = _call(
    "TrajectoryCall",
    numbers="B R steps",
    words="seed offset",
    pointers="rules weights levels x tokens",
    reals="start_scale start_sigma",
    numbers_2="start_step start_purpose",
    pointers_2="noise end strings x0_hat score log_density refused stream",
)
SampleCall = _call("SampleCall", numbers="n L Q", words="seed offset", pointers="begin children cumulative strings stream")


class TreeKernels:
    """What biasgen._cuda has for trees, from a shared library."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.tree_posterior_scratch.restype = ctypes.c_int64
        for name in ("posterior", "trajectory", "sample"):
            getattr(self._library, f"launch_tree_{name}").restype = ctypes.c_char_p

    def set_fibre_order(self, order: int) -> None:
        """Order of the threads on the host shim: 0 forward, 1 reversed, from 2 on shuffled with this seed."""
        self._library.set_fibre_order(order)

    def tree_posterior_scratch(self, B: int, L: int, Q: int, grammar: Arrays, strings: int) -> int:
        rules, weights = grammar.rules.ctypes.data, grammar.weights.ctypes.data
        call = PosteriorCall(
            B, L, Q, len(grammar.rules), rules=rules, weights=weights, strings=strings
        )
        return self._library.tree_posterior_scratch(ctypes.byref(call))

    def tree_posterior(
        self, B, L, Q, grammar, rule_lists, log_field, double_field, *others
    ) -> None:
        rules, weights = grammar.rules.ctypes.data, grammar.weights.ctypes.data
        head = B, L, Q, len(grammar.rules), double_field, log_field, rules, weights, rule_lists
        self._launch("launch_tree_posterior", PosteriorCall(*head, *others))

    def tree_trajectory(self, B, steps, seed, offset, grammar, *others) -> None:
        head = (
            B,
            len(grammar.rules),
            steps,
            seed,
            offset,
            grammar.rules.ctypes.data,
            grammar.weights.ctypes.data,
        )
        self._launch("launch_tree_trajectory", TrajectoryCall(*head, *others))

    def tree_sample(self, *call) -> None:
        self._launch("launch_tree_sample", SampleCall(*call))

    def _launch(self, name: str, call: ctypes.Structure) -> None:
        error = getattr(self._library, name)(ctypes.byref(call))
        if error:
            raise RuntimeError(error.decode())


def host_library(directory: Path, *options: str) -> Path:
    """Compiles the kernels on the host shim; returns the library."""
    path = directory / "tree_kernels_on_host.so"
    subprocess.run([*HOST, *options, "-fPIC", "-shared", *ON_SHIM, "-o", path], check=True)
    return path


def device_library(directory: Path, capability: int) -> Path:
    """Compiles the kernels for a GPU; returns the library."""
    path = directory / "tree_kernels.so"
    subprocess.run([*NVCC, f"-arch=sm_{capability}", "-Xcompiler=-fPIC", "-shared", *SOURCES, "-o", path], check=True, capture_output=True)
    return path


def host_test(directory: Path, *options: str) -> Path:
    """Compiles the test program of the kernels on the host shim; its argument is the order of the threads."""
    path = directory / "tree_kernels_test_on_host"
    subprocess.run([*HOST, *options, *_SHIM, TEST, "-x", "c++", *SOURCES, "-o", path], check=True)
    return path


def device_test(directory: Path, capability: int) -> Path:
    """Compiles the same for a GPU, with line numbers for compute-sanitizer."""
    path = directory / "tree_kernels_test"
    options = [f"-arch=sm_{capability}", "-lineinfo", "-x", "cu", TEST, *SOURCES, "-o", path]
    subprocess.run([*NVCC, *options], check=True, capture_output=True)
    return path


def nvcc_version() -> str:
    """Of the compiler on PATH, "nvcc 13.0.88"."""
    said = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    return "nvcc " + re.search(r"V([0-9.]+)", said)[1]


def resources(directory: Path, sources: list[str] = SOURCES) -> dict[tuple[str, int], tuple[int, int, int]]:
    """{(kernel and field type, compute capability): (registers, bytes of stack, bytes spilled)} as ptxas tells them."""
    targets = [option for c in CAPABILITIES for option in ("-gencode", f"arch=compute_{c},code=sm_{c}")]
    found = {}
    for source in sources:
        command = [*NVCC, *targets, "-fatbin", source, "-o", str(directory / "kernel.fatbin")]
        log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        for name, field, draw, capability, stack, spilled, registers in re.findall(_RESOURCES, log, re.DOTALL):
            kind = {"f": ", float32", "d": ", float64", "": ""}[field] + (", strings" if draw == "1" else "")
            found[name + kind, int(capability)] = int(registers), int(stack), int(spilled)
    return found
