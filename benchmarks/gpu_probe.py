"""make gpu-probe: runs both GPU kernels against their oracles and the device's ceilings; without a GPU, compiles and emulates them.

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
SHAPES = ((1, 1, 1, 256), (3, 5, 7, 2), (129, 257, 130, 3), (37, 300, 257, 256))   # N, M, D, grey levels; few levels give ties
TOP1_N, TOP1_M, TOP1_D = 33_792, 131_072, 3072   # two tiles for each of 132 multiprocessors, CIFAR-sized rows
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


def triton_usage(capability: int) -> str:
    """Compiles the Triton kernel; returns registers and stack as cuobjdump tells them."""
    import triton

    from biasgen.triton_kernels import top1_int8

    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(top1_int8.compile_for(capability).asm["cubin"])
        cubin.flush()
        log = subprocess.run([cuobjdump, "-res-usage", cubin.name], check=True, capture_output=True, text=True).stdout
    return "{} registers, {} bytes of stack".format(*re.search(r"REG:(\d+) STACK:(\d+)", log).groups())


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


def check_top1(device: str) -> None:
    """Stops unless distances and indices equal NumPy's to the bit."""
    from biasgen.triton_kernels.top1_int8 import top1

    random = np.random.default_rng(0)
    for N, M, D, levels in SHAPES:
        query, reference = (random.integers(0, levels, (rows, D), dtype=np.uint8) for rows in (N, M))
        reference[M // 2 :] = reference[: M - M // 2]   # ties far apart
        distances = np.square(query[:, None].astype(np.int64) - reference[None]).sum(-1)
        got = top1(torch.from_numpy(query).to(device), torch.from_numpy(reference).to(device))
        for name, g, want in zip(("distances", "indices"), got, (distances.min(1), distances.argmin(1)), strict=True):
            if not np.array_equal(g.cpu().numpy(), want):
                raise SystemExit(f"gpu_probe: top1: {name} differ from the oracle at N, M, D = {N}, {M}, {D}")
    print(f"top1: equals the oracle to the bit on {len(SHAPES)} shapes ({device})")


def without_gpu(directory: Path) -> None:
    """Everything that can be done with compilers alone."""
    for capability in CAPABILITIES:
        say(f"compiling for sm_{capability}")
        print(f"top1, Triton, sm_{capability}: {triton_usage(capability)}")
        print(f"tree posterior, nvcc, sm_{capability}: {nvcc(capability, '-cubin', '-o', str(directory / 'tree.cubin'))}")
    say("interpreting the Triton kernel")
    command = [sys.executable, __file__, "--only-check-top1"]
    subprocess.run(command, check=True, env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=directory)
    say("running the CUDA kernel on the host shim")
    kernel = TreeKernel(host_library(directory))
    for order in range(3):
        kernel.library.set_fibre_order(order)
        check_tree(kernel, "cpu", 37)
    print("no GPU on this machine: both kernels were compiled and emulated, nothing ran on a device")


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


def time_top1() -> float:
    """T operations/s of top1, shift and norms included; stops unless 256 queries are right."""
    from biasgen.triton_kernels.top1_int8 import top1

    query, reference = (torch.randint(0, 256, (rows, TOP1_D), device="cuda", dtype=torch.uint8) for rows in (TOP1_N, TOP1_M))
    distances, indices = top1(query, reference)
    x, y = query[:256].double(), reference.double()
    want = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T   # exact: integers below 2^53
    first = torch.where(want == want.amin(1)[:, None], torch.arange(TOP1_M, device="cuda"), TOP1_M).amin(1)
    if not (torch.equal(distances[:256], want.amin(1).long()) and torch.equal(indices[:256], first)):
        raise SystemExit("gpu_probe: top1: large run differs from float64")
    return 2 * TOP1_N * TOP1_M * TOP1_D / milliseconds(lambda: top1(query, reference)) / 1e9


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
    check_top1("cuda")
    say("timing top1")
    values["top1 TOP/s"] = time_top1()
    say("compiling the CUDA kernel")
    library = directory / "tree_posterior.so"
    capability = properties.major * 10 + properties.minor
    print(f"tree posterior, nvcc, sm_{capability}: {nvcc(capability, '-Xcompiler=-fPIC', '-shared', '-o', str(library))}")
    kernel = TreeKernel(library)
    check_tree(kernel, "cuda", 4096)
    say("timing the tree posterior")
    log_field = torch.randn(TREE_B, 16, 6, device="cuda") * 10
    values["tree posterior GB/s"] = TREE_B * TREE_BYTES / milliseconds(lambda: kernel(log_field)) / 1e6
    shares = {"top1 TOP/s": "_int_mm TOP/s", "tree posterior GB/s": "copy GB/s"}
    records = []
    for name, value in values.items():
        share = {"share": value / values[shares[name]], "share_of": shares[name]} if name in shares else {}
        records.append(about | {"name": name, "value": value} | share)
        print(f"{name:24} {value:10.1f}" + (f"   {share['share']:.2f} of {share['share_of']}" if share else ""))
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
    parser.add_argument("--only-check-top1", action="store_true", help="only the Triton kernel against its oracle, on the CPU")
    if parser.parse_args().only_check_top1:
        return check_top1("cpu")
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise SystemExit(f"gpu_probe: triton cannot be imported ({error}); install biasgen[gpu]") from None
    for tool in ("nvcc", "g++"):
        if shutil.which(tool) is None:
            raise SystemExit(f"gpu_probe: {tool} is not on PATH")
    with tempfile.TemporaryDirectory() as directory:
        (on_gpu if torch.cuda.is_available() else without_gpu)(Path(directory))
    return None


if __name__ == "__main__":
    main()
