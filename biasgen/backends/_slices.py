"""8-bit slices of float rows, and the bounds of distances that they certify (docs/exactness.md): the screen of float rows in plain torch.

A row is center + unit * code and a rest. A code is one int8, or two, 256 high + low: products of codes are exact (_products), and the
length of the rest, rounded up, bounds how far distances between codes are off. Any grid gives the same neighbours.
"""
from dataclasses import dataclass

import torch

from biasgen.backends import _codes
from biasgen.backends._mode import used_here
from biasgen.backends._products import products
from biasgen.backends._values import ON_SPHERE, points

_ENDS = {1: (-128, 127), 2: (-128 * 257, 127 * 257)}  # of a code, by the number of slices
# By which values may exceed those of a sample: of 1, 1.25 and 1.5 the second left the fewest pairs open; two slices have room to spare.
_MARGIN = {1: 1.25, 2: 4.0}
_UNIT = 2.0**-53
_SMALLEST = 2.0**-1022  # what a term may lose where a library flushes denormals


@dataclass(frozen=True, eq=False)
class Grid:
    """center (D,) float64; unit of 24 bits; usual: a rest beyond which codes say little, as the _codes of the cpu backend have it."""

    distance: str
    slices: int
    center: torch.Tensor
    unit: float
    usual: float


@dataclass(frozen=True, eq=False)
class Codes:
    """high, low (n, D) int8, low None for one slice; float64 (n,): squares of the codes, exact; residual, an upper bound of the length of
    the rest; low_length, of the low slice. zero (n,): rows that are zero on the sphere, which have distances of their own."""

    high: torch.Tensor
    low: torch.Tensor | None
    squares: torch.Tensor
    residual: torch.Tensor
    low_length: torch.Tensor
    zero: torch.Tensor


def grid_of(prepared, slices, tile, max_memory):
    """The grid of prepared rows, chosen from a sample of them. It stays with them: it is small."""
    key = "grid", prepared.distance, slices
    if key not in prepared.packed:
        rows = prepared.rows
        size = max(1, min(_codes.SAMPLE, max_memory // (128 * rows.shape[1])))
        sample = rows[torch.from_numpy(_codes.sample(len(rows), size)).to(rows.device)]
        center, unit = _whole_range(points(sample, prepared.distance).double(), slices)
        grid = Grid(prepared.distance, slices, center, unit, torch.inf)
        residuals = encode(sample, grid, tile).residual.sort().values
        prepared.packed[key] = Grid(prepared.distance, slices, grid.center, unit, 2 * float(residuals[int(0.9 * (len(residuals) - 1))]))
    used_here(prepared.packed[key])
    return prepared.packed[key]


def _whole_range(rows, slices):
    """center (D,) and unit of a grid that holds rows such as these (n, D), but for outliers: one value cut off makes a row apart, which
    every query looks at."""
    center = rows.median(0).values
    largest = float((rows - center).abs().amax(1).quantile(0.95))
    return center, max(_codes._rounded(_MARGIN[slices] * largest / _ENDS[slices][1]), _codes._SMALLEST_UNIT)


def encode(rows, grid, tile, width=None):
    """Codes of rows (n, D); `tile` elements at a time in float64, five times. width: columns of
    high and low, 0 beyond the D that are there unless it is given.

    The rest of a row is off by 2^-53 (|x - center| + |rest|), which the residual covers: a code times the unit is exact.
    """
    n, D = rows.shape
    unit, (smallest, largest) = grid.unit, _ENDS[grid.slices]
    high = int8_rows(n, D, width or D, rows.device)
    low = int8_rows(n, D, width or D, rows.device) if grid.slices == 2 else None
    squares, residual, low_length = torch.zeros((3, n), dtype=torch.float64, device=rows.device)
    zero = torch.zeros(n, dtype=torch.bool, device=rows.device)
    step = max(1, tile // D)
    for start in range(0, n, step):
        at = slice(start, start + step)
        rest = points(rows[at], grid.distance)
        if grid.distance in ON_SPHERE:
            zero[at] = ~rest.any(1)
        rest = rest - grid.center
        codes = (rest / unit).round_().clamp_(smallest, largest)
        rest.sub_(codes * unit)
        residual[at] = rest.square_().sum(1)
        if low is None:
            high[at, :D] = codes
        else:
            top = torch.floor(codes / 256 + 0.5)
            high[at, :D] = top
            lower = codes.sub(top, alpha=256)
            low[at, :D] = lower
            low_length[at] = lower.square_().sum(1)
        squares[at] = codes.square_().sum(1)
    residual.sqrt_().mul_(1 + 4 * (D + 16) * _UNIT).add_(squares.sqrt(), alpha=4 * unit * _UNIT).add_(unit * D * 2.0**-100)
    return Codes(high, low, squares, residual, low_length.sqrt_().mul_(1 + 4 * (D + 16) * _UNIT), zero)


def int8_rows(n, D, width, device):
    """(n, width) int8, 0 beyond the first D columns, which are to be filled: so nothing is copied."""
    rows = torch.empty((n, width), dtype=torch.int8, device=device)
    rows[:, D:] = 0
    return rows


class SliceBlock:
    """Queries (n) before rows (m), both coded: a key a pair, of which the squared distance S of their codes is weight * key + |x|^2, up to
    `slack`. Then | |x - y| - unit sqrt(S) | <= rest, and all bounds of one query are thresholds of its keys.

    One slice: the key is |y|^2 - 2 x y, an exact integer. Two: the same over 256 without low * low, in float32; of 2^-24 ((|x| + |y|)^2) /
    256, lengths with those of their low slices, the rounding takes less than 8. Rows that are `apart` have no bounds here.
    """

    def __init__(self, x, y, grid, first):
        self._grid, self._first, D = grid, first, x.high.shape[1]
        self.apart = (y.residual > grid.usual) | y.zero
        usual = ~self.apart
        self._squares, self._weight = x.squares, 1 if y.low is None else 256
        self._rest = torch.where(x.zero, torch.inf, x.residual + _largest(y.residual, usual)) * (1 + 4 * _UNIT)
        self._slack = torch.zeros_like(x.squares)
        self._relative = 8 * (D + 8) * _UNIT  # twice that of the value and of the bound itself
        self._absolute = 8 * D * _SMALLEST
        high = products(x.high, y.high)
        if y.low is None:
            self.keys = torch.sub(y.squares.to(high.dtype), high, alpha=2, out=high)
            last = torch.iinfo(high.dtype).max
        else:
            self.keys = high.float().mul_(256).add_(products(torch.cat([x.high, x.low], 1), torch.cat([y.low, y.high], 1)))
            torch.sub((y.squares / 256).float(), self.keys, alpha=2, out=self.keys)
            last = torch.inf
            lengths = x.squares.sqrt() + x.low_length + _largest(y.squares.sqrt() + y.low_length, usual)
            self._slack = 2 * x.low_length * _largest(y.low_length, usual) + lengths.square() * 2.0**-21
        if self.apart.any():
            self.keys.masked_fill_(self.apart, last)
        self._last = last

    def rows(self, columns):
        """Their numbers."""
        return columns + self._first

    def uppers(self, k):
        """(n, <= k) float64: as many values are at most this large, ascending."""
        keys = smallest(self.keys, k)
        squared = self._squared(keys, slice(None, None), 1)
        length = self._grid.unit * squared.sqrt() * (1 + 16 * _UNIT) + self._rest[:, None]
        return torch.where(keys == self._last, torch.inf, self._halved(length.square() * (1 + self._relative) + self._absolute))

    def lower(self, queries, columns):
        """(P,) bounds from below of the pairs."""
        squared = self._squared(self.keys[queries, columns][:, None], queries, -1)[:, 0]
        length = self._grid.unit * squared.sqrt() * (1 - 16 * _UNIT) - self._rest[queries]
        return self._halved((length.clamp_(min=0).square_() * (1 - self._relative) - self._absolute).clamp_(min=0))

    def open(self, limit):
        """(n, m): pairs whose value may be at most limit (n,)."""
        root = ((self._doubled(limit.clamp(min=0)) + self._absolute) * (1 + self._relative)).sqrt() * (1 + 4 * _UNIT)
        squared = ((root + self._rest) * (1 + 16 * _UNIT) / self._grid.unit).square()
        return self.keys <= self._threshold(squared, 1)

    def inside(self, limit):
        """(n, m): pairs whose value is surely below limit (n,)."""
        root = ((self._doubled(limit) - self._absolute).clamp(min=0) * (1 - self._relative)).sqrt() * (1 - 4 * _UNIT)
        squared = ((root - self._rest).clamp(min=0) * (1 - 16 * _UNIT) / self._grid.unit).square()
        return self.keys < self._threshold(squared, -1)

    def _squared(self, keys, queries, sign):
        """(..., j) squared distances of the codes, rounded up (sign 1) or down (-1)."""
        offset, slack = self._squares[queries, None], self._slack[queries, None]
        squared = keys.double() * self._weight + offset + sign * slack
        return (squared + sign * 8 * _UNIT * (squared.abs() + 2 * offset + slack)).clamp_(min=0)

    def _threshold(self, squared, sign):
        """(n, 1) of the keys: those of `squared` (n,), or beyond it by the rounding (sign 1) or below (-1)."""
        key = squared - self._squares + sign * (self._slack + 16 * _UNIT * (squared + self._squares + self._slack))
        key = key / self._weight
        if self.keys.is_floating_point():
            return (key + sign * key.abs() * 2.0**-22).float()[:, None].clamp_(max=3e38)
        whole = torch.iinfo(self.keys.dtype)
        key = torch.nan_to_num(key, whole.max).clamp_(max(whole.min, -(2.0**62)), min(whole.max - 1, 2.0**62))
        return key.floor_().to(self.keys.dtype)[:, None]

    def _doubled(self, value):
        """The squared distance behind a value."""
        return 2 * value if self._grid.distance in ON_SPHERE else value

    def _halved(self, squared):
        """The value behind a squared distance."""
        return squared / 2 if self._grid.distance in ON_SPHERE else squared


def smallest(keys, k):
    """(n, <= k) keys, ascending: as many of the pairs of each row are at most these. The k smallest, or of the minima of groups."""
    if k == 1:
        return keys.amin(1, keepdim=True)
    m = keys.shape[1]
    group = m // (4 * k)  # three out of four of the nearest k fall in groups of their own, and a minimum is cheaper than a selection
    if group > 1:
        keys = keys[:, : m // group * group].unflatten(1, (-1, group)).amin(2)
    return keys.topk(min(k, keys.shape[1]), largest=False).values


def _largest(values, chosen):
    """Of the chosen (m,): 0 if there is none."""
    return torch.where(chosen, values, 0.0).amax()
