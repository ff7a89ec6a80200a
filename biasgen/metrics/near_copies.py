"""Near-copies: the share of generated rows closer to the training set than held-out rows (almost) ever are."""
from typing import Any

import numpy as np

from biasgen.metrics._sets import Pool, check_sets, check_settings, near_credit, nearest_distances, pool_credit, prepared, views_of
from biasgen.metrics.train_affinity import affinity
from biasgen.results import Result
from biasgen.statistics.intervals import wilson


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
    """Share of the rows of `gen` within v of `train`, where v is the largest observed held-out distance whose held-out share is <= alpha.

    Args:
        gen (n, ...), train (m, ...), heldout (h, ...): arrays, tensors or a TrainingSet, of one shape and element type.
        placebo: rows the model never saw (another model's training set); the result's placebo is the share of gen within the same v of it.
        alpha: share of held-out rows allowed within v.
        distance: name; None: the TrainingSet's own, else by element type.
        permutations, seed: of the test, which is near affinity at v (train_affinity with within=v).

    Returns:
        Result with heldout = share of held-out rows within v, a Wilson interval that treats generated rows as independent, the p of near
        affinity, and per_sample = distances to train. params["threshold"] is v, or None where even the smallest held-out distance is
        too common: then no row counts and p = 1.

    Raises ValueError for sets that do not agree, before any search. Source: biasgen, docs/statistics.md.
    """
    check_settings(permutations=permutations, alpha=alpha)
    distance = check_sets(distance, train=train, gen=gen, heldout=heldout, placebo=placebo)
    views = views_of(train, heldout, placebo)
    train = prepared(train, distance, views)
    to_heldout = nearest_distances(heldout, train, distance)
    v = near_threshold(to_heldout, alpha)
    pool = Pool(train, heldout, distance)
    credit = near_credit(gen, pool, distance, pool_credit(gen, pool, distance), v)
    params = {"distance": distance, "alpha": alpha, "threshold": v, "permutations": permutations, "seed": seed}
    return near_share(
        nearest_distances(gen, train, distance),
        to_heldout,
        v,
        placebo=None if placebo is None else nearest_distances(gen, prepared(placebo, distance, views), distance),
        p_value=affinity(credit, pool, n_train=len(train), permutations=permutations, seed=seed, params={}).p_value,
        n_train=len(train),
        params=params,
    )


def near_threshold(heldout: np.ndarray, alpha: float) -> float | int | None:
    """The largest of the observed distances (h,) that at most a share `alpha` of them reach, or None."""
    values, counts = np.unique(heldout, return_counts=True)
    allowed = np.cumsum(counts) <= alpha * len(heldout)
    return values[allowed][-1].item() if allowed.any() else None


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
    """The Result from distances to the training set (gen (n,), heldout (h,)) and to the placebo set (placebo (n,))."""
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
