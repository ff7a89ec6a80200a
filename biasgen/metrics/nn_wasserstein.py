"""NN Wasserstein: how far nearest distances of generated and held-out rows are apart."""

from typing import Any

from biasgen.metrics._nearest import compare
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.registry import register
from biasgen.results import Result
from biasgen.statistics import two_sample


@register("nn_wasserstein")
def measure(comparison: Comparison) -> Result:
    """nn_wasserstein of the sets of a comparison; the placebo where it has one."""
    return compare(comparison, two_sample.wasserstein)


def nn_wasserstein(
    *,
    gen: Any,
    train: Any,
    heldout: Any,
    placebo: Any = None,
    distance: str | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Result:
    """Wasserstein-1 distance of the nearest distances of generated from those of held-out rows.

    It is that of the distances gen -> train from the distances heldout -> train, in their unit.

    The companion of nn_divergence for distances of many values. Unsigned: samples too far away
    count as those too near do.

    Args:
        gen (n, ...), train (m, ...), heldout (h, ...): arrays, tensors or a TrainingSet, of one
            shape and element type.
        placebo: rows the model never saw; the result's placebo is the same number against it.
        distance: name; None: the TrainingSet's own, else by element type.
        permutations, seed: of the null, which relabels the pooled distances at the true sizes.

    Returns:
        Result with the upper-tail p and per_sample = distances to train. ci: rows redrawn, their
        deviations put about the value (see nn_divergence); its lower end may be negative.

    Raises ValueError for sets that do not agree, before any search. Source: biasgen,
    docs/statistics.md.
    """
    sets = {"gen": gen, "train": train, "heldout": heldout, "placebo": placebo}
    return measure(Comparison(**sets, distance=distance, permutations=permutations, seed=seed))
