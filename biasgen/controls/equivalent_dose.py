"""The equivalent dose: a statistic of samples, told as the start time of U-turns from training rows that have the same value."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biasgen.controls.samples import uturn
from biasgen.diffusion import Schedule
from biasgen.results import EquivalentDose, Result, field_values, json_safe
from biasgen.statistics.intervals import Z95


@dataclass(frozen=True)
class DoseCurve:
    """A statistic of U-turn samples by their start time. It falls from its value for copies at t0 = 0 to its null at t0 = T.

    t0s: increasing steps in 1..T, at least two. values, cis: the statistic and its 95 % interval at each. T: steps of the schedule.
    DoseCurve(**curve.as_dict()) is the curve again. Raises ValueError for fields that do not agree.
    """

    t0s: Sequence[int]
    values: Sequence[float]
    cis: Sequence[tuple[float, float]]
    T: int

    def __post_init__(self) -> None:
        t0s = _checked_t0s(self.t0s, self.T)
        if np.shape(self.values) != t0s.shape or not np.isfinite(np.asarray(self.values, float)).all():
            raise ValueError(f"values: want {len(t0s)} finite numbers, one a t0, got {self.values!r}")
        if np.shape(self.cis) != (len(t0s), 2) or not np.isfinite(_spread(self.values, self.cis)).all():
            raise ValueError(f"cis: want {len(t0s)} finite intervals (low, high), one a t0, got {self.cis!r}")
        if not _spread(self.values, self.cis).any():
            raise ValueError(f"cis: want intervals that are not all points, got {self.cis!r}")

    def equivalent(self, result: Result, *, redraws: int = 1999, seed: int = 0) -> EquivalentDose:
        """The start time at which U-turns have the value of `result`, the same statistic of other samples with the same sets.

        The curve is made to fall by isotonic regression with weights 1 / sd**2 and read at the value along lines between its points; a
        value beyond its ends is clipped and named in `censored`. The interval: `redraws` times the values of the curve and of `result`
        are drawn anew from normals with the sd of their intervals, all independent, and read without the lines: between two points only
        the order is used. So its ends are points of the curve (2.5 and 97.5 % quantiles), and a finer answer wants closer t0s. Where one
        pool of training and held-out rows is behind both, part of the noise is common and the interval is on the wide side.

        Raises TypeError for what is no Result, ValueError for one without a finite value and interval.
        """
        if not isinstance(result, Result):
            raise TypeError(f"result: want a Result, got {type(result).__name__}")
        if result.ci is None or not np.isfinite([result.value, *result.ci]).all():
            raise ValueError(f"result: want a finite value and ci, got {result.value!r} and {result.ci!r}")
        t0s, values, sd = np.asarray(self.t0s, float), np.asarray(self.values, float), _spread(self.values, self.cis)
        sd[sd == 0] = sd[sd > 0].min()   # a share of 1 has an interval without width, not an infinite weight
        fitted = _falling(values[None], sd**-2)[0]
        t0 = np.interp(result.value, fitted[::-1], t0s[::-1])
        rng = np.random.default_rng(seed)
        curves = _falling(values + sd * rng.standard_normal((redraws, len(sd))), sd**-2)
        level = result.value + _spread([result.value], [result.ci]) * rng.standard_normal((redraws, 1))
        last_above, first_below = (curves > level).sum(1) - 1, (curves >= level).sum(1)
        low = np.quantile(t0s[np.maximum(last_above, 0)], 0.025, method="lower")
        high = np.quantile(t0s[np.minimum(first_below, len(t0s) - 1)], 0.975, method="higher")
        censored = "stronger" if result.value > fitted[0] else "weaker" if result.value < fitted[-1] else None
        return EquivalentDose(float(t0 / self.T), (float(low / self.T), float(high / self.T)), censored)

    def as_dict(self) -> dict[str, Any]:
        """As json_safe gives it."""
        return json_safe(field_values(self))


def dose_curve(
    statistic: Callable[[Any], Result],
    rows: Any,
    denoiser: Any,
    schedule: Schedule,
    t0s: Sequence[int],
    *,
    seed: int = 0,
    Q: int | None = None,
    batch_size: int = 500,
) -> DoseCurve:
    """`statistic` of U-turns from `rows` at each of `t0s`: the ruler on which other samples are read by DoseCurve.equivalent.

    Args:
        statistic: samples -> Result with ci; larger is nearer to the training set, and its expectation does not depend on the number of
            samples: lambda gen: train_affinity(gen=gen, train=train, heldout=heldout).
        rows (n, ...): training rows, repeated for more samples than rows.
        denoiser, schedule, Q, batch_size: as for uturn. The exact denoiser, or a model that never saw the rows.
        t0s: increasing start times. Place them where the statistic moves; T itself is the curve's null.
        seed: of the noise; every point has its own.

    Cost: sum(t0s) evaluations of the denoiser a row. Raises ValueError for t0s out of order, before any sampling.
    Source: biasgen, docs/statistics.md.
    """
    _checked_t0s(t0s, schedule.T)
    results = []
    for i, t0 in enumerate(t0s):
        results.append(statistic(uturn(rows, denoiser, schedule, t0, seed, Q=Q, offset=i * len(rows), batch_size=batch_size)))
        if results[i].ci is None:
            raise ValueError("statistic: want Results with ci, got None")
    return DoseCurve(list(t0s), [result.value for result in results], [result.ci for result in results], schedule.T)


def _checked_t0s(t0s: Sequence[int], T: int) -> np.ndarray:
    steps = np.asarray(t0s)
    if steps.ndim != 1 or len(steps) < 2 or (np.diff(steps) <= 0).any() or not 1 <= steps[0] <= steps[-1] <= T:
        raise ValueError(f"t0s: want at least two increasing steps in 1..{T}, got {t0s!r}")
    return steps


def _spread(values: Sequence[float], cis: Sequence[tuple[float, float]]) -> np.ndarray:
    """(k,) sd behind 95 % intervals, from their wider side: the other may be cut at the end of the statistic's range."""
    values, cis = np.asarray(values, float), np.asarray(cis, float)
    return np.maximum(values - cis[:, 0], cis[:, 1] - values) / Z95


def _falling(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R, k) non-increasing curves nearest to values (R, k) in weighted (k,) least squares, by the min-max formula of isotonic regression:
    at i the largest over b >= i of the smallest over a <= i of the weighted mean of a..b. Robertson, Wright and Dykstra 1988, 1.4.
    """
    k = values.shape[1]
    means = np.full((k, k, len(values)), np.nan)
    for a in range(k):
        means[a, a:] = (np.cumsum(weights[a:] * values[:, a:], 1) / np.cumsum(weights[a:])).T
    return np.stack([np.nanmin(means[: i + 1, i:], 0).max(0) for i in range(k)], 1)
