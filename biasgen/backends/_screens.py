"""What a search in plain torch screens pairs with: bounds of all distances of a block of queries to the distinct rows, block by block.

A screen has blocks() and the values of pairs to the bit. A block knows its rows(columns) and bounds: uppers(k), ascending, that as many
values do not exceed; lower(queries, columns) of pairs; open(limit), the pairs that may be at most limit; inside(limit), those that
surely are. Euclidean is squared throughout. The temporaries of a block take about max_memory bytes. open_share: of all pairs, what a
screen may leave open; beyond, their values cost more than the next screen does.
"""
from functools import cached_property

import torch

from biasgen import distances
from biasgen.backends._products import DEPTH, products
from biasgen.backends._slices import SliceBlock, encode, grid_of, smallest
from biasgen.backends._values import ON_SPHERE, VALUES, pair_values, points, values_in_place

SMALL = 1 << 24  # products of two numbers that float64 has done before codes are worth their while
_QUERIES = 256  # of a block: enough for a float64 product of matrices to run at full speed
_CODED_QUERIES = 4096  # of one that is coded: then the codes of a row, made for each block, take little beside its products
_SYMBOLS = 128  # of tokens that are compared by a product of one-hot rows: 2 ns a token where comparing takes 3.5
_TILE = 1 << 13  # pairs whose 16 lanes are summed together: 1 MiB stays in the second-level cache
_GATHERED = 1 << 19  # elements of pairs that get their values together: 4 MiB
_CODED = 1 << 16  # elements that are coded together: 512 KiB
_CENTER_ROWS = 4096
_UNIT = 2.0**-53
_SMALLEST = 2.0**-1022  # what a term may lose where a library flushes denormals


class IntegerBlock:
    """Integer distances: key (n, m) + base (n,) int64."""

    def __init__(self, keys, base, first):
        self.keys, self._base, self.first = keys, base, first

    def rows(self, columns):
        return columns + self.first

    def uppers(self, k):
        return smallest(self.keys, k) + self._base[:, None]

    def lower(self, queries, columns):
        return self.keys[queries, columns] + self._base[queries]

    def open(self, limit):
        if limit.is_floating_point():
            limit = limit.floor().clamp(-1, 2.0**62).long()
        whole = torch.iinfo(self.keys.dtype)
        return self.keys <= (limit - self._base).clamp_(whole.min, whole.max).to(self.keys.dtype)[:, None]

    inside = open

    def bounds(self):
        """(lower, upper), both (n, m): here the same."""
        exact = self.keys + self._base[:, None]
        return exact, exact


class FloatBlock:
    """Distances between lower and upper, (n, m) float64; NaN where they overflowed, which leaves a pair open."""

    def __init__(self, lower, upper, numbers):
        self._lower, self._upper, self._numbers = lower, upper, numbers

    def rows(self, columns):
        return self._numbers[columns]

    def uppers(self, k):
        return smallest(self._upper, k)

    def lower(self, queries, columns):
        return self._lower[queries, columns]

    def open(self, limit):
        return ~(self._lower > limit[:, None])

    def inside(self, limit):
        return self._upper <= limit[:, None]

    def bounds(self):
        """(lower, upper), both (n, m)."""
        return self._lower, self._upper


class IntegerScreen:
    """Integer rows: every distance is exact, by a product of int8 rows shifted by 128 or one-hot."""

    exact, open_share = True, 1.0

    def __init__(self, query, prepared, max_memory):
        self._query, self._rows, self._max_memory = query, prepared.rows, max_memory
        self._distance = distances.get(prepared.distance).ordered_by
        self.n, self._symbols, self._depth = len(query), prepared.largest + 1, _depth(prepared)

    @staticmethod
    def queries(prepared, max_memory):
        """Of a block."""
        D, coded = _depth(prepared)
        return max(1, min(_CODED_QUERIES if coded else 64, max_memory // ((16 if coded else 128) * D)))

    def _code(self, rows):
        """int8 rows: minus 128, or one-hot."""
        if self._distance == "sqeuclidean":
            return (rows ^ 128).view(torch.int8)
        symbols = torch.arange(self._symbols, device=rows.device)
        return (rows[:, :, None] == symbols.to(rows.dtype)).flatten(1).view(torch.int8)

    def blocks(self):
        n, (D, coded) = self.n, self._depth
        pair = (48 if D > DEPTH else 24) if coded else 24 + (D if self._distance == "hamming" else 24)
        block = max(1, min(self._max_memory // (2 * pair * n), self._max_memory // (16 * D)))
        for start in range(0, len(self._rows), block):
            yield IntegerBlock(*self._keys(self._rows[start : start + block], coded), start)

    def tables(self):
        """Yield (first row, values (n, m))."""
        for block in self.blocks():
            yield block.first, block.bounds()[0]

    def _keys(self, rows, coded):
        """keys (n, m), base (n,)."""
        nothing = torch.zeros(self.n, dtype=torch.int64, device=rows.device)
        if not coded and self._distance == "hamming":
            return (self._query[:, None] != rows).sum(-1), nothing
        if not coded:
            norm = VALUES[self._distance].norm
            return torch.cdist(self._query.double(), rows.double(), p=norm).long(), nothing
        x, y = self._code(self._query), self._code(rows)
        keys = products(x, y)
        if self._distance == "hamming":
            return keys.neg_(), nothing + rows.shape[1]
        return torch.sub(_squares(y).to(keys.dtype), keys, alpha=2, out=keys), _squares(x)


class FloatScreen:
    """Bounds by a float64 product of matrices, for a query (n, D)."""

    exact, open_share = False, 1.0

    def __init__(self, query, prepared, max_memory):
        self.n, self.prepared, self._rows, self._max_memory = len(query), prepared, prepared.rows, max_memory
        self.distance = distances.get(prepared.distance).ordered_by
        self._query, self._x = query, points(query, self.distance) if self.distance in ON_SPHERE else query

    @staticmethod
    def queries(prepared, max_memory):
        """Of a block."""
        return max(1, min(_QUERIES, max_memory // (128 * prepared.rows.shape[1])))

    def blocks(self):
        return self._blocks(torch.arange(len(self._rows), device=self._rows.device))

    def _blocks(self, numbers):
        D = self._x.shape[1]
        x, center = self._x.double(), self._center
        if center is not None:
            x = x - center
        step = max(1, self._max_memory // (72 * self.n + 48 * D))
        for part in (numbers[start : start + step] for start in range(0, len(numbers), step)):
            contiguous = part[-1] - part[0] == len(part) - 1
            y = self._rows[int(part[0]) : int(part[-1]) + 1] if contiguous else self._rows[part]
            y = points(y, self.distance)
            yield FloatBlock(*self._bounds(x, y if center is None else y - center), part)

    @cached_property
    def _center(self):
        """Any is right: near the data the rounding of the product is least."""
        if self.distance != "sqeuclidean":
            return None
        return self._rows[: max(1, min(_CENTER_ROWS, self._max_memory // (32 * self._rows.shape[1])))].double().mean(0)

    def _bounds(self, x, y):
        """(lower, upper), both (n, m).

        The bound of the product of matrices, for rows at the distances a and b from the center and any order of summation (Higham,
        Accuracy and Stability of Numerical Algorithms, section 3.1), in units of 2^-53 (a + b)^2: D + 4 for the two norms and the
        product with its assembly, 3 for the rounding of the centered rows, D / 16 + 8 for the value itself. 4 (D + 16) leaves a factor
        of more than two for the rounding of a, b and the bounds themselves. Sums of |x - y| have the relative error D + D / 16 + 8.
        """
        D, norm = y.shape[1], VALUES[self.distance].norm
        if norm is not None:
            near = torch.cdist(x, y, p=norm)
            slack = near.clone()
        else:
            x_x, y_y = x.square().sum(1)[:, None], y.square().sum(1)
            near = (x @ y.T).mul_(-2).add_(x_x + y_y)
            slack = (x_x.sqrt() + y_y.sqrt()).square_()
        slack.mul_(4 * (D + 16) * _UNIT).add_(8 * D * _SMALLEST)
        lower, upper = (near - slack).clamp_(min=0), near.add_(slack)
        if self.distance in ON_SPHERE:
            one_zero = x.any(1)[:, None] != y.any(1)
            lower, upper = (bound.div_(2).masked_fill_(one_zero, 1.0) for bound in (lower, upper))
        return lower, upper

    def values(self, queries, rows):
        """(P,) values of the pairs (queries[p], rows[p]), to the bit."""
        D = self._x.shape[1]
        block = max(1, min(_GATHERED if rows.device.type == "cpu" else self._max_memory, self._max_memory // 128) // D)
        parts = zip(queries.split(block), rows.split(block), strict=True)
        pairs = ((self._x[q].double(), points(self._rows[r], self.distance)) for q, r in parts)
        return torch.cat([values_in_place(x, y, self.distance) for x, y in pairs])

    def tables(self):
        """Yield (first row, values to the bit (n, m))."""
        x = self._x.double()
        block = max(1, self._max_memory // (32 * (len(x) + x.shape[1])))
        for start in range(0, len(self._rows), block):
            y = points(self._rows[start : start + block], self.distance)
            step = max(1, _TILE // len(y))
            yield start, torch.cat([pair_values(part[:, None], y[None], self.distance) for part in x.split(step)])


class SliceScreen(FloatScreen):
    """Bounds by codes of one or two int8 slices; rows that the grid does not fit come last, with float64 bounds."""

    slices, open_share = 1, 0.001

    @staticmethod
    def queries(prepared, max_memory):
        """Of a block."""
        return max(1, min(_CODED_QUERIES, max_memory // ((48 if prepared.distance in ON_SPHERE else 16) * prepared.rows.shape[1])))

    def blocks(self):
        D = self._x.shape[1]
        tile = _CODED if self._rows.device.type == "cpu" else max(_CODED, self._max_memory // 256)
        grid = grid_of(self.prepared, self.slices, tile, self._max_memory)
        x = encode(self._query, grid, tile)
        apart = []
        block = max(1, min(self._max_memory // (40 * self.n), self._max_memory // (32 * D)))
        for start in range(0, len(self._rows), block):
            rows = self._rows[start : start + block]
            found = SliceBlock(x, encode(rows, grid, tile), grid, start)
            apart.append(found.apart.nonzero()[:, 0] + start)
            yield found
        yield from self._blocks(torch.cat(apart))


class DoubleSliceScreen(SliceScreen):
    """The same with two slices: three products in place of one, and bounds that are some hundred times as narrow."""

    slices, open_share = 2, 0.01


def screens(prepared, n, sliced):
    """Which screens serve n queries, the cheapest first: where one leaves too many pairs open, the next is taken."""
    if prepared.searched.integer:
        return [IntegerScreen]
    by_product = VALUES[prepared.distance].norm is None
    if sliced and by_product and n * prepared.rows.numel() > SMALL:
        return [SliceScreen, DoubleSliceScreen, FloatScreen]
    return [FloatScreen]


def _depth(prepared):
    """(numbers of an integer row that are multiplied or compared, whether by a product of int8 rows)."""
    D, symbols, distance = prepared.rows.shape[1], prepared.largest + 1, distances.get(prepared.distance).ordered_by
    one_hot = distance == "hamming" and symbols <= _SYMBOLS
    return D * symbols if one_hot else D, one_hot or distance == "sqeuclidean"


def _squares(codes):
    """(n,) int64 squared lengths of int8 rows, by float32 sums of at most 1024 terms, which are exact."""
    total = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
    step = max(1, _CODED // codes.shape[1])
    for start in range(0, len(codes), step):
        for part in codes[start : start + step].split(1024, 1):
            total[start : start + step] += part.float().square_().sum(1).long()
    return total
