"""Two models trained on disjoint sets: does each lie nearer to its own than to the other's?"""
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from biasgen.metrics._sets import (
    Pool,
    check_sets,
    check_settings,
    near_credit,
    nearest_distances,
    pool_credit,
    prepared,
    rows_of,
    to_numpy,
    views_of,
)
from biasgen.metrics.near_copies import near_share, near_threshold
from biasgen.metrics.nn_divergence import divergence, largest_distance
from biasgen.metrics.own_share import own
from biasgen.ops.paired import paired_distances
from biasgen.results import Result, SplitResult
from biasgen.statistics import two_sample
from biasgen.statistics.intervals import Z95, wilson


def split_comparison(
    *,
    gen_a: Any,
    gen_b: Any,
    train_a: Any,
    train_b: Any,
    heldout: Any,
    alpha: float = 0.01,
    distance: str | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> SplitResult:
    """Compare two models through the sets that one saw and the other did not. Every number is the mean of both models.

    Args:
        gen_a, gen_b (n, ...): rows of each model; row i of both from the same noise.
        train_a (m_a, ...), train_b (m_b, ...): the disjoint training sets; a TrainingSet is searched as it was prepared.
        heldout (h, ...): rows that neither model saw.
        alpha: share of held-out rows allowed within the near-copy threshold v: the largest observed held-out distance for which the mean
            over both training sets of the held-out share within it is <= alpha. Swapping the models does not change it.
        distance: name; None: the TrainingSet's own, else by element type.
        permutations, seed: of every null.

    Returns:
        SplitResult. own_share and near_own_share: (share of gen_a nearest to train_a + share of gen_b nearest to train_b) / 2 in the
        pool of both training sets, ties counted fractionally, null exactly 1/2; one relabeling of the pool serves both models.
        near_own_share counts the samples with a pool row within v; a model that has none enters with the share of a uniform credit,
        its own null. Their n_gen and n_train count both models. kl_own and kl_placebo: nn_divergence against the own and the other
        training set, null by relabeling a row for both models at once; auc_own and auc_placebo likewise, see nn_auc. That null is exact
        where both models make the same sample of the same noise; for independent samples the AUC's size is 2-9 % at a nominal 5 %.
        near_copies: near_copies at v, p of near_own_share, Wilson interval at n rows, since the same noise may give both models the same
        sample.
        twin_distance: mean distance of row i of gen_a to row i of gen_b, per_sample (n,), normal interval over these rows; it has no null.
        per_sample of the own numbers is (2, n), the distances of gen_a and gen_b to their own training set; of the placebos to the other.

    Raises ValueError for sets that do not agree, before any search. Source: biasgen, docs/statistics.md.
    """
    check_settings(permutations=permutations, alpha=alpha)
    distance = check_sets(distance, train_a=train_a, train_b=train_b, gen_a=gen_a, gen_b=gen_b, heldout=heldout)
    _check_pairs(gen_a, gen_b)
    return SplitComparison(train_a, train_b, heldout, distance, alpha)(gen_a, gen_b, permutations=permutations, seed=seed)


class SplitComparison:
    """Two disjoint training sets and held-out rows, prepared and searched once; called with both models' samples, at every checkpoint
    of a training for example. Arguments, result and errors are those of split_comparison.

    heldout_distances (2, h): of the held-out rows to train_a and to train_b. threshold: v. largest: see nn_divergence.largest_distance.
    """

    def __init__(self, train_a: Any, train_b: Any, heldout: Any, distance: str | None = None, alpha: float = 0.01) -> None:
        check_settings(alpha=alpha)
        self.distance = check_sets(distance, train_a=train_a, train_b=train_b, heldout=heldout)
        self.alpha = alpha
        views = views_of(train_a, train_b, heldout)
        self.train_a, self.train_b = (prepared(train, self.distance, views) for train in (train_a, train_b))
        self.pool = Pool(self.train_a, self.train_b, self.distance)
        self.heldout_distances = np.stack([nearest_distances(heldout, train, self.distance) for train in (self.train_a, self.train_b)])
        self.threshold = near_threshold(self.heldout_distances.ravel(), alpha)
        self.largest = largest_distance(heldout, self.distance)

    def __call__(self, gen_a: Any, gen_b: Any, *, permutations: int = 999, seed: int = 0) -> SplitResult:
        check_settings(permutations=permutations)
        check_sets(self.distance, train_a=self.train_a, gen_a=gen_a, gen_b=gen_b)
        _check_pairs(gen_a, gen_b)
        m_a, m, n, h = len(self.train_a), self.pool.prepared.n, len(gen_a), self.heldout_distances.shape[1]
        to_a, to_b = (
            np.stack([nearest_distances(gen, train, self.distance) for gen in (gen_a, gen_b)]) for train in (self.train_a, self.train_b)
        )
        to_own, to_other = np.stack([to_a[0], to_b[1]]), np.stack([to_b[0], to_a[1]])
        test = {"permutations": permutations, "seed": seed}
        params = {"distance": self.distance, "alpha": self.alpha, "threshold": self.threshold} | test
        sizes = {"n_gen": 2 * n, "n_train": m, "n_heldout": h}

        def compared(test_of: Callable[..., Result]) -> tuple[Result, Result]:
            to_self, to_twin = test_of(self.pairs(to_own), **test), test_of(self.pairs(to_other, placebo=True), **test)
            return (
                replace(to_self, placebo=to_twin.value, per_sample=to_own, params=to_self.params | params, **sizes),
                replace(to_twin, per_sample=to_other, params=to_twin.params | params, **sizes),
            )

        credits = [pool_credit(gen, self.pool, self.distance) for gen in (gen_a, gen_b)]
        near = [
            near_credit(gen, self.pool, self.distance, credit, self.threshold)
            for gen, credit in zip((gen_a, gen_b), credits, strict=True)
        ]
        near_own_share = own(*near, self.pool, m_a=m_a, **test, params=params | {"within": self.threshold})
        kl_own, kl_placebo = compared(partial(divergence, largest=self.largest))
        auc_own, auc_placebo = compared(two_sample.auc)
        copies = near_share(
            to_own.ravel(),
            self.heldout_distances.ravel(),
            self.threshold,
            placebo=to_other.ravel(),
            p_value=near_own_share.p_value,
            n_train=m,
            params=params,
        )
        apart = paired_distances(to_numpy(rows_of(gen_a, "gen_a")), to_numpy(rows_of(gen_b, "gen_b")), distance=self.distance)
        mean, spread = float(apart.mean()), Z95 * float(apart.std()) / math.sqrt(n)
        return SplitResult(
            own_share=own(*credits, self.pool, m_a=m_a, **test, params=params | {"within": None}),
            near_own_share=near_own_share,
            kl_own=kl_own,
            kl_placebo=kl_placebo,
            auc_own=auc_own,
            auc_placebo=auc_placebo,
            near_copies=replace(copies, ci=wilson(copies.value * n, n), per_sample=to_own, **sizes),
            twin_distance=Result(mean, ci=(mean - spread, mean + spread), per_sample=apart, params=params, n_gen=2 * n, n_train=m),
        )

    def pairs(self, distances: np.ndarray, placebo: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
        """What nn_divergence.divergence and divergence_curve take, one pair a model, from the per_sample (2, n) of a call's own numbers;
        with `placebo` from that of its placebos."""
        return list(zip(distances, self.heldout_distances[::-1] if placebo else self.heldout_distances, strict=True))


def _check_pairs(gen_a: Any, gen_b: Any) -> None:
    if len(gen_b) != len(gen_a):
        raise ValueError(f"gen_b: want {len(gen_a)} rows as in gen_a (row i of both from the same noise), got {len(gen_b)}")
