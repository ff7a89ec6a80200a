"""False discovery rate over many rows, each with its own p."""
import numpy as np


def q_values(p: np.ndarray) -> np.ndarray:
    """(N,) Benjamini-Hochberg adjusted p: reporting the rows with q <= level keeps the expected share of false ones at most `level`.

    p (N,): p-values, independent or positively dependent (conformal p-values that share a calibration set are: Bates et al. 2023).
    q is monotone in p. Raises ValueError for anything but numbers in [0, 1]. Source: Benjamini & Hochberg 1995; Yekutieli &
    Benjamini 1999 (adjusted values).
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p: want (N,) numbers in [0, 1], got shape {p.shape}" + (f", {p.min():g} .. {p.max():g}" if p.size else ""))
    order = np.argsort(p)[::-1]
    adjusted = p[order] * (len(p) / np.arange(len(p), 0, -1))
    q = np.empty_like(p)
    q[order] = np.minimum.accumulate(adjusted)
    return q
