"""Train affinity: the share of generated rows nearer to training than to held-out rows."""

import math
from typing import Any

import numpy as np

from biasgen.metrics._sets import Pool, check_settings
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.registry import register
from biasgen.results import Credit, Result
from biasgen.statistics.intervals import share_interval
from biasgen.statistics.permutation import subset_sums, upper_tail


@register("train_affinity")
def measure(comparison: Comparison, *, within: float | None = None) -> Result:
    """train_affinity of the sets of a comparison."""
    check_settings(within=within)
    return affinity(
        comparison.credit("gen", within=within),
        comparison.pool(),
        n_train=len(comparison.train),
        **comparison.test,
        params=comparison.params | {"within": within},
    )


def train_affinity(
    *,
    gen: Any,
    train: Any,
    heldout: Any,
    distance: str | None = None,
    within: float | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Result:
    """Share of the rows of `gen` whose nearest row of `train` and `heldout` is one of `train`.

    Ties at the nearest distance count fractionally. If train and heldout come from one law, the
    null mean is m / (m + h) exactly, for any sampler and any sizes: a bad model is not flagged, a
    model that leans on its training rows is. The p supposes that rows were split one by one: where
    a split keeps copies of a row together it is too small (29 % below .05 with 15 copies of each
    row, not biased).

    Args:
        gen (n, ...), train (m, ...), heldout (h, ...): arrays, tensors or a TrainingSet, of one
            shape and element type.
        distance: name; None: the TrainingSet's own, else by element type.
        within: near affinity: only rows of gen with a pool row within this distance count. Small
            shares of copies are seen here first. Fix it without looking at gen.
        permutations: relabelings of the pool. seed: of the relabelings.

    Returns:
        Result with the permutation p (one-sided, towards train) and a 95 % interval taken over the
        distinct rows of the pool, not over samples: a collapsed generator returns few of them and
        gets a wide one. At 0 and 1 it is Wilson's. n_gen counts the rows of gen used. If none is
        within, nothing was observed: value = null mean, p = 1, ci = (0, 1).

    Raises ValueError for sets that do not agree, before any search. Source: biasgen,
    docs/statistics.md.
    """
    test = {"permutations": permutations, "seed": seed}
    sets = {"gen": gen, "train": train, "heldout": heldout}
    return measure(Comparison(**sets, distance=distance, **test), within=within)


def affinity(
    credit: Credit, pool: Any, *, n_train: int, permutations: int, seed: int, params: dict[str, Any]
) -> Result:
    """The Result of the credit of `pool`, whose first `n_train` rows are the training set."""
    n, pool_rows = len(credit.distances), len(credit.weights)
    share = credit_shares(credit)
    mean = n_train / pool_rows
    value = (
        min(1.0, float(share[:n_train].sum())) if n else mean
    )  # a sum of shares may round past 1
    permuted = subset_sums(share, n_train, permutations, np.random.default_rng(seed))
    null, p_value = upper_tail(value, permuted, mean=mean, method="labels of train and heldout")
    ci = (0.0, 1.0)
    if n:
        ci = share_interval(
            value,
            deviation((1 - value) * share[:n_train], -value * share[n_train:], pool),
            permuted,
        )
    return Result(
        value,
        ci=ci,
        null=null,
        p_value=p_value,
        n_gen=n,
        n_train=n_train,
        n_heldout=pool_rows - n_train,
        params=params,
    )


def credit_shares(credit: Credit) -> np.ndarray:
    """(M,) share of the samples that each pool row attracts, sum 1. Without samples every row has
    the same: no label is favored.
    """
    if len(credit.distances) == 0:
        return np.full(len(credit.weights), 1 / len(credit.weights))
    return credit.weights / len(credit.distances)


def deviation(first: np.ndarray, second: np.ndarray, pool: Pool) -> float:
    """Standard deviation of the sum of what each row of `pool` adds to a share.

    `first` is what its first rows add, `second` what the others add.

    Rows of each set are drawn at its given size, hence deviations from the set's mean. Equal rows
    share their credit evenly, within a set and across both, so what they add is summed before it is
    squared.
    """
    rows = np.concatenate([first - first.mean(), second - second.mean()])
    return math.sqrt((np.bincount(pool.first_equal, rows) ** 2).sum())
