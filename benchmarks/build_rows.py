"""What compare_builds times: the work of the rows of `make bench`, and eager calls on little data.

Each function takes `smoke` (toy sizes) and returns a call without arguments, whose answer is
compared. They import biasgen when they are called: which build that is, is the caller's affair.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch


def _bytes(rows: int, D: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, D), dtype=np.uint8)


def _floats(rows: int, D: int, seed: int, smooth: bool = False) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(rows, D))
    return (made.cumsum(1) / 10 if smooth else made).astype(np.float32)


def _search(
    query: np.ndarray, reference: np.ndarray, distance: str, k: int = 1
) -> Callable[[], Any]:
    import biasgen

    train = biasgen.TrainingSet(reference, distance)

    def call() -> Any:
        found = train.knn(query, k)
        return found.distances, found.indices, found.tie_counts

    return call


def hamming(smoke: bool, L: int = 16, symbols: int = 6, n: int = 2000, m: int = 12_000) -> Callable:
    n, m = (20, 100) if smoke else (n, m)
    rng = np.random.default_rng(0)
    kind = np.uint8 if symbols <= 256 else np.uint16
    query, reference = (rng.integers(0, symbols, (rows, L)).astype(kind) for rows in (n, m))
    return _search(query, reference, "hamming")


def uint8(
    smoke: bool,
    distance: str = "sqeuclidean",
    D: int = 3072,
    n: int = 64,
    m: int = 8000,
    k: int = 1,
) -> Callable:
    n, m, D = (8, 100, 64) if smoke else (n, m, D)
    return _search(_bytes(n, D, 0), _bytes(m, D, 1), distance, k)


def float32(
    smoke: bool, distance: str = "sqeuclidean", smooth: bool = True, n: int = 48, m: int = 4000
) -> Callable:
    n, m, D = (8, 100, 64) if smoke else (n, m, 3072)
    return _search(_floats(n, D, 0, smooth), _floats(m, D, 1, smooth), distance)


def histogram(smoke: bool) -> Callable:
    import biasgen

    n, m, D = (8, 100, 64) if smoke else (64, 4000, 256)
    query, train = _bytes(n, D, 0), biasgen.TrainingSet(_bytes(m, D, 1))
    edges = np.linspace(0, 2e7, 50)
    return lambda: biasgen.distance_histogram(query, train, edges)


def denoiser(smoke: bool, noise: float, tokens: bool = False) -> Callable:
    import biasgen

    B, M, shape = (8, 100, (16,)) if smoke else (64, 4000, (1024,))
    level = biasgen.Level((1 - noise) ** 0.5, noise**0.5)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 6, (M, 16)) if tokens else 2 * rng.random((M, *shape), np.float32) - 1
    x0 = np.eye(6)[rows[:B]] if tokens else rows[:B]
    x_t = (level.scale * x0 + level.sigma * rng.normal(size=x0.shape)).astype(np.float32)
    of_rows = biasgen.EmpiricalDenoiser(rows)
    return lambda: of_rows.denoise(x_t, level)


def _tree(grammar: Any, B: int) -> Any:
    import biasgen

    x = np.eye(grammar.q)[grammar.sample(B)]
    level = biasgen.Schedule.linear().at(50)
    noise = np.random.default_rng(0).normal(size=x.shape)
    return grammar.field(level.scale * x + level.sigma * noise, level).astype(np.float32)


def posterior(
    smoke: bool, B: int = 8192, levels: str | None = "leaves", made: str = "random", **sizes: int
) -> Callable:
    import biasgen

    grammar = getattr(biasgen.TreeGrammar, made)(**sizes)
    field = _tree(grammar, 8 if smoke else B)
    return lambda: grammar.posterior(field, levels)


def strings(smoke: bool) -> Callable:
    import biasgen

    grammar, n = biasgen.TreeGrammar.random(), 50 if smoke else 10_000
    return lambda: grammar.sample(n, seed=1)


def posterior_strings(smoke: bool) -> Callable:
    import biasgen

    grammar = biasgen.TreeGrammar.random()
    field = _tree(grammar, 8 if smoke else 2048)
    return lambda: grammar.posterior_sample(field, 2)


def map_estimate(smoke: bool, B: int = 4096) -> Callable:
    import biasgen

    grammar = biasgen.TreeGrammar.random()
    field = _tree(grammar, 8 if smoke else B)
    return lambda: grammar.map_estimate(field)


def trajectories(smoke: bool) -> Callable:
    import biasgen
    from biasgen.trees.trajectories import sample_tokens

    grammar, schedule, n = (
        biasgen.TreeGrammar.random(),
        biasgen.Schedule.linear(),
        20 if smoke else 500,
    )
    return lambda: sample_tokens(grammar, schedule, n, steps=20)


def tree_denoiser(smoke: bool, B: int = 4096) -> Callable:
    import biasgen

    exact, level = (
        biasgen.TreeDenoiser(biasgen.TreeGrammar.random()),
        biasgen.Schedule.linear().at(100),
    )
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn((min(B, 8) if smoke else B, 16, 6), generator=generator)
    return lambda: exact(x_t, level)


def small_search(smoke: bool, kind: str = "uint8") -> Callable:
    query, reference = (
        (_bytes if kind == "uint8" else _floats)(1, 64, 0),
        (_bytes if kind == "uint8" else _floats)(1000, 64, 1),
    )
    return _search(query, reference, "sqeuclidean")


def small_denoiser(smoke: bool) -> Callable:
    import biasgen

    rows = _floats(100, 16, 0)
    of_rows, level = biasgen.EmpiricalDenoiser(rows), biasgen.Level(0.8, 0.6)
    return lambda: of_rows(rows[:1], level)


def evaluation(smoke: bool) -> Callable:
    import biasgen

    rows = biasgen.TreeGrammar.random().sample(600)
    sets = {"gen": rows[:200], "train": rows[200:400], "heldout": rows[400:]}
    return lambda: biasgen.evaluate(**sets, permutations=99).to_json()


WORK = {
    "hamming, L=16": hamming,
    "hamming, L=1024, 6 symbols": partial(hamming, L=1024, n=200, m=2000),
    "hamming, L=1024, 50000 symbols": partial(hamming, L=1024, symbols=50_000, n=100, m=2000),
    "uint8 sqeuclidean, D=3072": uint8,
    "uint8 sqeuclidean, D=3072, top-16": partial(uint8, k=16),
    "uint8 sqeuclidean, D=64": partial(uint8, D=64, n=1000, m=10_000),
    "uint8 euclidean, D=3072": partial(uint8, distance="euclidean"),
    "uint8 cosine, D=3072": partial(uint8, distance="cosine"),
    "uint8 cityblock, D=512": partial(uint8, distance="cityblock", D=512, n=16, m=1000),
    "float32 sqeuclidean, image-like": float32,
    "float32 sqeuclidean, iid normal": partial(float32, smooth=False, n=16),
    "float32 cosine": partial(float32, distance="cosine"),
    "float32 correlation": partial(float32, distance="correlation"),
    "float32 cityblock": partial(float32, distance="cityblock", n=4, m=500),
    "distance_histogram, uint8": histogram,
    "denoiser, noise .99": partial(denoiser, noise=0.99),
    "denoiser, noise .5": partial(denoiser, noise=0.5),
    "denoiser, noise .001": partial(denoiser, noise=1e-3),
    "denoiser of tokens, noise .99": partial(denoiser, noise=0.99, tokens=True),
    "denoiser of tokens, noise .001": partial(denoiser, noise=1e-3, tokens=True),
    "posterior, q=6 depth=4": posterior,
    "posterior, log_z alone": partial(posterior, levels=None),
    "posterior, every rule": partial(posterior, levels="rules", B=2048),
    "posterior, depth 8": partial(posterior, depth=8, B=512),
    "posterior, hierarchy of 32 symbols": partial(
        posterior, made="random_hierarchy", v=32, m=8, B=1024
    ),
    "strings of a grammar": strings,
    "strings of a posterior": posterior_strings,
    "map_estimate": map_estimate,
    "TreeDenoiser": tree_denoiser,
    "trajectories": trajectories,
}
EAGER = {
    "eager posterior, B=1": partial(posterior, B=1),
    "eager posterior, B=4": partial(posterior, B=4),
    "eager posterior, B=16": partial(posterior, B=16),
    "eager map_estimate, B=1": partial(map_estimate, B=1),
    "eager TreeDenoiser, B=1": partial(tree_denoiser, B=1),
    "eager knn, 1 x 1000 uint8": small_search,
    "eager knn, 1 x 1000 float32": partial(small_search, kind="float32"),
    "eager EmpiricalDenoiser, 1 x 100": small_denoiser,
    "eager evaluate, 600 rows": evaluation,
}
