"""8-bit codes of float rows: what the certified search of the cpu backend (csrc/cpu/knn_floats-inl.h) screens with.

A row is center + unit * (code - 128) and a rest, whose length (the residual) bounds how far distances between codes are off: any grid
gives the same neighbours, a good one rules out more rows at once.
"""
import math
from dataclasses import dataclass

import numpy as np

_SAMPLE = 512  # rows, evenly spaced, that choose the grid
_SPANS = (1, 0.9999, 0.999, 0.99)  # shares of the values inside the grid that are tried: a few far ones may be cut off
_SMALLEST_UNIT = 2.0**-332  # 1e-100: no square of a residual that matters underflows


@dataclass(frozen=True, eq=False)
class Codes:
    """codes (U, F) uint8 and residuals (U,) of rows (U, F) on the grid of center (F,) and unit; outlying: the rows, ascending, whose
    residual is above usual_residual, so that their codes say little."""

    rows: np.ndarray
    center: np.ndarray
    unit: float
    codes: np.ndarray
    residuals: np.ndarray
    usual_residual: float
    outlying: np.ndarray

    @property
    def operands(self) -> tuple:
        """In the order that the kernels take."""
        return self.rows, self.center, self.unit, self.codes, self.residuals, self.usual_residual, self.outlying


def encode(native, isa: str, rows: np.ndarray) -> Codes:
    """rows (U, F) float32 or float64, contiguous. Takes U (F + 8) bytes."""
    sample = rows[:: -(-len(rows) // _SAMPLE)].astype(np.float64)
    center = np.median(sample, 0)
    unit = _unit(sample - center)
    codes, residuals = native.encode(isa, rows, center, unit)
    usual = 2 * float(np.quantile(residuals, 0.9))
    return Codes(rows, center, unit, codes, residuals, usual, np.flatnonzero(residuals > usual))


def _unit(deviations: np.ndarray) -> float:
    """The step that leaves the least rest in most of the rows (n, F)."""
    best = math.inf, _SMALLEST_UNIT
    for span in np.quantile(np.abs(deviations), _SPANS):
        unit = max(_rounded(span / 127), _SMALLEST_UNIT)
        rest = deviations / unit
        rest -= np.clip(np.rint(rest), -128, 127)
        best = min(best, (unit * float(np.median(np.linalg.norm(rest, axis=1))), unit))
    return best[1]


def _rounded(x: float) -> float:
    """To 24 bits, so that a code times the unit is exact."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(round(mantissa * 2**24) / 2**24, exponent)
