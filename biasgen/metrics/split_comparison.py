"""Two models trained on disjoint sets: does each lie nearer to its own than to the other's?"""
import math
from dataclasses import replace
from typing import Any

import numpy as np

from biasgen.metrics._sets import check_sets, check_settings, near_credit, nearest_distances, pool_credit, pooled, prepared, rows_of
from biasgen.metrics.near_copies import near_share, near_threshold
from biasgen.metrics.nn_divergence import divergence, largest_distance
from biasgen.metrics.train_affinity import credit_shares, sum_of_squares
from biasgen.results import Credit, Result, SplitResult
from biasgen.statistics.intervals import Z95, wilson
from biasgen.statistics.permutation import subset_sums, upper_tail


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
        training set, null by relabeling a row for both models at once. near_copies: near_copies at v, p of near_own_share, Wilson
        interval at n rows, since the same noise may give both models the same sample.

    Raises ValueError for sets that do not agree, before any search. Source: biasgen, docs/statistics.md.
    """
    check_settings(permutations=permutations, alpha=alpha)
    distance = check_sets(distance, train_a=train_a, train_b=train_b, gen_a=gen_a, gen_b=gen_b, heldout=heldout)
    n = len(gen_a)
    if len(gen_b) != n:
        raise ValueError(f"gen_b: want {n} rows as in gen_a (row i of both from the same noise), got {len(gen_b)}")
    train_a, train_b = prepared(train_a, distance), prepared(train_b, distance)
    a_to_a, b_to_a, h_to_a = (nearest_distances(rows, train_a, distance) for rows in (gen_a, gen_b, heldout))
    a_to_b, b_to_b, h_to_b = (nearest_distances(rows, train_b, distance) for rows in (gen_a, gen_b, heldout))
    v = near_threshold(np.concatenate([h_to_a, h_to_b]), alpha)

    pool = prepared(pooled(train_a, train_b), distance)
    credits = [pool_credit(gen, pool, distance) for gen in (gen_a, gen_b)]
    near = [near_credit(gen, pool, distance, credit, v) for gen, credit in zip((gen_a, gen_b), credits, strict=True)]
    test = {"permutations": permutations, "seed": seed}
    params = {"distance": distance, "alpha": alpha, "threshold": v} | test
    own_share = own(*credits, m_a=len(train_a), **test, params=params | {"within": None})
    near_own_share = own(*near, m_a=len(train_a), **test, params=params | {"within": v})

    largest = largest_distance(rows_of(heldout, "heldout"), distance)
    kl_own = divergence([(a_to_a, h_to_a), (b_to_b, h_to_b)], largest=largest, **test)
    kl_placebo = divergence([(a_to_b, h_to_b), (b_to_a, h_to_a)], largest=largest, **test)
    m = len(train_a) + len(train_b)
    copies = near_share(
        np.concatenate([a_to_a, b_to_b]),
        np.concatenate([h_to_a, h_to_b]),
        v,
        placebo=np.concatenate([a_to_b, b_to_a]),
        p_value=near_own_share.p_value,
        n_train=m,
        params=params,
    )
    both = {"n_gen": 2 * n, "n_train": m, "n_heldout": len(heldout), "per_sample": None}
    return SplitResult(
        own_share=own_share,
        near_own_share=near_own_share,
        kl_own=replace(kl_own, placebo=kl_placebo.value, params=kl_own.params | params, **both),
        kl_placebo=replace(kl_placebo, params=kl_placebo.params | params, **both),
        near_copies=replace(copies, ci=wilson(copies.value * n, n), **both),
    )


def own(credit_a: Credit, credit_b: Credit, *, m_a: int, permutations: int, seed: int, params: dict[str, Any]) -> Result:
    """The own share from both models' credit in one pool, whose first `m_a` rows are A's training set."""
    a, b = credit_shares(credit_a), credit_shares(credit_b)
    share_a, share_b = float(a[:m_a].sum()), float(b[m_a:].sum())
    value = (share_a + share_b) / 2
    # b sums to 1 over the pool, so the value is 1/2 + the sum over A's rows of (a - b) / 2: linear in the labels, with mean exactly 1/2
    permuted = 0.5 + subset_sums((a - b) / 2, m_a, permutations, np.random.default_rng(seed))
    null, p_value = upper_tail(value, permuted, mean=0.5, method="labels of train_a and train_b, both models at once")
    n_a, n_b = len(credit_a.distances), len(credit_b.distances)
    ci = (0.0, 1.0)
    if n_a and n_b:
        influence = np.concatenate([(1 - share_a) * a[:m_a] - share_b * b[:m_a], (1 - share_b) * b[m_a:] - share_a * a[m_a:]]) / 2
        spread = math.sqrt(sum_of_squares(influence[:m_a]) + sum_of_squares(influence[m_a:]))
        ci = (max(0.0, value - Z95 * spread), min(1.0, value + Z95 * spread))
    return Result(
        value,
        ci=ci,
        null=null,
        p_value=p_value,
        n_gen=n_a + n_b,
        n_train=len(a),
        params=params | {"share_a": share_a, "share_b": share_b},
    )
