"""Near-copies: the share of generated rows nearer to train than held-out rows almost ever are."""

from typing import Any

import numpy as np

from biasgen.metrics import near_affinity
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.registry import register
from biasgen.results import Result
from biasgen.statistics.intervals import wilson


@register("near_copies")
def measure(comparison: Comparison, *, alpha: float | None = None) -> Result:
    """near_copies of the sets of a comparison; the placebo where it has one.

    alpha: None: the comparison's.
    """
    near = near_affinity.measure(comparison, alpha=alpha)
    alpha, v = comparison.alpha if alpha is None else alpha, near.params["within"]
    no_placebo = comparison.placebo is None
    return near_share(
        comparison.nearest_distances("gen", "train"),
        comparison.nearest_distances("heldout", "train"),
        v,
        placebo=None if no_placebo else comparison.nearest_distances("gen", "placebo"),
        p_value=near.p_value,
        n_train=len(comparison.train),
        params=comparison.params | {"alpha": alpha, "threshold": v},
    )


def near_copies(
    *,
    gen: Any,
    train: Any,
    heldout: Any,
    placebo: Any = None,
    alpha: float = 0.01,
    distance: str | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Result:
    """Share of the rows of `gen` within v of `train`.

    v is the largest observed held-out distance whose held-out share is <= alpha.

    Args:
        gen (n, ...), train (m, ...), heldout (h, ...): arrays, tensors or a TrainingSet, of one
            shape and element type.
        placebo: rows the model never saw (another model's training set); the result's placebo is
            the share of gen within the same v of it.
        alpha: share of held-out rows allowed within v.
        distance: name; None: the TrainingSet's own, else by element type.
        permutations, seed: of the test, which is near affinity at v (train_affinity with within=v).

    Returns:
        Result with heldout = share of held-out rows within v, a Wilson interval that treats
        generated rows as independent, the p of near affinity, and per_sample = distances to train.
        params["threshold"] is v, or None where even the smallest held-out distance is too common:
        then no row counts and p = 1.

    Raises ValueError for sets that do not agree, before any search. Source: biasgen,
    docs/statistics.md.
    """
    sets = {"gen": gen, "train": train, "heldout": heldout, "placebo": placebo}
    test = {"permutations": permutations, "seed": seed}
    return measure(Comparison(**sets, distance=distance, alpha=alpha, **test))


def near_share(
    gen: np.ndarray,
    heldout: np.ndarray,
    v: float | None,
    *,
    placebo: np.ndarray | None,
    p_value: float,
    n_train: int,
    params: dict[str, Any],
) -> Result:
    """The Result of the distances gen (n,) and heldout (h,) to train, and placebo (n,) of gen."""
    reach = -1 if v is None else v
    count = int((gen <= reach).sum())
    return Result(
        count / len(gen),
        ci=wilson(count, len(gen)),
        p_value=p_value,
        heldout=float((heldout <= reach).mean()),
        placebo=None if placebo is None else float((placebo <= reach).mean()),
        per_sample=gen,
        n_gen=len(gen),
        n_train=n_train,
        n_heldout=len(heldout),
        params=params,
    )
