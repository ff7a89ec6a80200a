"""Ceilings of a device, then every op: time, share of its ceiling, ratio to the strongest baseline.

python -m benchmarks.gpu.measure prints a table; `make gpu-check` keeps the lines in its folder. The
order is that of what decides most (docs/gpu.md), for the case that the step is ended.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks import baselines, near_copies
from benchmarks.gpu import clocks
from benchmarks.gpu.baselines import nearest_of, torch_int_mm
from benchmarks.gpu.folder import Folder, reason
from benchmarks.gpu.records import rate, table
from biasgen import EmpiricalDenoiser, TrainingSet, knn
from biasgen.backends import _cuda_trees
from biasgen.diffusion import forward_process, one_hot
from biasgen.diffusion.schedule import Schedule
from biasgen.ops.empirical_denoise import empirical_denoise
from biasgen.ops.tree_posterior import tree_posterior
from biasgen.testing import assert_denoised_close
from biasgen.trees.grammar import TreeGrammar
from biasgen.trees.trajectories import launch_arguments

SYMBOLS = 6
SEARCHED = {  # features, k, distance, element type
    "nearest 1": (3072, 1, "sqeuclidean", "uint8"),
    "nearest 16": (3072, 16, "sqeuclidean", "uint8"),
    "nearest 64": (3072, 64, "sqeuclidean", "uint8"),
    "nearest 1, D = 64": (64, 1, "sqeuclidean", "uint8"),
    "nearest 1, tokens": (16, 1, "hamming", "uint8"),
    "nearest 1, float32": (3072, 1, "sqeuclidean", "float32"),
    "nearest 1, float32, cosine": (3072, 1, "cosine", "float32"),
}
ON_TORCH = ("nearest 1", "nearest 16", "nearest 1, float32")  # timed by the torch backend, too
TREE_BYTES = 768  # a sample that must move: 96 float32 in, 96 out
# Of a package; RuntimeError: also out of memory, or a compiler's.
_ABSENT = (ImportError, RuntimeError, TypeError, AssertionError)
INT8, FLOAT32, COPY = "torch._int_mm", "torch float32 matmul", "copy"
L2, PINNED = "reads of L2", "copy of pinned memory to the device"


def synchronize(device: str) -> None:
    """Wait for what is enqueued."""
    if device == "cuda":
        torch.cuda.synchronize()


def once_timed(work: Callable[[], object], device: str) -> float:
    """Milliseconds of this call."""
    synchronize(device)
    begin = time.perf_counter()
    work()
    synchronize(device)
    return 1000 * (time.perf_counter() - begin)


def milliseconds(work: Callable[[], object], device: str, repeats: int = 5) -> float:
    """Median time of one call, after two that warm it up."""
    return statistics.median([once_timed(work, device) for _ in range(repeats + 2)][2:])


def int_mm(device: str, n: int, m: int, d: int) -> tuple[float, Callable[[], object]]:
    """T operations of a product of int8 matrices (n, d) and (d, m), and the product."""
    x, y = (torch.randint(-128, 128, (rows, d), device=device, dtype=torch.int8) for rows in (n, m))
    return 2e-12 * n * m * d, lambda: torch._int_mm(x, y.t())


def ceilings(
    folder: Folder, device: str, product=(65_536, 8192, 3072), square=8192, copied=2**31
) -> None:
    """What torch reaches: copies in GB/s (read and written), products in T operations/s."""
    source = torch.empty(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = partial(target.copy_, source)
    folder.once(COPY, lambda: rate(2e-9 * copied, "GB/s", milliseconds(copy, device, 15)))
    work, multiply = int_mm(device, *product)
    folder.once(INT8, lambda: rate(work, "TOP/s", milliseconds(multiply, device, 15)))
    a, b = (torch.randn(square, square, device=device) for _ in range(2))
    work = 2e-12 * square**3
    folder.once(FLOAT32, lambda: rate(work, "TOP/s", milliseconds(lambda: a @ b, device)))
    there, here = target[: copied // 4], torch.empty(copied // 4, dtype=torch.uint8)
    here = here.pin_memory() if device == "cuda" else here
    moved = partial(there.copy_, here, non_blocking=True)
    folder.once(PINNED, lambda: rate(copied / 4e9, "GB/s", milliseconds(moved, device)))


def reads(folder: Folder, device: str, size: int = 24 << 20, times: int = 400) -> None:
    """GB/s of 24 MiB that stay in L2, past L1."""
    from benchmarks.gpu.kernels import read

    source = torch.zeros(size // 4, dtype=torch.int32, device=device)
    work = partial(read, source, times)
    folder.once(L2, lambda: rate(1e-9 * size * times, "GB/s", milliseconds(work, device)))


def clocked(folder: Folder, device: str, seconds: float = 2.0) -> None:
    """The clock of the SMs, and what holds it back, under torch._int_mm and under our search."""
    _, product = int_mm(device, 65_536, 8192, 3072)
    query, reference = (random_rows("nearest 1", rows, device) for rows in (33_792, 65_536))
    search = partial(knn, query, TrainingSet(reference), backend="triton")
    for name, work in ((INT8, product), ("nearest 1", search)):
        watch = partial(clocks.under, work, partial(synchronize, device), seconds)
        folder.once(f"SM clock during {name}", partial(attempt, watch))


def target(folder: Folder, device: str, N: int, M: int, D: int, backend: str = "triton") -> None:
    """The row of the targets, with the preparation of its reference; its first search makes int8.

    A tenth of the rows are copies of others. 64 queries are compared with torch._int_mm.
    """
    random = torch.Generator(device).manual_seed(0)

    def rows(n):
        return torch.randint(0, 256, (n, D), device=device, dtype=torch.uint8, generator=random)

    query, reference = rows(N), rows(M)
    reference[M - M // 10 :] = reference[: M // 10].clone()
    what, spent, prepared = f"{N} x {M} x {D}", {}, []
    spent["preparation"] = once_timed(lambda: prepared.append(TrainingSet(reference)), device)
    search = partial(knn, query, prepared[0], backend=backend)
    spent["first search"] = once_timed(search, device)
    found = []
    spent["search"] = once_timed(lambda: found.append(search()), device)
    right = torch_int_mm(query[:64], reference)
    reached = (query[:64].long() - reference[found[0].indices[:64, 0]].long()).square().sum(1)
    wanted = (query[:64].long() - reference[right].long()).square().sum(1)
    assert torch.equal(reached, wanted), f"{what}: rows are not nearest"
    work = 2e-12 * N * M * D
    folder.once(f"search, {what}", lambda: rate(work, "TOP/s", spent["search"], of=INT8))
    for name in ("preparation", "first search"):
        folder.once(f"{name}, {what}", lambda name=name: {"milliseconds": spent[name]})
    both = spent["preparation"] + spent["first search"]
    name = f"preparation and first search, {what}"
    folder.once(name, lambda: rate(work, "TOP/s", both, of=INT8))
    rival = partial(torch_int_mm, query, reference, chunk=1024)  # 4 GB of products
    fields = partial(rate, work, "TOP/s", against=f"search, {what}")
    folder.once(
        f"torch._int_mm + min, {what}", partial(attempt, lambda: fields(once_timed(rival, device)))
    )


def random_rows(name: str, rows: int, device: str) -> torch.Tensor:
    """Rows for an entry of SEARCHED."""
    features, _, distance, dtype = SEARCHED[name]
    most = SYMBOLS if distance == "hamming" else 256
    whole = torch.randint(0, most, (rows, features), device=device, dtype=torch.uint8)
    if dtype == "uint8":
        return whole
    return whole / 255 + 0.1 * torch.randn(rows, features, device=device)


def searches(
    folder: Folder, device: str, N: int, M: int, backend: str = "triton", names=tuple(SEARCHED)
) -> None:
    """Searches in rows prepared before, two operations a feature of a pair.

    AssertionError where 64 queries differ from the torch backend's.
    """
    for name in names:
        features, k, distance, dtype = SEARCHED[name]
        query, reference = random_rows(name, N, device), random_rows(name, M, device)
        prepared = TrainingSet(reference, distance)
        by_torch = partial(knn, query, prepared, k, backend="torch")
        found, right = (
            knn(query, prepared, k, backend=backend),
            knn(query[:64], prepared, k, backend="torch"),
        )
        for part in ("distances", "indices", "tie_counts"):
            same = torch.equal(getattr(found, part)[:64], getattr(right, part))
            assert same, f"{name}: {part} differ from the torch backend's"
        work = 2e-12 * N * M * features
        ours = partial(knn, query, prepared, k, backend=backend)
        folder.once(
            name,
            lambda work=work, ours=ours: rate(work, "TOP/s", milliseconds(ours, device), of=INT8),
        )
        rivals = dict(nearest_of(dtype)) if k == 1 and distance == "sqeuclidean" else {}
        rivals = {rival: partial(search, query, reference) for rival, search in rivals.items()}
        if name in ON_TORCH:
            rivals["torch backend"] = by_torch
        for rival, search in rivals.items():
            baseline(folder, f"{rival}, {name}", search, work, "TOP/s", device, against=name)


def attempt(work: Callable[[], dict]) -> dict:
    """Fields of a measurement; or why there are none: a package or a permission is missing."""
    try:
        return work()
    except _ABSENT as error:
        return {"missing": reason(error)}


def baseline(
    folder: Folder,
    name: str,
    work: Callable[[], object],
    amount: float,
    unit: str,
    device: str,
    against: str,
) -> None:
    """Time what a user would take instead of `against`."""

    def timed():
        return rate(amount, unit, milliseconds(work, device, 3), against=against)

    folder.once(name, partial(attempt, timed))


def trees(folder: Folder, native, device: str, B: int, chains: int, steps: int) -> None:
    """The tree kernels of `native` (biasgen._cuda), and what a user would take instead.

    The posterior in the linear domain and by the torch backend; reverse steps one by one.
    """
    grammar, schedule = TreeGrammar.random(), Schedule.linear()
    level = schedule.at(50)
    few = min(B, 4096)  # drawn on the host, and repeated
    x_t = forward_process(one_hot(grammar.sample(few), 6), level, torch.randn(few, 16, 6))
    field = (
        torch.as_tensor(grammar.field(x_t, level)).float().to(device).repeat(-(-B // few), 1, 1)[:B]
    )
    transitions = torch.from_numpy(grammar.transitions).float().to(device)

    def posterior():
        return _cuda_trees.tree_posterior(native, field, grammar.tree).marginals

    right = tree_posterior(field[:256].cpu(), grammar.tree, backend="torch").marginals
    torch.testing.assert_close(posterior()[:256].cpu(), right, rtol=2e-5, atol=1e-30)
    linear = baselines.linear_posterior(transitions, field[:256])
    assert torch.allclose(linear.cpu(), right, rtol=1e-3, atol=1e-6), (
        "the linear domain is not right on this evidence"
    )

    def timed(amount, unit, work, **more):
        return lambda: rate(amount, unit, milliseconds(work, device), **more)

    folder.once("tree posterior", timed(1e-9 * B * TREE_BYTES, "GB/s", posterior, of=COPY))
    part = field[: max(1, B // 16)]  # its products of pairs of messages take 36 numbers a node
    by_torch = partial(tree_posterior, part, grammar.tree, backend="torch")
    for name, work in (
        ("torch, linear domain", partial(baselines.linear_posterior, transitions, part)),
        ("torch backend, tree posterior", by_torch),
    ):
        moved = 1e-9 * len(part) * TREE_BYTES
        baseline(folder, name, work, moved, "GB/s", device, against="tree posterior")
    levels, begin = launch_arguments(
        grammar, schedule, steps=steps, start=None, t_start=None, device=torch.device(device)
    )

    def fused():
        arguments = {"n": chains, "device": torch.device(device), **begin}
        return _cuda_trees.tree_trajectory(native, grammar.tree, levels, **arguments)

    def unfused():
        x = torch.randn(chains, 16, 6, device=device)
        for step in levels:
            x0_hat = _cuda_trees.tree_posterior(
                native, x * float(step["gamma"]), grammar.tree
            ).marginals
            x = (
                float(step["c0"]) * x0_hat
                + float(step["ct"]) * x
                + float(step["std"]) * torch.randn_like(x)
            )
        return x.argmax(-1)

    taken = 1e-6 * chains * len(levels)
    folder.once("trajectory", timed(taken, "M steps/s", fused))
    baseline(folder, "one launch a step", unfused, taken, "M steps/s", device, against="trajectory")
    wide = TreeGrammar.random(q=64, depth=4, q_eff=9)
    many = torch.randn(max(1, B // 64), 16, 64, device=device) * 10
    work = partial(_cuda_trees.tree_posterior, native, many, wide.tree)
    folder.once("64-symbol posterior", timed(1e-6 * len(many), "M samples/s", work))
    drawn = partial(_cuda_trees.tree_sample, native, grammar.tree, B, device=torch.device(device))
    folder.once("strings", timed(1e-6 * B, "M strings/s", drawn))


def denoisers(folder: Folder, device: str, B: int, M: int, D: int, backend: str = "triton") -> None:
    """The empirical denoiser, float32, where nearly all rows matter, and where few do.

    1 - alpha_bar is 0.99 and 1e-3; four operations a feature of a pair, of which the second needs
    fewer. AssertionError unless 8 queries keep the promise.
    """
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
        kept = found.x0_hat[:8].cpu(), found.log_density[:8].cpu()
        assert_denoised_close(kept, (right.x0_hat, right.log_density), rows)
        name, work = f"empirical denoiser, noise {noise:g}", 4e-12 * B * M * D

        def timed(work=work, ours=ours):
            return rate(work, "TOP/s", milliseconds(ours, device), of=FLOAT32)

        folder.once(name, timed)
        softmax = partial(
            baselines.softmax_denoiser,
            given,
            reference.prepared.rows,
            norms,
            scale,
            sigma,
            chunk=8192,
        )
        by_torch = partial(empirical_denoise, given, reference, scale, sigma, backend="torch")
        for rival, denoise in (("torch float32 softmax", softmax), ("torch backend", by_torch)):
            baseline(
                folder, f"{rival}, noise {noise:g}", denoise, work, "TOP/s", device, against=name
            )


def streamed(folder: Folder, device: str, N: int, M: int, D: int, backend: str = "triton") -> None:
    """A reference in host memory, searched by queries of the device in eight blocks of its rows.

    AssertionError where an answer is not that of the same rows on the device.
    """
    random = torch.Generator().manual_seed(0)
    reference = torch.randint(0, 256, (M, D), dtype=torch.uint8, generator=random)
    query = reference[:: M // N][:N].to(device)
    whole = knn(query, TrainingSet(reference.to(device)), 2, backend=backend)
    train = TrainingSet(reference, max_memory=M * D)
    assert train.streamed
    search = partial(knn, query, train, 2, backend=backend)
    found = search()
    for part in ("distances", "indices", "tie_counts"):
        assert torch.equal(getattr(found, part), getattr(whole, part)), (
            f"{part} of a streamed set differ"
        )
    name = f"search of host rows, {N} x {M} x {D}"
    folder.once(
        name, lambda: rate(1e-9 * M * D, "GB/s", milliseconds(search, device, 1), of=PINNED)
    )


def wrong_neighbors(
    folder: Folder, device: str, bases: int, queries: int, backend: str = "triton"
) -> None:
    """Near-copies of benchmarks/near_copies.py: share of queries whose neighbor is not nearest."""
    for make in (near_copies.bright, near_copies.uniform, near_copies.photo):
        rng = np.random.default_rng(0)
        train, query = near_copies.families(make(bases, rng), queries, rng)
        truth = near_copies.squares(query, train)

        def share(search, x, y, truth=truth):
            found = search(x, y).cpu().numpy()
            return float((truth[np.arange(len(truth)), found] > truth.min(1)).mean())

        def ours(x, y):
            return knn(x, y, backend=backend, distance="sqeuclidean").indices[:, 0]

        def proved(name, x, y, share=share):
            wrong = share(ours, x, y)
            assert wrong == 0, f"{name}: {wrong:.1%} wrong"
            return {"wrong": wrong}

        for scale, dtype in ((1.0, "uint8"), (1 / 255, "float32")):
            typed = (
                part if dtype == "uint8" else (part * scale).astype(np.float32)
                for part in (train, query)
            )
            y, x = (torch.from_numpy(part).to(device) for part in typed)
            what = f"near-copies, {make.__name__}, {dtype}"
            folder.once(f"{what}: biasgen.knn", partial(proved, f"{what}: biasgen.knn", x, y))
            for method, search in nearest_of(dtype):
                found = partial(share, search, x, y)
                folder.once(
                    f"{what}: {method}", partial(attempt, lambda found=found: {"wrong": found()})
                )


def parts(native, device: str) -> dict[str, Callable[[Folder], None]]:
    """Everything, at the sizes of an H100 with 80 GB."""
    from benchmarks.gpu import tiles

    sizes = 33_792, 65_536  # two tiles of queries for each of 132 multiprocessors
    timed = {"time": milliseconds, "device": device, "N": sizes[0], "M": sizes[1], "of": INT8}
    return {
        "ceilings": partial(ceilings, device=device),
        "L2": partial(reads, device=device),
        "clocks": partial(clocked, device=device),
        "target row": partial(target, device=device, N=100_000, M=1_000_000, D=3072),
        "parts of the search": partial(tiles.ablations, D=3072, **timed),
        "tiles": partial(tiles.measure, **timed),
        "trees": partial(trees, native=native, device=device, B=2**22, chains=2**17, steps=100),
        "denoisers": partial(denoisers, device=device, B=4096, M=50_000, D=3072),
        **{
            name: partial(searches, device=device, N=sizes[0], M=sizes[1], names=(name,))
            for name in SEARCHED
        },
        "rows in host memory": partial(streamed, device=device, N=4096, M=200_000, D=3072),
        "near-copies": partial(wrong_neighbors, device=device, bases=500, queries=1000),
    }


def run(folder: Folder, listed: dict[str, Callable[[Folder], None]]) -> None:
    """Each part of its own, so that one that fails does not stop the others."""
    for name, part in listed.items():
        folder.once(f"part: {name}", partial(part, folder))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def main() -> None:
    from biasgen import _cuda

    folder = Folder.of_step()
    run(folder, parts(_cuda, "cuda"))
    print(table(folder.records()))
    sys.exit(folder.failures > 0)


if __name__ == "__main__":
    main()
