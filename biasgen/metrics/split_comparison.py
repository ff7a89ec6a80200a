"""Two models trained on disjoint sets: does each lie nearer to its own than to the other's?"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from biasgen.metrics._sets import check_sets, check_settings, rows_of, to_numpy
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.near_affinity import near_threshold
from biasgen.metrics.near_copies import near_share
from biasgen.metrics.nn_divergence import divergence, largest_distance
from biasgen.metrics.own_share import own
from biasgen.metrics.registry import register
from biasgen.ops.paired import paired_distances
from biasgen.results import Result, SplitResult
from biasgen.statistics import two_sample
from biasgen.statistics.intervals import Z95, wilson


@register("split_comparison", needs=("gen", "train", "heldout", "twin_gen", "twin_train"))
def measure(comparison: Comparison, *, alpha: float | None = None) -> dict[str, Result]:
    """The Results of split_comparison, by name. Models A and B are the model and its twin.

    alpha: None: the comparison's.
    """
    return _compare(comparison, comparison.alpha if alpha is None else alpha).as_dict()


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
    """Compare two models through the sets that one saw and the other did not.

    Every number is the mean of both models.

    Args:
        gen_a, gen_b (n, ...): rows of each model; row i of both from the same noise.
        train_a (m_a, ...), train_b (m_b, ...): the disjoint training sets; a TrainingSet is
            searched as it was prepared.
        heldout (h, ...): rows that neither model saw.
        alpha: share of held-out rows allowed within the near-copy threshold v: the largest observed
            held-out distance for which the mean over both training sets of the held-out share
            within it is <= alpha. Swapping the models does not change it.
        distance: name; None: the TrainingSet's own, else by element type.
        permutations, seed: of every null.

    Returns:
        SplitResult. own_share and near_own_share: (share of gen_a nearest to train_a + share of
        gen_b nearest to train_b) / 2 in the pool of both training sets, ties counted fractionally,
        null exactly 1/2; one relabeling of the pool serves both models. near_own_share counts the
        samples with a pool row within v; a model that has none enters with the share of a uniform
        credit, its own null. Their n_gen and n_train count both models. kl_own and kl_placebo:
        nn_divergence against the own and the other training set, null by relabeling a row for both
        models at once; auc_own and auc_placebo likewise, see nn_auc. That null is exact where both
        models make the same sample of the same noise; for independent samples the AUC's size is 2-9
        % at a nominal 5 %. near_copies: near_copies at v, p of near_own_share, Wilson interval at n
        rows, since the same noise may give both models the same sample. twin_distance: mean
        distance of row i of gen_a to row i of gen_b, per_sample (n,), normal interval over these
        rows; it has no null. per_sample of the own numbers is (2, n), the distances of gen_a and
        gen_b to their own training set; of the placebos to the other.

    Raises ValueError for sets that do not agree, before any search. Source: biasgen,
    docs/statistics.md.
    """
    check_settings(permutations=permutations, alpha=alpha)
    distance = check_sets(
        distance, train_a=train_a, train_b=train_b, gen_a=gen_a, gen_b=gen_b, heldout=heldout
    )
    if len(gen_b) != len(gen_a):
        raise ValueError(
            f"gen_b: want {len(gen_a)} rows as in gen_a (row i of both from the same noise), "
            f"got {len(gen_b)}"
        )
    sets = {
        "gen": gen_a,
        "twin_gen": gen_b,
        "train": train_a,
        "twin_train": train_b,
        "heldout": heldout,
    }
    comparison = Comparison(
        **sets, distance=distance, alpha=alpha, permutations=permutations, seed=seed
    )
    return _compare(comparison, alpha)


def _compare(comparison: Comparison, alpha: float) -> SplitResult:
    check_settings(alpha=alpha)
    distances = comparison.nearest_distances
    trains, gens = ("train", "twin_train"), ("gen", "twin_gen")
    m_a, n = len(comparison.train), len(comparison.gen)
    m, h = m_a + len(comparison.twin_train), len(comparison.heldout)
    of_heldout = np.stack([distances("heldout", train) for train in trains])
    v = near_threshold(of_heldout.ravel(), alpha)
    to_a, to_b = (np.stack([distances(gen, train) for gen in gens]) for train in trains)
    to_own, to_other = np.stack([to_a[0], to_b[1]]), np.stack([to_b[0], to_a[1]])
    params = {"distance": comparison.distance, "alpha": alpha, "threshold": v} | comparison.test
    sizes = {"n_gen": 2 * n, "n_train": m, "n_heldout": h}

    def compared(test_of: Callable[..., Result]) -> tuple[Result, Result]:
        to_self = test_of(list(zip(to_own, of_heldout, strict=True)), **comparison.test)
        to_twin = test_of(list(zip(to_other, of_heldout[::-1], strict=True)), **comparison.test)
        return (
            replace(
                to_self,
                placebo=to_twin.value,
                per_sample=to_own,
                params=to_self.params | params,
                **sizes,
            ),
            replace(to_twin, per_sample=to_other, params=to_twin.params | params, **sizes),
        )

    def share(within: float | None, named: float | None) -> Result:
        credits = (comparison.credit(gen, trains, within) for gen in gens)
        return own(
            *credits,
            comparison.pool(*trains),
            m_a=m_a,
            **comparison.test,
            params=params | {"within": named},
        )

    near_own_share = share(-1 if v is None else v, v)
    kl_own, kl_placebo = compared(
        partial(divergence, largest=largest_distance(comparison.heldout, comparison.distance))
    )
    auc_own, auc_placebo = compared(two_sample.auc)
    copies = near_share(
        to_own.ravel(),
        of_heldout.ravel(),
        v,
        placebo=to_other.ravel(),
        p_value=near_own_share.p_value,
        n_train=m,
        params=params,
    )
    rows = (to_numpy(rows_of(getattr(comparison, gen), gen)) for gen in gens)
    apart = paired_distances(*rows, distance=comparison.distance)
    mean, spread = float(apart.mean()), Z95 * float(apart.std()) / math.sqrt(n)
    return SplitResult(
        own_share=share(None, None),
        near_own_share=near_own_share,
        kl_own=kl_own,
        kl_placebo=kl_placebo,
        auc_own=auc_own,
        auc_placebo=auc_placebo,
        near_copies=replace(copies, ci=wilson(copies.value * n, n), per_sample=to_own, **sizes),
        twin_distance=Result(
            mean,
            ci=(mean - spread, mean + spread),
            per_sample=apart,
            params=params,
            n_gen=2 * n,
            n_train=m,
        ),
    )
