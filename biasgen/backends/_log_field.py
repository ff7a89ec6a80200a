"""What every backend refuses in a log-field, and the words for it."""
from typing import NoReturn

import numpy as np

MAX_SPREAD = 2.0**30
"""Bits that the finite fields of a sample may spread over, summed over its leaves: exponents are int32 (csrc/cpu/tree_posterior.h)."""


def refuse(log_field: np.ndarray, sample: int) -> NoReturn:
    """ValueError for the (L, Q) log_field of a sample that a backend found wrong: which leaf, or how far it spreads."""
    wrong = np.argwhere(np.isnan(log_field) | (log_field == np.inf))
    if len(wrong):
        leaf, symbol = wrong[0]
        raise ValueError(
            f"log_field: want numbers below +inf (-inf excludes a symbol), got {log_field[leaf, symbol]} in sample {sample}, leaf {leaf}, "
            f"symbol {symbol}"
        )
    finite = np.where(np.isfinite(log_field), log_field, np.nan).astype(np.float64)
    spread = sum(np.nanmax(row) - np.nanmin(row) for row in finite if not np.isnan(row).all())
    raise ValueError(
        f"log_field: want finite fields that spread over less than {MAX_SPREAD * np.log(2):.4g} nats summed over the leaves of a sample, "
        f"got {spread:.4g} in sample {sample}; -inf excludes a symbol"
    )
