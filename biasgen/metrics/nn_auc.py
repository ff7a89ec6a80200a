"""NN AUC: how often a generated row lies nearer to the training set than a held-out row does."""

from typing import Any

from biasgen.metrics._nearest import compare
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.registry import register
from biasgen.results import Result
from biasgen.statistics import two_sample


@register("nn_auc")
def measure(comparison: Comparison) -> Result:
    """nn_auc of the sets of a comparison; the placebo where it has one."""
    return compare(comparison, two_sample.auc)


def nn_auc(
    *,
    gen: Any,
    train: Any,
    heldout: Any,
    placebo: Any = None,
    distance: str | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Result:
    """P(d1(g; train) < d1(h; train)) + P(=) / 2, where d1 is the nearest distance.

    g is a row of `gen` and h a row of `heldout`, drawn at random.

    1/2 for a perfect sampler, above it where samples lie nearer to the training set. Signed, but as
    nn_divergence it needs samples of the right quality: bad ones lie too far from everything and
    hide bias. Read it beside its placebo, and decide on train_affinity.

    Args:
        gen (n, ...), train (m, ...), heldout (h, ...): arrays, tensors or a TrainingSet, of one
            shape and element type.
        placebo: rows the model never saw; the result's placebo is the same number against it.
        distance: name; None: the TrainingSet's own, else by element type.
        permutations, seed: of the null, which relabels the pooled distances at the true sizes.

    Returns:
        Result with the upper-tail p, the 95 % interval of DeLong et al. 1988 given the training set
        (it shrinks to a point at 0 and 1), heldout = 1/2 and per_sample = distances to train.
        params["z_u"] is the z of the Mann-Whitney U with the variance corrected for ties; below
        zero is nearer.

    Raises ValueError for sets that do not agree, before any search.
    Source: the U of Meehan et al. 2020, arXiv:2004.05675, without cells; null: docs/statistics.md.
    """
    sets = {"gen": gen, "train": train, "heldout": heldout, "placebo": placebo}
    return measure(Comparison(**sets, distance=distance, permutations=permutations, seed=seed))
