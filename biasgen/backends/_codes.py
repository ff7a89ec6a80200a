"""8-bit codes of float rows or points: what the certified search of the cpu backend (csrc/cpu/knn_floats-inl.h) screens with.

A row (cosine, correlation: the row at length 1) is center + unit * (code - 128) and a rest, whose length (the residual) bounds how far
distances between codes are off: any grid gives the same neighbours, a good one rules out more rows at once.
"""
import math
from dataclasses import dataclass

import numpy as np
import torch

from biasgen.backends._values import points

SAMPLE = 512  # rows that choose the grid
_SPANS = (1, 0.99999, 0.9999, 0.999, 0.99)  # shares of the values inside the grid that are tried: a few far ones may be cut off
_SMALLEST_UNIT = 2.0**-332  # 1e-100: no square of a residual that matters underflows


@dataclass(frozen=True, eq=False)
class Codes:
    """codes (U, F) uint8 and residuals (U,) of rows (U, F) on the grid of center (F,) and unit; outlying: the rows, ascending, whose
    residual is above usual_residual, so that their codes say little. scalings (U, 4): what makes a row a point at length 1 (none for
    sqeuclidean); the zero row, which has no point, has an infinite residual."""

    rows: np.ndarray
    center: np.ndarray
    unit: float
    codes: np.ndarray
    residuals: np.ndarray
    scalings: np.ndarray
    usual_residual: float
    outlying: np.ndarray

    @property
    def operands(self) -> tuple:
        """In the order that the kernels take."""
        return self.rows, self.center, self.unit, self.codes, self.residuals, self.scalings, self.usual_residual, self.outlying


def encode(native, isa: str, rows: np.ndarray, distance: str) -> Codes:
    """rows (U, F) float32, float64 or, for cosine and correlation, uint8; contiguous. Takes U (F + 8) bytes, U (F + 40) with scalings."""
    center, unit = grid(points(torch.from_numpy(rows[sample(len(rows))]), distance).double().numpy())
    codes, residuals, scalings = native.encode(isa, distance, rows, center, unit)
    finite = residuals[np.isfinite(residuals)]
    usual = 2 * float(np.quantile(finite, 0.9)) if len(finite) else 0.0
    return Codes(rows, center, unit, codes, residuals, scalings, usual, np.flatnonzero(residuals > usual))


def sample(n: int, size: int = SAMPLE) -> np.ndarray:
    """Up to `size` of n rows at random, ascending, always the same: what recurs at even spaces would be all that is seen, or missed."""
    return np.sort(np.random.default_rng(0).choice(n, min(size, n), replace=False, shuffle=False))


def grid(rows: np.ndarray, largest: int = 127) -> tuple[np.ndarray, float]:
    """center (F,) and unit for rows such as these (n, F) float64; largest: code, above center."""
    center = np.median(rows, 0)
    return center, _unit(rows - center, largest)


def _unit(deviations: np.ndarray, largest: int) -> float:
    """The step that leaves the least rest in most of the rows (n, F)."""
    best = math.inf, _SMALLEST_UNIT
    for span in np.quantile(np.abs(deviations), _SPANS):
        unit = max(_rounded(span / largest), _SMALLEST_UNIT)
        rest = deviations / unit
        rest -= np.clip(np.rint(rest), -largest - 1, largest)
        best = min(best, (unit * float(np.quantile(np.linalg.norm(rest, axis=1), 0.9)), unit))
    return best[1]


def _rounded(x: float) -> float:
    """To 24 bits, so that a code times the unit is exact."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(round(mantissa * 2**24) / 2**24, exponent)
