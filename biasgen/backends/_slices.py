"""Rows as int8 slices for the triton backend: integers as they are, floats on a grid with a bound of what the grid leaves out."""
from dataclasses import dataclass

import torch

from biasgen.backends import _codes
from biasgen.backends._values import ON_SPHERE, points, square_root
from biasgen.triton_kernels._tile import Slices, padded

MAX_FEATURES = 33_025  # positions times symbols up to which tokens become one-hot rows
MAX_SYMBOLS = 64  # beyond, comparing position by position takes fewer operations (counted on paper: docs/gpu.md)
MAX_ROWS = 2**31 - 2**16  # row numbers, and those of a block beyond the last, are int32
_SAMPLE = 512  # rows, evenly spaced, that choose the grid
_LARGEST = {1: 127, 2: 127 * 257}  # code, by slices
# By which values may exceed those of the sample: of 1, 1.25 and 1.5 the second left the fewest pairs open (docs/gpu.md); two slices have
# precision to spare.
_MARGIN = {1: 1.25, 2: 4.0}
_ROWS = 8192  # rows widened at a time


def integers(query: torch.Tensor, prepared) -> tuple[Slices, Slices]:
    """Query and reference of an integer distance. Their squared distance is sqeuclidean itself, or twice hamming."""
    if prepared.distance == "sqeuclidean":
        return _shifted(query), _kept(prepared, "shifted", lambda: _shifted(prepared.rows))
    symbols = 1 + max(int(query.max()), int(prepared.largest))
    if symbols > MAX_SYMBOLS or symbols * query.shape[1] > MAX_FEATURES:
        return _tokens(query), _kept(prepared, "tokens", lambda: _tokens(prepared.rows))
    return _one_hot(query, symbols), _kept(prepared, symbols, lambda: _one_hot(prepared.rows, symbols))


def multiplicity(prepared) -> torch.Tensor:
    """(U,) int32. ValueError for a reference whose rows cannot be numbered in int32."""
    if prepared.n > MAX_ROWS:
        raise ValueError(f"reference: the triton backend takes up to {MAX_ROWS} rows, got {prepared.n}")
    return _kept(prepared, "multiplicity", lambda: prepared.multiplicity.int())


def _kept(prepared, key, make):
    """What `make` gives, made once; it stays with the rows."""
    key = "triton", key
    if key not in prepared.packed:
        prepared.packed[key] = make()
    return prepared.packed[key]


def _shifted(rows: torch.Tensor) -> Slices:
    high = padded((rows ^ 128).view(torch.int8))
    return Slices(high, None, _norms(high))


def _one_hot(rows: torch.Tensor, symbols: int) -> Slices:
    alphabet = torch.arange(symbols, dtype=torch.uint8, device=rows.device)
    hot = torch.cat([(part[..., None] == alphabet).to(torch.int8).flatten(1) for part in rows.split(_ROWS)])
    return Slices(padded(hot), None, torch.full((len(rows),), rows.shape[1], dtype=torch.int64, device=rows.device))


def _tokens(rows: torch.Tensor) -> Slices:
    norms = torch.full((len(rows),), rows.shape[1], dtype=torch.int64, device=rows.device)
    return Slices(rows.view(torch.int8), None, norms, tokens=True)


def _norms(high: torch.Tensor, low: torch.Tensor | None = None) -> torch.Tensor:
    codes = ((h.long() if low is None else 256 * h.long() + part.long()) for h, part in _parts(high, low))
    return torch.cat([code.square_().sum(1) for code in codes])


def _parts(high, low):
    return zip(high.split(_ROWS), (high if low is None else low).split(_ROWS), strict=True)


@dataclass(frozen=True, eq=False)
class Grid:
    """A point is center (D,) + unit code + rest; codes have `slices` bytes. unit has 24 bits, so that unit times a code is exact."""

    center: torch.Tensor
    unit: float
    slices: int

    def encode(self, rows: torch.Tensor) -> tuple[Slices, torch.Tensor]:
        """Codes of points (R, D) float64, and residuals (R,): the length of the rest, rounded up.

        2^-53 is lost of the difference to the center, which is at most |rest| + 2^15.1 unit a feature, and of each operation after it.
        """
        D = rows.shape[1]
        deviation = rows - self.center
        largest = _LARGEST[self.slices]
        code = (deviation / self.unit).round_().clamp_(-largest, largest)
        rest = deviation.sub_(code * self.unit)
        residuals = square_root(rest.square_().sum(1)) * (1 + (D + 32) * 2.0**-52) + D**0.5 * self.unit * 2.0**-36
        code = code.int()
        high = code if self.slices == 1 else (code + 128) >> 8
        low = None if self.slices == 1 else padded((code - 256 * high).to(torch.int8))
        high = padded(high.to(torch.int8))
        return Slices(high, low, _norms(high, low)), residuals


@dataclass(frozen=True, eq=False)
class Coded:
    """The distinct rows of a float reference on a grid. residual: no row has a larger one but those `outlying` (O,), whose codes say
    little (and for cosine and correlation the zero rows); these have multiplicity 0 here, so that no kernel takes them."""

    grid: Grid
    slices: Slices
    multiplicity: torch.Tensor
    residual: torch.Tensor
    outlying: torch.Tensor

    def limits(self, length: torch.Tensor, residuals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """near, far (n,) int64: rows whose codes are at a squared distance of up to `near` lie within length (n,) of the query, those
        beyond `far` do not; for queries of these residuals, outlying rows apart.

        The lengths of rests bound how far distances between codes are off; 2^-40 is more than all roundings, and D 2^-50 more than those
        of the value itself.
        """
        margin = 2.0**-40 + len(self.grid.center) * 2.0**-50
        off = residuals + self.residual
        inner = (length * (1 - margin) - off) / self.grid.unit
        outer = (length * (1 + margin) + off) / self.grid.unit
        near = torch.where(inner >= 0, inner.square() * (1 - 2.0**-40), -1.0)
        return tuple(square.clamp(max=2.0**61).floor().long() for square in (near, outer.square() * (1 + 2.0**-40)))


def coded(prepared, slices: int) -> Coded:
    """The reference, encoded once for each number of slices; takes slices * U * D bytes."""
    return _kept(prepared, (prepared.distance, slices), lambda: _encode(prepared, slices))


def _encode(prepared, slices):
    rows, distance = prepared.rows, prepared.distance
    sample = points(rows[:: -(-len(rows) // _SAMPLE)], distance)
    center = sample.median(0).values
    grid = Grid(center, _unit(sample - center, slices), slices)
    parts, residuals, zero = [], [], []
    for part in rows.split(_ROWS):
        part = points(part, distance)
        if distance in ON_SPHERE:
            zero.append(~part.any(1))
        encoded, residual = grid.encode(part)
        parts.append(encoded)
        residuals.append(residual)
    residuals = torch.cat(residuals)
    outlying = residuals > 2 * residuals.sort().values[9 * (len(rows) - 1) // 10]
    if zero:
        outlying |= torch.cat(zero)
    whole = Slices(
        torch.cat([part.high for part in parts]),
        None if slices == 1 else torch.cat([part.low for part in parts]),
        torch.cat([part.norms for part in parts]),
    )
    times, residual = torch.where(outlying, 0, multiplicity(prepared)), torch.where(outlying, 0, residuals).amax()
    return Coded(grid, whole, times, residual, outlying.nonzero()[:, 0])


def _unit(deviations, slices):
    """The step of a grid that holds points (n, D) about its center, but for outliers: a value cut off would be the largest rest by far."""
    largest = deviations.abs().amax(1).quantile(0.95)
    return max(_codes._rounded(float(_MARGIN[slices] * largest / _LARGEST[slices])), _codes._SMALLEST_UNIT)
