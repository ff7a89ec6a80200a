"""Where a curve over training is lowest, and how sure that is."""
from collections.abc import Sequence

import numpy as np

from biasgen.results import TurningPoint
from biasgen.statistics.bootstrap import cluster_sums, redrawn_sums


def turning_point(
    steps: Sequence[int], values: np.ndarray, *, clusters: np.ndarray | None = None, redraws: int = 999, seed: int = 0
) -> TurningPoint:
    """The lowest point of the mean of `values` over rows, e.g. of a held-out loss.

    Rows are redrawn jointly over the evaluations: these share held-out rows and noise, so their differences are far more precise than
    each one's interval says.

    Args:
        steps (C,): increasing steps of the evaluations.
        values (N, C): row i of every column is the same row (and noise) at another evaluation.
        clusters (N,): integer ids of rows that belong together, e.g. one image under several noises; None: every row is its own.
        redraws, seed: of the bootstrap.

    Raises ValueError for sizes that do not agree and for values that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"values: want (N, C), one column an evaluation, got shape {values.shape}")
    sums = cluster_sums(np.column_stack([values, np.ones(len(values))]), clusters)
    redrawn = redrawn_sums(sums, redraws, np.random.default_rng(seed))
    return lowest(steps, values.mean(axis=0), redrawn[:, :-1] / redrawn[:, -1:])


def lowest(
    steps: Sequence[int], curve: np.ndarray, redrawn: np.ndarray, null_q95: np.ndarray | Sequence[float] | None = None
) -> TurningPoint:
    """The lowest point of `curve` (C,), its interval from redrawn curves (R, C).

    Of the redrawn curves only the deviations from their own mean are used, put about `curve`: a divergence of redrawn histograms lies
    higher than the one measured, by an amount that changes along the curve, and its minimum is another one. The interval is between
    the 2.5 and 97.5 % quantile of the steps that are lowest. Among equal values the first is the lowest.

    null_q95 (C,): 95 % quantile of the curve's null at each evaluation: a minimum within it is no turning point (inside_null).
    Raises ValueError for sizes that do not agree, steps that do not increase and numbers that are not finite.
    """
    steps, curve, redrawn = np.asarray(steps), np.asarray(curve, dtype=np.float64), np.asarray(redrawn, dtype=np.float64)
    if curve.ndim != 1 or len(curve) == 0 or not np.isfinite(curve).all():
        raise ValueError(f"curve: want finite numbers (C,), got {curve.tolist()}")
    if steps.shape != curve.shape or not (np.diff(steps) > 0).all():
        raise ValueError(f"steps: want {len(curve)} increasing steps, got {steps.tolist()}")
    if redrawn.ndim != 2 or redrawn.shape[1] != len(curve) or len(redrawn) == 0 or not np.isfinite(redrawn).all():
        raise ValueError(f"redrawn: want finite (R, {len(curve)}), got shape {redrawn.shape}")
    if null_q95 is not None and len(null_q95) != len(curve):
        raise ValueError(f"null_q95: want {len(curve)} numbers, got {len(null_q95)}")
    at = int(curve.argmin())
    places = (curve + redrawn - redrawn.mean(axis=0)).argmin(axis=1)
    low, high = np.quantile(places, [0.025, 0.975], method="inverted_cdf")
    return TurningPoint(
        step=int(steps[at]),
        interval=(int(steps[min(low, at)]), int(steps[max(high, at)])),   # a quiet minimum among noisy points is rarely lowest
        censored=at == len(curve) - 1,
        inside_null=None if null_q95 is None else bool(curve[at] <= null_q95[at]),
    )
