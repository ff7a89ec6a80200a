"""Near affinity: train affinity among the generated rows within the near-copy threshold."""

import numpy as np

from biasgen.metrics._sets import check_settings
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.registry import register
from biasgen.metrics.train_affinity import affinity
from biasgen.results import Result


@register("near_affinity")
def measure(comparison: Comparison, *, alpha: float | None = None) -> Result:
    """biasgen.train_affinity with within=v, where v is the threshold of biasgen.near_copies.

    alpha: see there; None: the comparison's. params["within"] is v, or None where there is none:
    then no row counts and p = 1. Source: biasgen, docs/statistics.md.
    """
    alpha = comparison.alpha if alpha is None else alpha
    check_settings(alpha=alpha)

    def near() -> Result:
        v = near_threshold(comparison.nearest_distances("heldout", "train"), alpha)
        return affinity(
            comparison.credit("gen", within=-1 if v is None else v),
            comparison.pool(),
            n_train=len(comparison.train),
            **comparison.test,
            params=comparison.params | {"within": v},
        )

    return comparison.keep(("near_affinity", alpha), near)  # near_copies takes its p


def near_threshold(heldout: np.ndarray, alpha: float) -> float | int | None:
    """The largest of the distances (h,) that at most a share `alpha` of them reach, or None."""
    values, counts = np.unique(heldout, return_counts=True)
    allowed = np.cumsum(counts) <= alpha * len(heldout)
    return values[allowed][-1].item() if allowed.any() else None
