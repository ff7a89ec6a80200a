"""make gpu-probe: runs the GPU kernels against their oracles and the device's ceilings; without a GPU, compiles and emulates them.

Result on stdout, progress on stderr; with a GPU also one JSON line a measurement in benchmarks/results/<date>-<device>.jsonl.
"""
import argparse
import ctypes
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from biasgen.oracle.tree_posterior import tree_posterior
from biasgen.results import TreePosterior
from biasgen.trees.grammar import TreeGrammar

ROOT = Path(__file__).resolve().parents[1]
NVCC = ["nvcc", "-O3", "-std=c++17", "-Werror=all-warnings", "-Xptxas=-v", f"-I{ROOT}/csrc", f"{ROOT}/csrc/cuda/tree_posterior.cu"]
HOST = ["g++", "-O1", "-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/csrc"]
CAPABILITIES = (80, 90)
STACK = {80: 80, 90: 0}   # bytes a thread that a Triton kernel may put there: 80 for blocks of 128 x 128, which are timed before use
SEARCH_N, SEARCH_M = 33_792, 131_072   # two tiles for each of 132 multiprocessors
SEARCHED = {   # features, k, distance, element type
    "nearest 1": (3072, 1, "sqeuclidean", "uint8"),
    "nearest 16": (3072, 16, "sqeuclidean", "uint8"),
    "nearest 64": (3072, 64, "sqeuclidean", "uint8"),
    "nearest 1, D = 64": (64, 1, "sqeuclidean", "uint8"),
    "nearest 1, tokens": (16, 1, "hamming", "uint8"),
    "nearest 1, float32": (3072, 1, "sqeuclidean", "float32"),
    "nearest 1, float32, cosine": (3072, 1, "cosine", "float32"),
}
SYMBOLS = 6
TREE_B, TREE_BYTES = 2**22, 768                  # bytes a sample that must move: 96 float32 in, 96 out


class TreeKernel:
    """launch_tree_posterior of a shared library: compiled by nvcc (tensors on the GPU) or with the host shim (tensors on the CPU)."""

    def __init__(self, library: Path):
        self.library = ctypes.CDLL(str(library))
        self.launch = self.library.launch_tree_posterior
        self.launch.restype = ctypes.c_char_p
        self.launch.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] + [ctypes.c_void_p] * 4
        self.grammar = TreeGrammar.random(q=6, depth=4, q_eff=4, sigma=1.0, seed=0)
        self.rules = np.ascontiguousarray(self.grammar.rules, dtype=np.int16)

    def __call__(self, log_field: torch.Tensor) -> TreePosterior:
        B, device = len(log_field), log_field.device
        marginals = torch.empty_like(log_field)
        log_z = torch.empty(B, dtype=torch.float64, device=device)
        impossible = torch.empty(B, dtype=torch.uint8, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
        error = self.launch(
            log_field.data_ptr(), self.rules.ctypes.data, self.grammar.weights.ctypes.data, B,
            marginals.data_ptr(), log_z.data_ptr(), impossible.data_ptr(), stream,
        )
        if error:
            raise RuntimeError(error.decode())
        return TreePosterior(marginals, log_z, impossible.bool())


def host_library(directory: Path) -> Path:
    """The kernel on the host shim, as a shared library; `set_fibre_order(order)` chooses the order of the threads."""
    library = directory / "tree_posterior_on_host.so"
    subprocess.run([*HOST, "-fPIC", "-shared", f"{ROOT}/csrc/tests/tree_posterior_on_host.cpp", "-o", library], check=True)
    return library


def nvcc(capability: int, *options: str) -> str:
    """Compiles the kernel; returns registers and spills as ptxas tells them."""
    log = subprocess.run([*NVCC, f"-arch=sm_{capability}", *options], check=True, capture_output=True, text=True).stderr
    spilled, registers = re.search(r"(\d+) bytes spill stores.*?Used (\d+) registers", log, re.DOTALL).groups()
    return f"{registers} registers, {spilled} bytes spilled"


def triton_usage(name: str, capability: int) -> tuple[int, int]:
    """Compiles a Triton kernel; returns registers and bytes of stack as cuobjdump tells them. Stops where it spills beyond STACK."""
    import triton

    from biasgen.triton_kernels.ahead_of_time import compile_for

    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compile_for(name, capability).asm["cubin"])
        cubin.flush()
        log = subprocess.run([cuobjdump, "-res-usage", cubin.name], check=True, capture_output=True, text=True).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", log).groups())
    if stack > STACK[capability]:
        raise SystemExit(f"gpu_probe: {name}: {stack} bytes of stack on sm_{capability}, want {STACK[capability]} at most")
    return registers, stack


def triton_table() -> None:
    """Registers and stack of every Triton kernel, on every capability."""
    from biasgen.triton_kernels.ahead_of_time import kernels

    say(f"compiling {len(kernels())} Triton kernels for {', '.join(f'sm_{capability}' for capability in CAPABILITIES)}")
    for name in kernels():
        usage = (triton_usage(name, capability) for capability in CAPABILITIES)
        cells = (f"sm_{capability} {registers:3} registers, {stack:2} bytes of stack" for capability, (registers, stack) in
                 zip(CAPABILITIES, usage, strict=True))
        print(f"{name:45} {'   '.join(cells)}", flush=True)


def check_triton(interpret: bool) -> None:
    """Stops unless the Triton searches equal the oracle to the bit: interpreted, or compiled on this machine's GPU."""
    say("running the Triton kernels " + ("in the interpreter" if interpret else "on the device"))
    command = [sys.executable, "-m", "pytest", "-q", "tests/interpreted/triton_search.py"]
    subprocess.run(command, check=True, env=os.environ | {"TRITON_INTERPRET": str(int(interpret))}, cwd=ROOT)


def fields(grammar: TreeGrammar, B: int, strength: float) -> dict[str, np.ndarray]:
    """(B, 16, 6) float32 evidence for grammatical strings, for random ones, random numbers, and with most symbols excluded."""
    random = np.random.default_rng(B)
    one_hot = np.eye(6, dtype=np.float32)
    strings = grammar.sample(B, seed=B)
    normal = np.float32(strength) * np.clip(random.standard_normal((B, 16, 6)), -1, 1).astype(np.float32)
    excluded = np.where(one_hot[strings] + (random.random((B, 16, 6)) < 0.3) > 0, normal, -np.inf)
    return {
        "grammatical": strength * one_hot[strings],
        "ungrammatical": strength * one_hot[random.integers(0, 6, (B, 16))],
        "normal": normal,
        "excluded": excluded.astype(np.float32),
        "impossible": np.where(one_hot[np.zeros((B, 16), int)] > 0, 0, -np.inf).astype(np.float32),   # (0, 0) has no parent
    }


def tree_error(kernel: TreeKernel, log_field: np.ndarray, device: str) -> float:
    """Worst error in units of what docs/exactness.md promises: 1e-5 relative (entries above 1e-30), log_z 1e-5 + 1e-7 |log_z|."""
    got = kernel(torch.from_numpy(log_field).to(device))
    p, log_p, impossible = tree_posterior(log_field, kernel.grammar.rules, kernel.grammar.weights)
    q, log_q = got.marginals.double().cpu().numpy(), got.log_z.cpu().numpy()
    if not np.array_equal(got.impossible.cpu().numpy(), impossible) or np.isnan(q).any():
        return np.inf
    if q[impossible].any() or (log_q[impossible] != -np.inf).any():
        return np.inf
    marginal = np.abs(q - p) / np.maximum(p, 1e-30)
    log_q, log_p = log_q[~impossible], log_p[~impossible]
    return float(max(marginal.max() / 1e-5, (np.abs(log_q - log_p) / (1e-5 + 1e-7 * np.abs(log_p))).max(initial=0.0)))


def check_tree(kernel: TreeKernel, device: str, B: int) -> None:
    """Stops unless every kind of evidence at every strength keeps the promise."""
    worst = 0.0
    for strength in (0.1, 10.0, 1000.0, 1e4):
        for kind, log_field in fields(kernel.grammar, B, strength).items():
            error = tree_error(kernel, log_field, device)
            if not error <= 1:
                raise SystemExit(f"gpu_probe: tree posterior: {kind} field of {strength}: {error:.3g} times the promised error")
            worst = max(worst, error)
    print(f"tree posterior: agrees with the oracle, worst error {worst:.3f} of what is promised ({device})")


def without_gpu(directory: Path) -> None:
    """Everything that can be done with compilers alone."""
    triton_table()
    for capability in CAPABILITIES:
        say(f"compiling for sm_{capability}")
        print(f"tree posterior, nvcc, sm_{capability}: {nvcc(capability, '-cubin', '-o', str(directory / 'tree.cubin'))}")
    check_triton(interpret=True)
    say("running the CUDA kernel on the host shim")
    kernel = TreeKernel(host_library(directory))
    for order in range(3):
        kernel.library.set_fibre_order(order)
        check_tree(kernel, "cpu", 37)
    print("no GPU on this machine: all kernels were compiled and emulated, nothing ran on a device")


def milliseconds(work: Callable[[], object], repeats: int = 15) -> float:
    """Median time of one call by CUDA events, after a warm-up."""
    times = []
    for i in range(repeats + 3):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        if i >= 3:
            times.append(start.elapsed_time(stop))
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """What torch reaches on this device: copy in GB/s (read + written), matrix products in T operations/s."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    x, y = (torch.randint(-128, 128, (n, n), device="cuda", dtype=torch.int8) for _ in range(2))
    return {
        "copy GB/s": 2 * source.numel() / milliseconds(lambda: target.copy_(source)) / 1e6,
        "bf16 matmul TFLOP/s": 2 * n**3 / milliseconds(lambda: a @ b) / 1e9,
        "_int_mm TOP/s": 2 * n**3 / milliseconds(lambda: torch._int_mm(x, y.t())) / 1e9,
    }


def time_searches() -> dict[str, float]:
    """T operations/s of biasgen.knn on prepared rows, two a feature of a pair, and of what a torch user would write: chunks of
    torch._int_mm, then min (uint8), or of a float32 product, then min."""
    from biasgen import knn
    from biasgen.data.training_set import TrainingSet

    rates = {}
    for name, (D, k, distance, dtype) in SEARCHED.items():
        say(f"timing {name}")
        levels = SYMBOLS if distance == "hamming" else 256
        query, reference = (torch.randint(0, levels, (rows, D), device="cuda", dtype=torch.uint8) for rows in (SEARCH_N, SEARCH_M))
        if dtype == "float32":
            query, reference = (rows / 255 + 0.1 * torch.randn(rows.shape, device="cuda") for rows in (query, reference))
        prepared = TrainingSet(reference, distance)
        found, right = knn(query, prepared, k, backend="triton"), knn(query[:64], prepared, k, backend="torch")
        if not (torch.equal(found.distances[:64], right.distances) and torch.equal(found.indices[:64], right.indices)):
            raise SystemExit(f"gpu_probe: {name}: differs from the torch backend")
        work = 2 * SEARCH_N * SEARCH_M * D / 1e9
        rates[f"{name} TOP/s"] = work / milliseconds(partial(knn, query, prepared, k, backend="triton"), 5)
        if k == 1 and distance == "sqeuclidean":
            rates[f"{name}, torch TOP/s"] = work / milliseconds(partial(torch_nearest, query, reference), 5)
    return rates


def torch_nearest(query: torch.Tensor, reference: torch.Tensor, chunk: int = 4096) -> torch.Tensor:
    """Nearest rows in chunks of queries: exact integers for uint8 rows, rounded in float32 else."""
    if query.dtype == torch.uint8:
        query, reference = ((rows ^ 128).view(torch.int8) for rows in (query, reference))
        product, norms = torch._int_mm, reference.int().square().sum(1, dtype=torch.int32)
    else:
        product, norms = torch.mm, reference.square().sum(1)
    return torch.cat([(norms - 2 * product(part, reference.T)).min(1).indices for part in query.split(chunk)])


def on_gpu(directory: Path) -> None:
    """Checks and measures; writes the records."""
    properties = torch.cuda.get_device_properties(0)
    import triton

    about = {
        "date": datetime.date.today().isoformat(),
        "device": properties.name,
        "driver": command_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "nvcc": command_output("nvcc", "--version").split("release ")[1].split(",")[0],
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    say("measuring ceilings")
    values = ceilings()
    check_triton(interpret=False)
    values |= time_searches()
    say("compiling the CUDA kernel")
    library = directory / "tree_posterior.so"
    capability = properties.major * 10 + properties.minor
    print(f"tree posterior, nvcc, sm_{capability}: {nvcc(capability, '-Xcompiler=-fPIC', '-shared', '-o', str(library))}")
    kernel = TreeKernel(library)
    check_tree(kernel, "cuda", 4096)
    say("timing the tree posterior")
    log_field = torch.randn(TREE_B, 16, 6, device="cuda") * 10
    values["tree posterior GB/s"] = TREE_B * TREE_BYTES / milliseconds(lambda: kernel(log_field)) / 1e6
    shares = {f"{name} TOP/s": f"{name}, torch TOP/s" for name in SEARCHED if f"{name}, torch TOP/s" in values}
    shares |= {"nearest 16 TOP/s": "nearest 1 TOP/s", "nearest 64 TOP/s": "nearest 1 TOP/s", "nearest 1, torch TOP/s": "_int_mm TOP/s"}
    shares |= {"tree posterior GB/s": "copy GB/s"}
    records = []
    for name, value in values.items():
        share = {"share": value / values[shares[name]], "share_of": shares[name]} if name in shares else {}
        records.append(about | {"name": name, "value": value} | share)
        print(f"{name:32} {value:10.1f}" + (f"   {share['share']:.2f} of {share['share_of']}" if share else ""))
    results = ROOT / "benchmarks/results" / f"{about['date']}-{properties.name.replace(' ', '-')}.jsonl"
    results.parent.mkdir(exist_ok=True)
    unfinished = results.with_suffix(".part")
    unfinished.write_text("".join(json.dumps(record) + "\n" for record in records))
    unfinished.rename(results)
    print(f"wrote {results.relative_to(ROOT)}")


def command_output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def say(text: str) -> None:
    print(f"gpu_probe: {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triton", action="store_true", help="only the Triton kernels, without a device: compiled and interpreted")
    only_triton = parser.parse_args().triton
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise SystemExit(f"gpu_probe: triton cannot be imported ({error}); install biasgen[gpu]") from None
    if only_triton:
        triton_table()
        return check_triton(interpret=True)
    for tool in ("nvcc", "g++"):
        if shutil.which(tool) is None:
            raise SystemExit(f"gpu_probe: {tool} is not on PATH")
    with tempfile.TemporaryDirectory() as directory:
        (on_gpu if torch.cuda.is_available() else without_gpu)(Path(directory))
    return None


if __name__ == "__main__":
    main()
