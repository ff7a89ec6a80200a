"""What a run will be able to see, before it is paid for."""
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from biasgen._numbers import is_number, is_whole
from biasgen.results import Credit
from biasgen.statistics.intervals import binomial_log_pmf


@dataclass(frozen=True)
class Power:
    """The smallest bias that a run sees with probability `power`, and the run it belongs to (see detectable).

    affinity: share of samples nearest to the training set; null: its value without bias. near_copies: share of samples that are copies of
    training rows. None where no share is seen.
    """

    affinity: float | None
    near_copies: float | None
    null: float
    n: int
    m: int
    h: int
    looks: int
    statistics: int
    alpha: float
    hubness: float
    near_share: float
    power: float

    def sentence(self) -> str:
        """What this run sees and what four times the samples would, for a reader."""
        found = ("affinity", "near_copies", "null")
        more = detectable(**{f.name: getattr(self, f.name) for f in fields(self) if f.name not in found} | {"n": 4 * self.n})
        text = (
            f"With {self.n} samples, {self.m} training and {self.h} held-out rows and {self.looks} evaluations, an affinity of "
            f"{_at_least(self.affinity)} (null {self.null:.3f}) or a share of copies of {_at_least(self.near_copies, percent=True)} will "
            f"be seen with {self.power:.0%} power; with {more.n} samples: {_at_least(more.affinity)} or "
            f"{_at_least(more.near_copies, percent=True)}."
        )
        if self.affinity is None or more.affinity is None or more.affinity - self.null <= 0.6 * (self.affinity - self.null):
            return text
        return f"{text} The excess of affinity does not halve: which rows happen to lie near is chance too, and takes more rows."


def detectable(
    *,
    n: int,
    m: int,
    h: int,
    looks: int,
    statistics: int = 2,
    alpha: float = 0.05,
    hubness: float = 2.0,
    near_share: float = 0.01,
    power: float = 0.8,
) -> Power:
    """The smallest affinity, and the smallest share of copies, that biasgen.statistics.detection.detect sees with probability `power`.

    Both must pass the level alpha / (statistics x looks) at two consecutive evaluations. These share noise and rows, so nothing is
    assumed about their dependence: each may fail with probability (1 - power) / 2.

    Without bias a sample's nearest row is a training row with probability m / (m + h), but samples with the same nearest row agree. n
    samples of a pool of M = m + h rows weigh as many as n' independent ones, 1 / n' = 1 / n + (hubness - 1) / M: the second part is
    there at any n. Power and level are those of a binomial test with n' rows.

    Args:
        n: samples an evaluation. m, h: training and held-out rows. looks: planned evaluations. statistics: number watched.
        alpha: bound on false alarms over the run.
        hubness: M sum_j pi_j^2, where pi_j is the chance that pool row j is a sample's nearest: 1 if all rows have the same, 1.5 for
            points on a line, 2 for exponential chances. Measured by `hubness`: 1.35 on the paper's grammar, 1.2 for 4000 Gaussian rows
            in 10 dimensions, 5.5 in 50.
        near_share: share of held-out rows within the near-copy threshold of the training set (alpha of near_copies). About
            near_share (m + h) / m of the unbiased samples then have a pool row within it.
        power: chance to see a bias of the size returned.

    A copy counts as one of a random training row; models that copy few rows many times need a larger share. Raises ValueError for numbers
    out of range. Source: biasgen, docs/statistics.md.
    """
    for name, count in {"n": n, "m": m, "h": h, "looks": looks, "statistics": statistics}.items():
        if not is_whole(count, 1):
            raise ValueError(f"{name}: want a whole number of at least 1, got {count!r}")
    for name, share in {"alpha": alpha, "near_share": near_share, "power": power}.items():
        if not is_number(share) or not 0 < share < 1:
            raise ValueError(f"{name}: want a share in (0, 1), got {share!r}")
    if not is_number(hubness) or not 1 <= hubness < math.inf:
        raise ValueError(f"hubness: want a number of at least 1, got {hubness!r}")
    null = m / (m + h)
    level = alpha / (statistics * looks)
    each = (1 + power) / 2
    near = min(1.0, near_share / null)

    def seen(samples: float, share: float) -> bool:
        independent = max(1, round(1 / (1 / samples + (hubness - 1) / (m + h))))
        return _chance(independent, null, share, level) >= each

    affinity = _smallest(lambda share: seen(n, share), null)
    copies = _smallest(lambda d: seen(n * (near + (1 - near) * d), (near * (1 - d) * null + d) / (near + (1 - near) * d)), 0.0)
    return Power(affinity, copies, null, n, m, h, looks, statistics, alpha, hubness, near_share, power)


def hubness(credit: Credit) -> float:
    """M sum_j pi_j^2 from the credit (nearest_credit) of unbiased samples in M rows: of held-out rows in the training set, say.

    Unbiased for n independent samples: sum_j w_j^2 without what each sample has with itself (1 / tie_count), over n (n - 1) pairs. It may
    fall below 1 by chance. Raises ValueError for fewer than 2 samples.
    """
    weights, tie_counts = np.asarray(credit.weights), np.asarray(credit.tie_counts)
    n = len(tie_counts)
    if n < 2:
        raise ValueError(f"credit: want that of at least 2 samples, got {n}")
    return float(len(weights) * ((weights**2).sum() - (1 / tie_counts).sum()) / (n * (n - 1)))


def _chance(rows: int, null: float, share: float, level: float) -> float:
    """Power of the one-sided binomial test of `null` with `rows` rows when the share is `share`."""
    if share >= 1:
        return float(null**rows <= level)
    tail = np.exp(binomial_log_pmf(rows, null))[::-1].cumsum()[::-1]     # P(count >= k), k = 0 .. rows
    passing = tail <= level
    return float(np.exp(binomial_log_pmf(rows, share))[passing].sum())


def _smallest(seen: Callable[[float], bool], low: float) -> float | None:
    """The smallest share in [low, 1] that is seen, to 1e-6; None if 1 is not."""
    high = 1.0
    if not seen(high):
        return None
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def _at_least(share: float | None, *, percent: bool = False) -> str:
    if share is None:
        return "no size"
    return f">= {100 * share:.2g} %" if percent else f">= {share:.3f}"
