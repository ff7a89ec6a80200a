"""Two samples of one number a row compared, the null by relabeling rows: AUC, Wasserstein-1, Kolmogorov-Smirnov.

Each takes `pairs`, one (first (n,), second (h,)) for each model, and returns the mean over models as a Result. With several models row i of
every first belongs together (the same noise) and row j of every second is the same row, so a row is relabeled, and redrawn for the
interval, with all its numbers at once: the variances are those of the mean, not of independent models.
"""
import math
from collections.abc import Callable

import numpy as np

from biasgen.results import Result
from biasgen.statistics.intervals import Z95, reflected
from biasgen.statistics.permutation import random_labels, subset_sums, upper_tail

Pairs = list[tuple[np.ndarray, np.ndarray]]
_REDRAWS = 999
_ROWS_A_CLASS = 25     # a hypergeometric count takes 80 ns, a label with its share of the sum 3 ns (NumPy 2.4, Xeon)
_METHOD = "labels of first and second"


def auc(pairs: Pairs, *, permutations: int, seed: int) -> Result:
    """P(first < second) + P(first = second) / 2, for a row of each drawn at random: the Mann-Whitney U over n h.

    The null mean is exactly 1/2, p its upper tail; heldout, the number of second against itself, is 1/2 as well. ci is normal with the
    variance of DeLong et al. 1988 over the rows of both samples. params["z_u"] is U's z with the variance corrected for ties; below zero
    where first is the smaller, as in Meehan et al. 2020 (arXiv:2004.05675).
    """
    n, h = len(pairs[0][0]), len(pairs[0][1])
    ranks = np.mean([_mid_ranks(np.concatenate(pair)) for pair in pairs], axis=0)
    of_auc = lambda sums: 1 - (sums - n * (n + 1) / 2) / (n * h)     # noqa: E731
    total = float(ranks[:n].sum())
    value = float(of_auc(total))
    permuted = of_auc(_label_sums(ranks, n, permutations, np.random.default_rng(seed)))
    null, p_value = upper_tail(value, permuted, mean=0.5, method=_METHOD)
    deviation = math.sqrt(n * h / (n + h) * ranks.var(ddof=1))     # of `total` over relabelings; with one model the tie-corrected formula

    # placements: how much of the other sample lies beyond each row, from its rank in the pool less its rank among its own
    own = [np.mean([_mid_ranks(pair[side]) for pair in pairs], axis=0) for side in (0, 1)]
    first, second = (ranks[:n] - own[0]) / h, (ranks[n:] - own[1]) / n
    spread = Z95 * math.sqrt(_variance_of_mean(first) + _variance_of_mean(second))
    return Result(
        value,
        ci=(max(0.0, value - spread), min(1.0, value + spread)),
        null=null,
        p_value=p_value,
        heldout=0.5,
        n_gen=n,
        n_heldout=h,
        params={"z_u": (total - n * (n + h + 1) / 2) / deviation if deviation else 0.0},
    )


def wasserstein(pairs: Pairs, *, permutations: int, seed: int) -> Result:
    """Wasserstein-1 distance of the two samples, in their unit: the area between their distribution functions. Unsigned.

    p is the upper tail. ci: rows redrawn, the deviations put about the value as statistics.intervals.reflected does.
    """
    return _of_distributions(lambda gap, widths: gap @ widths, pairs, permutations, seed)


def kolmogorov_smirnov(pairs: Pairs, *, permutations: int, seed: int) -> Result:
    """Largest difference of the two samples' distribution functions. Unsigned. p and ci as in wasserstein."""
    return _of_distributions(lambda gap, widths: gap.max(initial=0), pairs, permutations, seed)


def _of_distributions(measure: Callable, pairs: Pairs, permutations: int, seed: int) -> Result:
    """measure(|F_first - F_second| on each interval between neighboring pooled values (k,), their widths (k,)), averaged over models."""
    n, h = len(pairs[0][0]), len(pairs[0][1])
    scales = [_Intervals(np.concatenate(pair).astype(np.float64)) for pair in pairs]

    def mean(weights: np.ndarray) -> float:
        # a row weighs h in first and -n in second: n h times the difference of the distribution functions, in whole numbers
        return sum(float(measure(np.abs(scale.below(weights)), scale.widths)) for scale in scales) / (n * h * len(scales))

    rng = np.random.default_rng(seed)
    value = mean((np.arange(n + h) < n) * (n + h) - n)
    permuted = np.array([mean(row * (n + h) - n) for block in random_labels(n + h, n, permutations, rng) for row in block])
    null, p_value = upper_tail(value, permuted, method=_METHOD)
    redrawn = np.array([mean(np.concatenate([_redrawn(n, rng) * h, _redrawn(h, rng) * -n])) for _ in range(_REDRAWS)])
    return Result(value, ci=reflected(value, redrawn), null=null, p_value=p_value, n_gen=n, n_heldout=h)


class _Intervals:
    """The real line cut at the distinct ones of `values` (N,). widths (k,): of the intervals between neighbors."""

    def __init__(self, values: np.ndarray) -> None:
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        steps = np.diff(ordered)
        self._ends = np.flatnonzero(steps)     # the last row of each distinct value but the largest
        self.widths = steps[self._ends]

    def below(self, weights: np.ndarray) -> np.ndarray:
        """(k,) sum of the rows' weights (N,) at or below each interval."""
        return np.cumsum(weights[self._order])[self._ends]


def _redrawn(rows: int, rng: np.random.Generator) -> np.ndarray:
    """(rows,) how often each row is drawn in `rows` draws with replacement."""
    return np.bincount(rng.integers(0, rows, rows), minlength=rows)


def _mid_ranks(values: np.ndarray) -> np.ndarray:
    """(N,) ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _label_sums(weights: np.ndarray, size: int, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """(permutations,) sums of `weights` (N,) over random `size`-subsets: by class where ties leave few, else row by row."""
    if len(np.unique(weights)) * _ROWS_A_CLASS < len(weights):
        return subset_sums(weights, size, permutations, rng)
    return np.concatenate([labels @ weights for labels in random_labels(len(weights), size, permutations, rng)])


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.inf
