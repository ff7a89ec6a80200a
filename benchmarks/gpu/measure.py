"""Ceilings of a device, then every op: time, share of its ceiling, ratio to the strongest baseline there, wrong neighbors.

python -m benchmarks.gpu.measure prints a table and writes benchmarks/results/<date>-<device>.jsonl; the same to $OUT where that is set.
"""
import datetime
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import baselines, near_copies
from benchmarks.gpu.baselines import nearest_of
from benchmarks.gpu.records import Record, table, write
from biasgen import EmpiricalDenoiser, knn
from biasgen.backends import _cuda_trees
from biasgen.data.training_set import TrainingSet
from biasgen.diffusion import forward_process, one_hot
from biasgen.diffusion.schedule import Schedule
from biasgen.ops.empirical_denoise import empirical_denoise
from biasgen.ops.tree_posterior import tree_posterior
from biasgen.testing import assert_denoised_close
from biasgen.trees.grammar import TreeGrammar
from biasgen.trees.trajectories import launch_arguments

RESULTS = Path(__file__).resolve().parents[1] / "results"
SYMBOLS = 6
SEARCHED = {   # features, k, distance, element type
    "nearest 1": (3072, 1, "sqeuclidean", "uint8"),
    "nearest 16": (3072, 16, "sqeuclidean", "uint8"),
    "nearest 64": (3072, 64, "sqeuclidean", "uint8"),
    "nearest 1, D = 64": (64, 1, "sqeuclidean", "uint8"),
    "nearest 1, tokens": (16, 1, "hamming", "uint8"),
    "nearest 1, float32": (3072, 1, "sqeuclidean", "float32"),
    "nearest 1, float32, cosine": (3072, 1, "cosine", "float32"),
}
TREE_BYTES = 768   # a sample that must move: 96 float32 in, 96 out
_ABSENT = (ImportError, RuntimeError, TypeError, AssertionError)   # of a package; RuntimeError: also out of memory, or a compiler's
INT8, FLOAT32, COPY = "torch._int_mm", "torch float32 matmul", "copy"


def milliseconds(work: Callable[[], object], device: str, repeats: int = 5) -> float:
    """Median time of one call, after two that warm it up."""
    times = []
    for _ in range(repeats + 2):
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times[2:])


def ceilings(device: str, n: int = 8192, copied: int = 2**31) -> Iterator[Record]:
    """What torch reaches: copy in GB/s (read and written), matrix products in T operations/s."""
    source = torch.empty(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    spent = milliseconds(lambda: target.copy_(source), device, 15)
    yield Record(COPY, 2 * copied / spent / 1e6, "GB/s", spent)
    x, y = (torch.randint(-128, 128, (n, n), device=device, dtype=torch.int8) for _ in range(2))
    spent = milliseconds(lambda: torch._int_mm(x, y.t()), device, 15)
    yield Record(INT8, 2 * n**3 / spent / 1e9, "TOP/s", spent)
    a, b = (torch.randn(n, n, device=device) for _ in range(2))
    spent = milliseconds(lambda: a @ b, device)
    yield Record(FLOAT32, 2 * n**3 / spent / 1e9, "TOP/s", spent)


def random_rows(name: str, rows: int, device: str) -> torch.Tensor:
    """Rows for an entry of SEARCHED."""
    features, _, distance, dtype = SEARCHED[name]
    whole = torch.randint(0, SYMBOLS if distance == "hamming" else 256, (rows, features), device=device, dtype=torch.uint8)
    return whole / 255 + 0.1 * torch.randn(rows, features, device=device) if dtype == "float32" else whole


def searches(device: str, N: int, M: int, backend: str = "triton", names=tuple(SEARCHED)) -> Iterator[Record]:
    """Every search in rows prepared before, two operations a feature of a pair; AssertionError where 64 queries differ from torch's."""
    for name in names:
        features, k, distance, dtype = SEARCHED[name]
        query, reference = random_rows(name, N, device), random_rows(name, M, device)
        prepared = TrainingSet(reference, distance)
        found, right = knn(query, prepared, k, backend=backend), knn(query[:64], prepared, k, backend="torch")
        for part in ("distances", "indices", "tie_counts"):
            assert torch.equal(getattr(found, part)[:64], getattr(right, part)), f"{name}: {part} differ from the torch backend's"
        work = 2 * N * M * features / 1e9
        spent = milliseconds(partial(knn, query, prepared, k, backend=backend), device)
        yield Record(name, work / spent, "TOP/s", spent, of=INT8)
        if k == 1 and distance == "sqeuclidean":
            for rival, search in nearest_of(dtype):
                yield attempt(f"{rival}, {name}", partial(search, query, reference), work, "TOP/s", device, against=name)


def attempt(name: str, work: Callable[[], object], amount: float, unit: str, device: str, against: str) -> Record:
    """A baseline's record, or why there is none."""
    try:
        spent = milliseconds(work, device, 3)
    except _ABSENT as error:
        return Record(name, against=against, missing=_reason(error))
    return Record(name, amount / spent, unit, spent, against=against)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


def trees(native, device: str, B: int, chains: int, steps: int) -> Iterator[Record]:
    """The tree kernels of `native` (biasgen._cuda), and the same in torch: posterior in the linear domain, reverse steps one by one."""
    grammar, schedule = TreeGrammar.random(), Schedule.linear()
    level = schedule.at(50)
    few = min(B, 4096)   # drawn on the host, and repeated
    x_t = forward_process(one_hot(grammar.sample(few), 6), level, torch.randn(few, 16, 6))
    field = torch.as_tensor(grammar.field(x_t, level)).float().to(device).repeat(-(-B // few), 1, 1)[:B]
    transitions = torch.from_numpy(grammar.transitions).float().to(device)

    def posterior():
        return _cuda_trees.tree_posterior(native, field, grammar.tree).marginals

    right = tree_posterior(field[:256].cpu(), grammar.tree, backend="torch").marginals
    torch.testing.assert_close(posterior()[:256].cpu(), right, rtol=2e-5, atol=1e-30)
    linear = baselines.linear_posterior(transitions, field[:256])
    assert torch.allclose(linear.cpu(), right, rtol=1e-3, atol=1e-6), "the linear domain is not right on this evidence"
    spent = milliseconds(posterior, device)
    yield Record("tree posterior", B * TREE_BYTES / spent / 1e6, "GB/s", spent, of=COPY)
    part = field[: max(1, B // 16)]   # its products of pairs of messages take 36 numbers a node
    yield attempt(
        "torch, linear domain", partial(baselines.linear_posterior, transitions, part), len(part) * TREE_BYTES / 1e6, "GB/s", device,
        against="tree posterior",
    )
    levels, begin = launch_arguments(grammar, schedule, steps=steps, start=None, t_start=None, device=torch.device(device))

    def fused():
        arguments = {"n": chains, "device": torch.device(device), **begin}
        return _cuda_trees.tree_trajectory(native, grammar.tree, levels, **arguments)

    def unfused():
        x = torch.randn(chains, 16, 6, device=device)
        for step in levels:
            x0_hat = _cuda_trees.tree_posterior(
                native, x * float(step["gamma"]), grammar.tree
            ).marginals
            x = float(step["c0"]) * x0_hat + float(step["ct"]) * x + float(step["std"]) * torch.randn_like(x)
        return x.argmax(-1)

    spent = milliseconds(fused, device)
    yield Record("trajectory", chains * len(levels) / spent / 1e3, "M steps/s", spent)
    yield attempt("one launch a step", unfused, chains * len(levels) / 1e3, "M steps/s", device, against="trajectory")
    wide = TreeGrammar.random(q=64, depth=4, q_eff=9)
    many = torch.randn(max(1, B // 64), 16, 64, device=device) * 10
    spent = milliseconds(lambda: _cuda_trees.tree_posterior(native, many, wide.tree), device)
    yield Record("64-symbol posterior", len(many) / spent / 1e3, "M samples/s", spent)
    spent = milliseconds(
        lambda: _cuda_trees.tree_sample(native, grammar.tree, B, device=torch.device(device)),
        device,
    )
    yield Record("strings", B / spent / 1e3, "M strings/s", spent)


def denoisers(device: str, B: int, M: int, D: int, backend: str = "triton") -> Iterator[Record]:
    """The empirical denoiser, float32, where nearly all rows matter (1 - alpha_bar = 0.99) and where few do (1e-3): four operations a
    feature of a pair, of which the second needs fewer. AssertionError unless 8 queries keep the promise."""
    random = torch.Generator().manual_seed(0)
    rows = torch.rand((M, D), generator=random) * 2 - 1
    reference, norms = EmpiricalDenoiser(rows.to(device)), rows.square().sum(1).to(device)
    for noise in (0.99, 1e-3):
        scale, sigma = math.sqrt(1 - noise), math.sqrt(noise)
        x_t = scale * rows[:B] + sigma * torch.randn(rows[:B].shape, generator=random)
        right = empirical_denoise(x_t[:8].double(), rows, scale, sigma, backend="torch")
        given = x_t.to(device)
        ours = partial(empirical_denoise, given, reference, scale, sigma, backend=backend)
        found = ours()
        assert_denoised_close((found.x0_hat[:8].cpu(), found.log_density[:8].cpu()), (right.x0_hat, right.log_density), rows)
        name, work = f"empirical denoiser, noise {noise:g}", 4 * B * M * D / 1e9
        spent = milliseconds(ours, device)
        yield Record(name, work / spent, "TOP/s", spent, of=FLOAT32)
        rival = partial(baselines.softmax_denoiser, given, reference.prepared.rows, norms, scale, sigma, chunk=8192)
        yield attempt(f"torch float32 softmax, noise {noise:g}", rival, work, "TOP/s", device, against=name)


def wrong_neighbors(device: str, bases: int, queries: int, backend: str = "triton") -> Iterator[Record]:
    """Near-copies of benchmarks/near_copies.py: share of queries whose neighbor is strictly farther than the nearest row."""
    for make in (near_copies.bright, near_copies.uniform, near_copies.photo):
        rng = np.random.default_rng(0)
        train, query = near_copies.families(make(bases, rng), queries, rng)
        truth = near_copies.squares(query, train)
        for scale, dtype in ((1.0, "uint8"), (1 / 255, "float32")):
            y, x = (torch.from_numpy(rows if dtype == "uint8" else (rows * scale).astype(np.float32)).to(device) for rows in (train, query))
            ours = ("biasgen.knn", lambda x, y: knn(x, y, backend=backend, distance="sqeuclidean").indices[:, 0])
            for method, search in (ours, *nearest_of(dtype)):
                name = f"near-copies, {make.__name__}, {dtype}: {method}"
                try:
                    found = search(x, y).cpu().numpy()
                except _ABSENT as error:
                    yield Record(name, missing=_reason(error))
                    continue
                wrong = float((truth[np.arange(len(truth)), found] > truth.min(1)).mean())
                assert wrong == 0 or method != "biasgen.knn", f"{name}: {wrong:.1%} wrong"
                yield Record(name, wrong=wrong)


def about() -> dict[str, str]:
    """Date, device and versions."""
    import triton

    def said(*command):
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name(0),
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "nvcc": said("nvcc", "--version").split("release ")[1].split(",")[0],
    }


def collect(parts: list[tuple[str, Iterator[Record]]], save: Callable[[list[Record]], object]) -> tuple[list[Record], list[str]]:
    """All records, saved after each part; and what went wrong in a part, after which the next one still runs."""
    records, failures = [], []
    for name, part in parts:
        print(f"measure: {name}", file=sys.stderr, flush=True)
        try:
            for record in part:
                records.append(record)
        except (AssertionError, ImportError, ValueError, RuntimeError) as error:
            failures.append(f"{name}: {error}")
        save(records)
    return records, failures


def main() -> None:
    from biasgen import _cuda

    what = about()
    print(", ".join(f"{key} {value}" for key, value in what.items()))
    folders = [RESULTS, *([Path(os.environ["OUT"])] if os.environ.get("OUT") else [])]
    parts = [
        ("ceilings", ceilings("cuda")),
        ("trees", trees(_cuda, "cuda", 2**22, 2**17, 100)),
        ("denoisers", denoisers("cuda", 4096, 50_000, 3072)),
        ("near-copies", wrong_neighbors("cuda", 500, 1000)),
        *((name, searches("cuda", 33_792, 65_536, names=(name,))) for name in SEARCHED),   # two tiles for each of 132 multiprocessors
    ]
    records, failures = collect(parts, lambda records: write(what, records, folders))
    print(table(records))
    print(f"wrote {RESULTS.name}/{what['date']}-{what['device'].replace(' ', '-')}.jsonl")
    sys.exit("\n".join(f"measure: {failure}" for failure in failures))


if __name__ == "__main__":
    main()
