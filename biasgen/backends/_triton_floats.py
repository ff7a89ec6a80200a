"""Certified searches of float rows for the triton backend: int8 codes rule out what can be no answer, the rest get their value to the bit.

A first limit comes from the exact values of the rows that are nearest by their codes, in a sample of the reference; every row that the
bound of the codes leaves within the limit is listed and valued, and (value, row) decides.
"""
import torch

from biasgen.backends._triton_slices import coded, encode
from biasgen.backends._values import ON_SPHERE, pair_values, points, rooted, square_root
from biasgen.triton_kernels.exact_values import squared
from biasgen.triton_kernels.nearest import nearest
from biasgen.triton_kernels.within import Within

QUERIES = 8192  # of a block
TRIAL = 256  # queries of the first block, which says whether one slice rules out enough
# Pairs a query beyond which two slices are cheaper, and one more for each so many rows: on paper, three products more with every row
# against the reading of as many rows (1.2 P operations/s, 3 TB/s, 8 bytes a feature).
OPEN = 64
ROWS = 400
SAMPLE = 32_768  # rows that give the first limit, at least; else one in STEP
STEP = 8


def knn(query, prepared, k, max_memory):
    """See _contract.Ops."""
    parts = []
    for _, block in _blocks(query, prepared, OPEN + 2 * STEP * k):
        limit = block.first_limit(k)
        for at, queries, rows, values in block.open_pairs(_length(limit, prepared.distance), max_memory):
            parts.append(_least(values, rows, queries, at.stop - at.start, k, prepared.multiplicity))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def rows_within(query, prepared, radius, max_memory):
    """Distinct rows whose value is <= radius (N,) of each query, query by query, ascending."""
    found = []
    for block_at, block in _blocks(query, prepared, OPEN):
        limit = radius[block_at]
        for at, queries, rows, values in block.open_pairs(_length(limit, prepared.distance), max_memory):
            found.append(rows[values <= limit[at][queries]])
    return torch.cat(found)


def range_count(query, prepared, radius, max_memory):
    """(N,) rows, with multiplicity, at distance <= radius (N,) float64 of each query."""
    counts = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    for block_at, block in _blocks(query, prepared.searched, OPEN):
        limit, count = radius[block_at], counts[block_at]
        length = limit if prepared.distance == "euclidean" else _length(limit, prepared.distance)
        for at, queries, rows, values in block.open_pairs(length, max_memory, count):
            inside = rooted(values, prepared.distance) <= limit[at][queries]
            count[at].index_add_(0, queries[inside], prepared.multiplicity[rows[inside]])
    return counts


class _Block:
    """Some queries before all distinct rows."""

    def __init__(self, query, prepared, slices):
        self._prepared, self._distance, self._coded = prepared, prepared.distance, coded(prepared, slices)
        self._x = points(query, self._distance)
        self._slices, self._codes = encode(query, self._coded.grid)
        self.opened, self.outlying = 0, len(self._coded.outlying)

    def first_limit(self, k, step=None):
        """(n,) a value that k rows do not exceed, of one row in `step`."""
        reference, n = self._coded, len(self._x)
        step = step or max(1, min(STEP, len(reference.slices) // max(k, SAMPLE)))
        rows = nearest(self._slices, reference.slices[::step], reference.multiplicity[::step].contiguous(), k)[1] * step
        queries = torch.arange(n, device=rows.device).repeat_interleave(k)
        return self._values(queries, rows.flatten()).reshape(n, k).amax(1)

    def open_pairs(self, length, max_memory, counts=None):
        """Yield (slice of the queries, numbers of queries in it, rows, values) by query and row: all pairs with a value that `length` (n,)
        allows, and some that it does not. counts (n,): pairs that are surely within go there instead, with multiplicity."""
        yield from self.pairs(self.within(length, counts), max_memory)

    def within(self, length, counts=None, step=1):
        """The rows that open_pairs values but the outlying ones, counted; of one row in `step`."""
        reference = self._coded
        near, far = reference.limits(length, self._codes.residual)
        if counts is None:
            near = torch.full_like(far, -1)
        elif self._distance in ON_SPHERE:
            near = torch.where(self._codes.zero, -1, near)  # the value between zero and another row is not half a square
        within = Within(self._slices, reference.slices[::step], reference.multiplicity[::step].contiguous(), near, far)
        if counts is not None:
            counts += within.weights
        return within

    def pairs(self, within, max_memory):
        """What open_pairs yields, of rows that are counted already."""
        reference, device = self._coded, self._x.device
        totals = within.counts + self.outlying
        self.opened += int(totals.sum())
        for at in _runs(totals, max(1, max_memory // 64)):
            n = at.stop - at.start
            queries = torch.arange(n, device=device).repeat_interleave(within.counts[at])
            rows = within.rows(at)
            if len(reference.outlying):
                queries = torch.cat([queries, torch.arange(n, device=device).repeat_interleave(len(reference.outlying))])
                rows = torch.cat([rows, reference.outlying.repeat(n)])
                order = (queries * len(reference.slices) + rows).argsort()
                queries, rows = queries[order], rows[order]
            yield at, queries, rows, self._values(queries + at.start, rows, max_memory)

    def _values(self, queries, rows, max_memory=1 << 28):
        """(P,) values of pairs, to the bit."""
        reference = self._prepared.rows
        if self._distance == "sqeuclidean":
            return squared(self._x, reference, queries, rows)
        block = max(1, max_memory // (64 * self._x.shape[1]))
        pairs = zip(queries.split(block), rows.split(block), strict=True)
        return torch.cat([pair_values(self._x[q], points(reference[r], self._distance), self._distance) for q, r in pairs])


def _blocks(query, prepared, usual):
    """Yield (slice of the queries, their block), with two slices once a block left more than `usual` pairs a query open."""
    slices, start, size = 1, 0, TRIAL
    while start < len(query):
        at = slice(start, min(start + size, len(query)))
        block = _Block(query[at], prepared, slices)
        yield at, block
        if block.opened > (usual + len(prepared.rows) // ROWS) * (at.stop - at.start):
            slices = 2
        start, size = at.stop, QUERIES


def _runs(sizes, total):
    """Cut 0..n in runs of at most `total` in sum, at least one element each."""
    run = ((sizes.cumsum(0) - 1).clamp_(min=0) // total).cpu()
    ends = [*((run[1:] != run[:-1]).nonzero()[:, 0] + 1).tolist(), len(sizes)]
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _least(values, rows, queries, n, k, multiplicity):
    """values, rows (n, k) by (value, row), tie_rows and tie_counts (n,) of pairs by query and row, k or more a query."""
    order = values.argsort(stable=True)
    order = order[queries[order].argsort(stable=True)]
    first = torch.searchsorted(queries, torch.arange(n, device=queries.device))
    at = order[first[:, None] + torch.arange(k, device=order.device)]
    ties = values == values[at[:, 0]][queries]
    tie_rows, tie_counts = (torch.zeros(n, dtype=torch.int64, device=queries.device) for _ in range(2))
    tie_rows.index_add_(0, queries, ties.long())
    tie_counts.index_add_(0, queries, ties * multiplicity[rows])
    return values[at], rows[at], tie_rows, tie_counts


def _length(limit, distance):
    """(n,) float64 distances of points where the value is `limit`."""
    return square_root((2 * limit if distance in ON_SPHERE else limit).clamp(min=0))
