"""The decision over a sequence of evaluations: has bias begun, and when?"""
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist

from biasgen._numbers import is_number, is_whole
from biasgen.results import Onset, Result
from biasgen.statistics.intervals import Z95

FEWEST = 8
"""Evaluations below which not having found anything says nothing."""
_ROUNDING = 1e-9    # 5 / 5000 and .05 / 50 are one number in exact arithmetic


def detect(
    history: Sequence[tuple[int, Mapping[str, Result]]],
    *,
    statistics: Sequence[str],
    looks: int,
    alpha: float = 0.05,
    tolerance: float = 0.0,
) -> Onset:
    """When one of the watched statistics left its null for good, with a chance of at most `alpha` of saying so without bias.

    A statistic fires at an evaluation when its p is at most level = alpha / (number of statistics x looks): the lower bound of its excess
    by its own, exact test lies above 0. With a tolerance the one-sided normal lower bound of the excess at that level must exceed it as
    well. Bias is detected where one statistic fires at two consecutive evaluations. The union bound holds however evaluations and
    statistics depend on each other (they share training set, held-out rows and noise); asking for two in a row only lowers the rate.

    Args:
        history: (step, {name: Result}) of each evaluation, steps increasing. An evaluation without the statistic or without its p does
            not fire, and parts its neighbors.
        statistics: names watched, the main one first.
        looks: planned evaluations. Those beyond are tested at the same level, and what they add is in Onset.alpha.
        alpha: bound on the chance of a false alarm over the planned evaluations.
        tolerance: excess, in units of the statistics, that is not called bias.

    Returns:
        Onset; step is the first of the two evaluations. A detection stands at any number of evaluations, its error rate is kept. Without
        one, fewer than 8 evaluations are "inconclusive", 8 and more "none".

    A permutation p reaches the level only with permutations_needed(level) of them. Raises ValueError for bad arguments.
    Source: biasgen, docs/statistics.md.
    """
    if isinstance(statistics, str) or not statistics or len(set(statistics)) < len(statistics):
        raise ValueError(f"statistics: want different names, at least one, got {statistics!r}")
    if not is_whole(looks, 1):
        raise ValueError(f"looks: want a whole number of at least 1, got {looks!r}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: want a share in (0, 1), got {alpha!r}")
    if not is_number(tolerance) or not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance: want an excess >= 0, got {tolerance!r}")
    steps = [step for step, _ in history]
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"history: want increasing steps, got {steps}")
    level = alpha / (len(statistics) * looks)
    fired = [[_fires(metrics.get(name), level, tolerance) for name in statistics] for _, metrics in history]
    spent = alpha if len(history) <= looks else min(1.0, alpha * len(history) / looks)
    for i in range(len(history) - 1):
        for s, name in enumerate(statistics):
            if fired[i][s] and fired[i + 1][s]:
                return Onset("detected", steps[i], history[i][1][name].excess_ci, name, spent, len(history), censored=i == 0)
    last = history[-1][1].get(statistics[0]) if history else None
    status = "inconclusive" if len(history) < FEWEST else "none"
    return Onset(status, None, None if last is None else last.excess_ci, statistics[0], spent, len(history))


def permutations_needed(level: float) -> int:
    """Permutations with which a p of `level` / 5 can be reached, and 999 at least: then 4 of them may still reach the value by chance."""
    if not 0 < level < 1:
        raise ValueError(f"level: want a share in (0, 1), got {level!r}")
    return max(999, math.ceil(5 / level * (1 - _ROUNDING)) - 1)


def _fires(result: Result | None, level: float, tolerance: float) -> bool:
    if result is None or result.p_value is None or not result.p_value <= level * (1 + _ROUNDING):     # a NaN does not fire
        return False
    if tolerance == 0:
        return True
    if result.excess_ci is None:
        return False
    half = (result.value - result.ci[0]) * NormalDist().inv_cdf(1 - level) / Z95
    return result.excess - half > tolerance
