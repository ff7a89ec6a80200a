"""Do training and held-out rows come from one pipeline? Every null supposes that they do."""
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from biasgen.data.hygiene import contents
from biasgen.metrics._sets import Pool, check_sets, pool_credit, prepared, rows_of, views_of
from biasgen.metrics.train_affinity import credit_shares
from biasgen.results import Result
from biasgen.statistics.permutation import permuted_counts, subset_sums, upper_tail

LEVEL = 0.001
"""Of each of the two tests: they run on every evaluation, mostly on sound data."""
_PERMUTATIONS = 1999     # with fewer, twice the smallest tail would exceed LEVEL
_METHOD = "labels of train and heldout, two-sided"


def self_test(*, train: Any, heldout: Any, distance: str | None = None, seed: int = 0) -> dict[str, Result]:
    """Two tests that training and held-out rows are exchangeable. They need no model.

    heldout_affinity: held-out rows are cut in two at random; the share of the first half whose nearest row, in the pool of train and the
    second half, is a training row. Null m / (m + h'). Too low or too high where the sets were resized, compressed or filtered differently.
    shared_rows: number of distinct rows that occur in both sets. Too low where one was filtered by the content of the other, too high where
    training rows are among the held-out ones, or where repeats were removed within each set but not between them.

    Args:
        train (m, ...), heldout (h, ...): arrays, tensors or a TrainingSet, of one shape and element type.
        distance: name; None: the TrainingSet's own, else by element type.
        seed: of the cut and of the permutations.

    Returns:
        name -> Result with the two-sided p (twice the smaller tail) over relabelings of the pool; it can reach LEVEL. n_gen: held-out
        rows in the first half. Left out: heldout_affinity for one held-out row, shared_rows where no two rows of the pool are equal.

    Cost: one search of h / 2 rows. Raises ValueError for sets that do not agree, before any search. Source: biasgen, docs/statistics.md.
    """
    distance = check_sets(distance, train=train, heldout=heldout)
    tests = {
        "heldout_affinity": _heldout_affinity(train, heldout, distance, np.random.default_rng(seed)),
        "shared_rows": _shared_rows(train, heldout, np.random.default_rng(seed)),
    }
    params = {"level": LEVEL, "permutations": _PERMUTATIONS, "seed": seed}
    return {name: replace(result, params=params) for name, result in tests.items() if result is not None}


def warnings_of(tests: dict[str, Result]) -> list[str]:
    """A sentence for each test that failed at LEVEL."""
    causes = {
        ("heldout_affinity", False): "held-out rows are nearer to each other than to training rows, as if prepared in another way",
        ("heldout_affinity", True): "held-out rows are nearer to training rows than to each other, as if noisier or taken from them",
        ("shared_rows", False): "too few rows occur in both sets, as if one was filtered by the content of the other",
        ("shared_rows", True): "too many rows occur in both sets, as if training rows were among the held-out ones",
    }
    return [
        f"self-test (train against held-out) failed, no p-value here can be trusted: {causes[name, test.excess > 0]} "
        f"({name} {test.value:.4g}, expected {test.null.mean:.4g}, p = {test.p_value:.4f})"
        for name, test in tests.items()
        if test.p_value <= LEVEL
    ]


def _heldout_affinity(train: Any, heldout: Any, distance: str, rng: np.random.Generator) -> Result | None:
    m, h = len(train), len(heldout)
    n = h // 2
    if n == 0:
        return None
    order = rng.permutation(h)
    query, rest = (_take(rows_of(heldout, "heldout"), np.sort(half)) for half in (order[:n], order[n:]))
    pool = Pool(prepared(train, distance, views_of(train, heldout)), rest, distance)
    share = credit_shares(pool_credit(query, pool, distance))
    permuted = subset_sums(share, m, _PERMUTATIONS, rng)
    return _two_sided(float(share[:m].sum()), permuted, mean=m / len(share), n_gen=n, n_train=m, n_heldout=h - n)


def _shared_rows(train: Any, heldout: Any, rng: np.random.Generator) -> Result | None:
    m, h = len(train), len(heldout)
    first = contents(rows_of(train, "train"), rows_of(heldout, "heldout"))
    _, counts = np.unique(first, return_counts=True)
    repeated = counts[counts > 1]
    if len(repeated) == 0:
        return None
    value = len(np.unique(first[m:][first[m:] < m]))     # training rows come first in the pool
    classes = np.append(repeated, m + h - repeated.sum())
    blocks = (block[:, :-1] for block in permuted_counts(classes, m, _PERMUTATIONS, rng))     # of training labels a group of equal rows
    permuted = np.concatenate([((block > 0) & (block < repeated)).sum(axis=1) for block in blocks])
    return _two_sided(float(value), permuted, mean=None, n_train=m, n_heldout=h)


def _two_sided(value: float, permuted: np.ndarray, *, mean: float | None, **sizes: int) -> Result:
    null, above = upper_tail(value, permuted, mean=mean, method=_METHOD)
    _, below = upper_tail(-value, -permuted, method=_METHOD)
    return Result(value, null=null, p_value=min(1.0, 2 * min(above, below)), **sizes)


def _take(rows: np.ndarray | torch.Tensor, index: np.ndarray) -> np.ndarray | torch.Tensor:
    return rows[torch.from_numpy(index).to(rows.device) if isinstance(rows, torch.Tensor) else index]
