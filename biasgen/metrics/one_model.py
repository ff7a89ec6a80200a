"""One model's samples against one training set: every metric that needs no second model, on one set of searches."""
from dataclasses import replace
from typing import Any

import numpy as np

from biasgen.metrics._sets import Pool, check_sets, check_settings, near_credit, nearest_distances, pool_credit, prepared, views_of
from biasgen.metrics.near_copies import near_share, near_threshold
from biasgen.metrics.nn_divergence import divergence, largest_distance
from biasgen.metrics.train_affinity import affinity
from biasgen.results import Result
from biasgen.statistics import two_sample


def one_model(
    *, gen: Any, train: Any, heldout: Any, alpha: float = 0.01, distance: str | None = None, permutations: int = 999, seed: int = 0
) -> dict[str, Result]:
    """OneModel(train, heldout, distance, alpha)(gen): its metrics by name.

    Raises ValueError for sets that do not agree, before any search.
    """
    check_settings(permutations=permutations, alpha=alpha)
    distance = check_sets(distance, train=train, gen=gen, heldout=heldout)
    return OneModel(train, heldout, distance, alpha)(gen, permutations=permutations, seed=seed)


class OneModel:
    """Training and held-out rows, prepared and searched once; called with samples, at every checkpoint of a training for example.

    Args:
        train (m, ...), heldout (h, ...): arrays, tensors or a TrainingSet, of one shape and element type.
        distance: name; None: the TrainingSet's own, else by element type.
        alpha: of near_copies.

    A call with gen (n, ...) returns train_affinity, near_affinity (train_affinity with within=v, v being near_copies' threshold),
    near_copies, nn_divergence, nn_auc and, for distances other than hamming, nn_wasserstein and nn_ks: the Results of the functions of
    these names at the same settings.

    heldout_distances (h,): of the held-out rows to train. threshold: v. largest: see nn_divergence.largest_distance.

    Raises ValueError for sets that do not agree, before any search.
    """

    def __init__(self, train: Any, heldout: Any, distance: str | None = None, alpha: float = 0.01) -> None:
        check_settings(alpha=alpha)
        self.distance = check_sets(distance, train=train, heldout=heldout)
        self.alpha = alpha
        self.train = prepared(train, self.distance, views_of(train, heldout))
        self.heldout_distances = nearest_distances(heldout, self.train, self.distance)
        self.threshold = near_threshold(self.heldout_distances, alpha)
        self.pool = Pool(self.train, heldout, self.distance)
        self.largest = largest_distance(heldout, self.distance)

    def __call__(self, gen: Any, *, permutations: int = 999, seed: int = 0) -> dict[str, Result]:
        check_settings(permutations=permutations)
        check_sets(self.distance, train=self.train, gen=gen)
        m, v = len(self.train), self.threshold
        to_train = nearest_distances(gen, self.train, self.distance)
        credit = pool_credit(gen, self.pool, self.distance)
        test = {"permutations": permutations, "seed": seed}
        params = {"distance": self.distance} | test
        copies = {"alpha": self.alpha, "threshold": v}
        near = near_credit(gen, self.pool, self.distance, credit, v)
        near = affinity(near, self.pool, n_train=m, **test, params=params | {"within": v})
        pairs = self.pairs(to_train)
        compared = {"nn_divergence": divergence(pairs, largest=self.largest, **test), "nn_auc": two_sample.auc(pairs, **test)}
        if self.distance != "hamming":     # whose few values need no statistic without bins
            compared |= {"nn_wasserstein": two_sample.wasserstein(pairs, **test), "nn_ks": two_sample.kolmogorov_smirnov(pairs, **test)}
        extra = {"nn_divergence": {"compat": None}}
        return {
            "train_affinity": affinity(credit, self.pool, n_train=m, **test, params=params | {"within": None}),
            "near_affinity": near,
            "near_copies": near_share(
                to_train, self.heldout_distances, v, placebo=None, p_value=near.p_value, n_train=m, params=params | copies
            ),
        } | {
            name: replace(result, per_sample=to_train, n_train=m, params=result.params | params | extra.get(name, {}))
            for name, result in compared.items()
        }

    def pairs(self, to_train: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """What nn_divergence.divergence and divergence_curve take, from distances (n,) to train: the per_sample of a call's Results."""
        return [(to_train, self.heldout_distances)]
