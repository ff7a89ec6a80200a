"""Rows as int8 slices for the triton backend: integers as they are, floats on a grid with a bound of what the grid leaves out."""
from dataclasses import dataclass

import torch

from biasgen.backends import _slices
from biasgen.backends._mode import is_capturing, used_here
from biasgen.backends._slices import Codes, Grid, int8_rows
from biasgen.triton_kernels._tile import Slices, width

MAX_FEATURES = 33_025  # positions times symbols up to which tokens become one-hot rows
MAX_SYMBOLS = 64  # beyond, comparing position by position takes fewer operations (counted on paper: docs/gpu.md)
MAX_ROWS = 2**31 - 2**16  # row numbers, and those of a block beyond the last, are int32
_ROWS = 8192  # rows widened at a time
_TILE = 1 << 22  # elements that take five float64 at a time while rows are encoded


def integers(query: torch.Tensor, prepared) -> tuple[Slices, Slices]:
    """Query and reference of an integer distance. Their squared distance is sqeuclidean itself, or twice hamming."""
    if prepared.distance == "sqeuclidean":
        return _shifted(query), kept(prepared, "shifted", lambda: _shifted(prepared.rows))
    symbols = 1 + int(prepared.largest)  # a token beyond them is equal to none, and so are zeros at its position
    if symbols > MAX_SYMBOLS or symbols * query.shape[1] > MAX_FEATURES:
        return _tokens(query), kept(prepared, query.dtype, lambda: _tokens(prepared.rows.to(query.dtype)))
    return _one_hot(query, symbols), kept(prepared, symbols, lambda: _one_hot(prepared.rows, symbols))


def multiplicity(prepared) -> torch.Tensor:
    """(U,) int32. ValueError for a reference whose rows cannot be numbered in int32."""
    if prepared.n > MAX_ROWS:
        raise ValueError(f"reference: the triton backend takes up to {MAX_ROWS} rows, got {prepared.n}")
    return kept(prepared, "multiplicity", lambda: prepared.multiplicity.int())


def kept(prepared, key, make):
    """What `make` gives, made once; it stays with the rows, and streams other than the one that made it wait for it."""
    key, device = ("triton", key), prepared.rows.device
    if key not in prepared.packed:
        if is_capturing(device):
            raise RuntimeError("reference: its int8 rows are made by the first search, which cannot be captured; search once before")
        made = make()
        prepared.packed[key] = made, torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
    made, finished = prepared.packed[key]
    if finished is not None and not is_capturing(device):  # a capture begins when all before it is over
        torch.cuda.current_stream(device).wait_event(finished)
    used_here(made)
    return made


def _shifted(rows: torch.Tensor) -> Slices:
    R, D = rows.shape
    high = int8_rows(R, D, width(D), rows.device)
    torch.bitwise_xor(rows, 128, out=high.view(torch.uint8)[:, :D])
    norms = torch.cat([part.int().square_().sum(1) for part in high.split(_ROWS)])
    return Slices(high, None, norms)


def _one_hot(rows: torch.Tensor, symbols: int) -> Slices:
    R, D = rows.shape
    alphabet = torch.arange(symbols, dtype=torch.uint8, device=rows.device)
    high = int8_rows(R, D * symbols, width(D * symbols), rows.device)
    for part, out in zip(rows.split(_ROWS), high.split(_ROWS), strict=True):
        out[:, : D * symbols] = (part[..., None] == alphabet).flatten(1)
    return Slices(high, None, torch.full((R,), D, dtype=torch.int64, device=rows.device))


def _tokens(rows: torch.Tensor) -> Slices:
    norms = torch.full((len(rows),), rows.shape[1], dtype=torch.int64, device=rows.device)
    return Slices(rows.view(torch.int8) if rows.dtype == torch.uint8 else rows, None, norms, tokens=True)


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
    return kept(prepared, (prepared.distance, slices), lambda: _encode(prepared, slices))


def encode(rows: torch.Tensor, grid: Grid) -> tuple[Slices, Codes]:
    """Codes of rows (R, D), for the kernels and with what bounds them."""
    codes = _slices.encode(rows, grid, _TILE, width(rows.shape[1]))
    return Slices(codes.high, codes.low, codes.squares.long()), codes


def _encode(prepared, slices):
    grid = _slices.grid_of(prepared, slices, _TILE, 40 * _TILE)
    whole, codes = encode(prepared.rows, grid)
    apart = (codes.residual > grid.usual) | codes.zero
    times, residual = torch.where(apart, 0, multiplicity(prepared)), torch.where(apart, 0, codes.residual).amax()
    return Coded(grid, whole, times, residual, apart.nonzero()[:, 0])
