"""Own share: of two models trained on disjoint sets, does each lie nearer to its own? The Result from credit in the pool of both."""
from typing import Any

import numpy as np

from biasgen.metrics.train_affinity import credit_shares, deviation
from biasgen.results import Credit, Result
from biasgen.statistics.intervals import share_interval
from biasgen.statistics.permutation import subset_sums, upper_tail


def own(credit_a: Credit, credit_b: Credit, pool: Any, *, m_a: int, permutations: int, seed: int, params: dict[str, Any]) -> Result:
    """The own share from both models' credit in the prepared `pool`, whose first `m_a` rows are A's training set."""
    a, b = credit_shares(credit_a), credit_shares(credit_b)
    share_a, share_b = min(1.0, float(a[:m_a].sum())), min(1.0, float(b[m_a:].sum()))     # sums of shares may round past 1
    value = (share_a + share_b) / 2
    # b sums to 1 over the pool, so the value is 1/2 + the sum over A's rows of (a - b) / 2: linear in the labels, with mean exactly 1/2
    permuted = 0.5 + subset_sums((a - b) / 2, m_a, permutations, np.random.default_rng(seed))
    null, p_value = upper_tail(value, permuted, mean=0.5, method="labels of train_a and train_b, both models at once")
    n_a, n_b = len(credit_a.distances), len(credit_b.distances)
    ci = (0.0, 1.0)
    if n_a and n_b:
        of_a, of_b = (1 - share_a) * a[:m_a] - share_b * b[:m_a], (1 - share_b) * b[m_a:] - share_a * a[m_a:]
        ci = share_interval(value, deviation(of_a / 2, of_b / 2, pool), permuted)
    return Result(
        value,
        ci=ci,
        null=null,
        p_value=p_value,
        n_gen=n_a + n_b,
        n_train=len(a),
        params=params | {"share_a": share_a, "share_b": share_b},
    )
