"""make gpu-probe: runs the GPU kernels against their oracles and the device's ceilings; without a GPU, compiles and emulates them.

Result on stdout, progress on stderr; with a GPU also one JSON line a measurement in benchmarks/results/<date>-<device>.jsonl.
"""
import argparse
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

from benchmarks import tree_checks, tree_kernels
from biasgen.backends import _cuda_trees
from biasgen.diffusion.schedule import Schedule
from biasgen.trees.grammar import TreeGrammar
from biasgen.trees.trajectories import launch_arguments

ROOT = Path(__file__).resolve().parents[1]
SHAPES = ((1, 1, 1, 256), (3, 5, 7, 2), (129, 257, 130, 3), (37, 300, 257, 256))   # N, M, D, grey levels; few levels give ties
TOP1_N, TOP1_M, TOP1_D = 33_792, 131_072, 3072   # two tiles for each of 132 multiprocessors, CIFAR-sized rows
TREE_B, TREE_BYTES = 2**22, 768                  # bytes a sample that must move: 96 float32 in, 96 out
CHAINS, CHAIN_STEPS = 2**17, 100


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
    for capability in tree_kernels.CAPABILITIES:
        say(f"compiling for sm_{capability}")
        print(f"top1, Triton, sm_{capability}: {triton_usage(capability)}")
    for (kernel, capability), (registers, spilled) in tree_kernels.resources(directory).items():
        print(f"{kernel}, nvcc, sm_{capability}: {registers} registers, {spilled} bytes spilled")
    say("interpreting the Triton kernel")
    command = [sys.executable, "-m", "benchmarks.gpu_probe", "--only-check-top1"]
    subprocess.run(command, check=True, env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=ROOT)
    say("running the CUDA kernels on the host shim")
    kernels = tree_kernels.TreeKernels(tree_kernels.host_library(directory))
    for order in range(3):
        kernels.set_fibre_order(order)
        tree_checks.check_all(kernels, "cpu", 37)
    print("no GPU on this machine: the kernels were compiled and emulated, nothing ran on a device")


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


def time_trees(kernels: tree_kernels.TreeKernels) -> dict[str, float]:
    """Rates of the tree kernels: the paper's grammar, and one of 64 symbols and 576 rules."""
    device, grammar, large = torch.device("cuda"), TreeGrammar.random(), TreeGrammar.random(q=64, depth=4, q_eff=9)
    log_field = torch.randn(TREE_B, 16, 6, device=device) * 10
    wide = torch.randn(2**16, 16, 64, device=device) * 10
    levels, begin = launch_arguments(grammar, Schedule.linear(), steps=CHAIN_STEPS, start=None, t_start=None, device=device)

    def posterior(g, field):
        return lambda: _cuda_trees.tree_posterior(kernels, field, torch.from_numpy(g.rules), torch.from_numpy(g.weights))

    def chains():
        _cuda_trees.tree_trajectory(kernels, grammar.rules, grammar.weights, levels, n=CHAINS, device=device, **begin)

    def strings():
        _cuda_trees.tree_sample(kernels, 6, 4, grammar.rules, grammar.weights, TREE_B, device=device)

    return {
        "tree posterior GB/s": TREE_B * TREE_BYTES / milliseconds(posterior(grammar, log_field)) / 1e6,
        "64-symbol posterior M/s": len(wide) / milliseconds(posterior(large, wide)) / 1e3,
        "trajectory M steps/s": CHAINS * CHAIN_STEPS / milliseconds(chains) / 1e3,
        "strings M/s": TREE_B / milliseconds(strings) / 1e3,
    }


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
    say("compiling the CUDA kernels")
    kernels = tree_kernels.TreeKernels(tree_kernels.device_library(directory, properties.major * 10 + properties.minor))
    tree_checks.check_all(kernels, "cuda", 4096)
    say("timing the tree kernels")
    values |= time_trees(kernels)
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
