"""Exact copies on trees, where the share that a sampler makes by chance is known exactly."""

from typing import Any

import numpy as np

from biasgen.metrics._sets import rows_of, to_numpy
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.registry import register
from biasgen.results import Null, Result
from biasgen.statistics.intervals import binomial_log_pmf, wilson


def expected_exact_copies(grammar: Any, train: Any) -> float:
    """Probability that a fresh sentence of `grammar` is a row of `train` (m, L).

    It is the sum of P over the distinct rows.

    Exact up to the rounding of grammar.log_prob. On the paper's grammar (q = 6, L = 16) it is about
    1 % at m = 12 000.
    """
    distinct = np.unique(to_numpy(rows_of(train, "train")), axis=0)
    return float(np.exp(np.asarray(to_numpy(grammar.log_prob(distinct)), dtype=np.float64)).sum())


@register("exact_copies", needs=("gen", "train"))
def measure(comparison: Comparison, *, expected: float) -> Result:
    """exact_copies of the sets of a comparison."""
    if not 0 < expected < 1:
        raise ValueError(f"expected: want a share in (0, 1), got {expected!r}")
    per_sample = comparison.nearest_distances("gen", "train")
    n, count = len(per_sample), int((per_sample == 0).sum())
    pmf = np.exp(binomial_log_pmf(n, expected))
    q95 = int(np.searchsorted(np.cumsum(pmf), 0.95)) / n
    return Result(
        count / n,
        ci=wilson(count, n),
        null=Null(mean=float(expected), q95=q95, method="binomial, exact"),
        p_value=min(1.0, float(pmf[count:].sum())),
        per_sample=per_sample,
        n_gen=n,
        n_train=len(comparison.train),
        params={"distance": comparison.distance},
    )


def exact_copies(*, gen: Any, train: Any, expected: float, distance: str | None = None) -> Result:
    """Share of the rows of `gen` (n, ...) that equal a row of `train` (m, ...).

    It is compared with the `expected` share of an unbiased sampler.

    Given the training set the number of copies among n independent unbiased samples is binomial:
    p_value and null.q95 are its exact upper tail, null.mean is `expected`. ci is Wilson's 95 %
    interval. Raises ValueError unless 0 < expected < 1.
    """
    return measure(Comparison(gen=gen, train=train, distance=distance), expected=expected)
