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
from functools import partial
from pathlib import Path

import torch

from benchmarks import tree_checks, tree_kernels
from biasgen.backends import _cuda_trees
from biasgen.diffusion.schedule import Schedule
from biasgen.trees.grammar import TreeGrammar
from biasgen.trees.trajectories import launch_arguments

ROOT = Path(__file__).resolve().parents[1]
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
CHAINS, CHAIN_STEPS = 2**17, 100


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

    say(f"compiling {len(kernels())} Triton kernels for {', '.join(f'sm_{capability}' for capability in tree_kernels.CAPABILITIES)}")
    for name in kernels():
        usage = (triton_usage(name, capability) for capability in tree_kernels.CAPABILITIES)
        cells = (f"sm_{capability} {registers:3} registers, {stack:2} bytes of stack" for capability, (registers, stack) in
                 zip(tree_kernels.CAPABILITIES, usage, strict=True))
        print(f"{name:45} {'   '.join(cells)}", flush=True)


def check_triton(interpret: bool) -> None:
    """Stops unless the Triton searches equal the oracle to the bit: interpreted, or compiled on this machine's GPU."""
    say("running the Triton kernels " + ("in the interpreter" if interpret else "on the device"))
    command = [sys.executable, "-m", "pytest", "-q", "tests/interpreted/triton_search.py"]
    subprocess.run(command, check=True, env=os.environ | {"TRITON_INTERPRET": str(int(interpret))}, cwd=ROOT)




def without_gpu(directory: Path) -> None:
    """Everything that can be done with compilers alone."""
    triton_table()
    for (kernel, capability), (registers, spilled) in tree_kernels.resources(directory).items():
        print(f"{kernel}, nvcc, sm_{capability}: {registers} registers, {spilled} bytes spilled")
    check_triton(interpret=True)
    say("running the CUDA kernels on the host shim")
    kernels = tree_kernels.TreeKernels(tree_kernels.host_library(directory))
    for order in range(3):
        kernels.set_fibre_order(order)
        tree_checks.check_all(kernels, "cpu", 37)
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
    check_triton(interpret=False)
    values |= time_searches()
    say("compiling the CUDA kernels")
    kernels = tree_kernels.TreeKernels(tree_kernels.device_library(directory, properties.major * 10 + properties.minor))
    tree_checks.check_all(kernels, "cuda", 4096)
    say("timing the tree kernels")
    values |= time_trees(kernels)
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
