"""Leakage: which training rows attract more samples than a held-out row would."""

from typing import Any

import numpy as np

from biasgen.metrics.comparison import Comparison
from biasgen.metrics.registry import register
from biasgen.results import Leakage, Result
from biasgen.statistics.false_discovery import q_values


@register("leakage")
def measure(comparison: Comparison, *, level: float = 0.05) -> Result:
    """Number of training rows that biasgen.leakage finds; params["rows"] are their indices."""
    found = _leakage(comparison, level)
    return Result(
        float(len(found.rows)),
        n_gen=len(comparison.gen),
        n_train=len(comparison.train),
        n_heldout=len(comparison.heldout),
        params={"distance": comparison.distance, "level": level, "rows": found.rows.tolist()},
    )


def leakage(
    *, gen: Any, train: Any, heldout: Any, distance: str | None = None, level: float = 0.05
) -> Leakage:
    """Training rows that are the nearest of more rows of `gen` than expected.

    False discoveries are controlled.

    If train and heldout come from one law and the model leans on no row, a training row's weight is
    one more draw of the held-out weights: its p is (1 + #{held-out weights >= its own}) / (h + 1),
    whatever the sampler. The q are Benjamini and Hochberg's, which stay valid for p values that
    share their held-out rows (Bates et al. 2023): at most a share `level` of `rows` is there by
    chance.

    Args:
        gen (n, ...), train (m, ...), heldout (h, ...): arrays, tensors or a TrainingSet, of one
            shape and element type.
        distance: name; None: the TrainingSet's own, else by element type.
        level: false discovery rate, in (0, 1).

    Returns:
        Leakage. The smallest p is 1 / (h + 1), so at least m / (level (h + 1)) rows must lead
        before any is found: 20 where m = h and level = .05, and a single leaked row only where h >=
        m / level. Look at the largest weights in any case.

    Raises ValueError for sets that do not agree, before any search.
    Source: conformal p values, Bates, Candes, Lei, Romano and Sesia, Annals of Statistics 51
    (2023).
    """
    return _leakage(Comparison(gen=gen, train=train, heldout=heldout, distance=distance), level)


def conformal_p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """(m,) share of `calibration` (h,) and the score itself that reach each of `scores` (m,).

    Equal up to rounding counts as reached.
    """
    below = np.searchsorted(np.sort(calibration), scores * (1 - 1e-9), side="left")
    return (1 + len(calibration) - below) / (len(calibration) + 1)


def _leakage(comparison: Comparison, level: float) -> Leakage:
    if not 0 < level < 1:
        raise ValueError(f"level: want a share in (0, 1), got {level!r}")
    sizes = {"n_gen": len(comparison.gen), "n_heldout": len(comparison.heldout)}
    weights, of_heldout = np.split(comparison.credit("gen").weights, [len(comparison.train)])
    p_values = conformal_p_values(weights, of_heldout)
    q = q_values(p_values)
    order = np.lexsort((-weights, q))
    rows = order[: np.count_nonzero(q <= level)]
    params = {"distance": comparison.distance, "level": level} | sizes
    return Leakage(weights=weights, p_values=p_values, q_values=q, rows=rows, params=params)
