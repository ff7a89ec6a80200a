"""One exact search in plain torch, in two halves: a screen bounds the distances of all pairs; pairs that the bounds leave open get their
value to the bit. knn, rows_within, range_count and distance_histogram are its short users. Runs inside exact_arithmetic."""
from functools import partial

import torch

from biasgen.backends._screens import screens
from biasgen.backends._values import rooted
from biasgen.backends._views import Smallest

_PAIR_BYTES = 1280  # of max_memory for each open pair that is held: its temporaries take an eighth of that
_COUNTED = 1 << 16  # pairs that are counted together: 512 KiB a temporary


class _CrowdedError(Exception):
    """A screen leaves too many pairs open."""


def knn(query, prepared, k, max_memory):
    """See _contract.Ops."""
    n, device = len(query), query.device
    values = torch.empty((n, k), dtype=torch.int64 if prepared.integer else torch.float64, device=device)
    rows, tie_rows, tie_counts = (torch.empty(shape, dtype=torch.int64, device=device) for shape in ((n, k), n, n))

    def work(at, screen):
        for whole, part in zip((values, rows, tie_rows, tie_counts), _nearest(screen, prepared, k, max_memory), strict=True):
            whole[at] = part

    _by_blocks(query, prepared, max_memory, work, k=k)
    return values, rows, tie_rows, tie_counts


def _nearest(screen, prepared, k, max_memory):
    """values (n, k) and rows (n, k) by (value, row), tie_rows (n,), tie_counts (n,) of one block of queries."""
    nearest = _Nearest(screen, prepared, k)
    waiting, size, most = [], 0, max(1, max_memory // _PAIR_BYTES)
    for pairs in _open_pairs(screen, nearest.open, k, max_memory):
        if size + len(pairs[0]) > most and waiting:
            nearest.settle(*map(torch.cat, zip(*waiting, strict=True)))
            waiting, size = [], 0
        waiting.append(pairs)
        size += len(pairs[0])
    nearest.settle(*map(torch.cat, zip(*waiting, strict=True)))
    return nearest.values.reshape(-1, k), nearest.rows.reshape(-1, k), nearest.tie_rows, nearest.tie_counts


class _Nearest:
    """The k nearest rows so far of the n queries of a screen: queries, values and rows by (query, value, row), and the ties."""

    def __init__(self, screen, prepared, k):
        n, device = screen.n, prepared.rows.device
        dtype, infinity = (torch.int64, torch.iinfo(torch.int64).max) if screen.exact else (torch.float64, torch.inf)
        self._screen, self._multiplicity, self._k = screen, prepared.multiplicity, k
        self._upper = torch.full((n, k), infinity, dtype=dtype, device=device)
        self._smallest = self._upper[:, 0]
        self.queries, self.rows = torch.zeros((2, 0), dtype=torch.int64, device=device)
        self.values = torch.zeros(0, dtype=dtype, device=device)
        self.tie_rows, self.tie_counts = torch.zeros((2, n), dtype=torch.int64, device=device)

    def open(self, block):
        """(n, m): pairs of the block that do not surely lie beyond k others."""
        self._upper = torch.cat([self._upper, block.uppers(self._k)], 1).topk(self._k, largest=False).values
        return block.open(self._upper[:, -1])

    def settle(self, queries, rows, lower):
        """Take in pairs at or above their lower bounds."""
        near = ~(lower > self._upper[queries, -1])
        queries, rows = queries[near], rows[near]
        found = lower[near] if self._screen.exact else self._screen.values(queries, rows)

        closer = self._smallest.scatter_reduce(0, queries, found, "amin")
        ties = found == closer[queries]
        kept = self._smallest == closer
        self.tie_rows = (self.tie_rows * kept).index_add_(0, queries[ties], torch.ones_like(rows[ties]))
        self.tie_counts = (self.tie_counts * kept).index_add_(0, queries[ties], self._multiplicity[rows[ties]])
        self._smallest = closer

        queries, rows, found = (torch.cat(pair) for pair in ((self.queries, queries), (self.rows, rows), (self.values, found)))
        order = rows.argsort()  # the least key first, then stable sorts by the greater ones
        order = order[found[order].argsort(stable=True)]
        order = order[queries[order].argsort(stable=True)]
        queries = queries[order]
        first = torch.searchsorted(queries, torch.arange(len(closer), device=queries.device))
        best = torch.arange(len(order), device=queries.device) - first[queries] < self._k
        order = order[best]
        self.queries, self.rows, self.values = queries[best], rows[order], found[order]


def rows_within(query, prepared, radius, max_memory):
    """Distinct rows whose value is <= radius (N,) of each query, query by query, ascending."""
    found = [torch.zeros(0, dtype=torch.int64, device=query.device)]

    def work(at, screen):
        limit = radius[at]
        pairs = [torch.zeros((2, 0), dtype=torch.int64, device=query.device)]
        for queries, rows, lower in _open_pairs(screen, lambda block: block.open(limit), 1, max_memory):
            inside = _values(screen, queries, rows, lower) <= limit[queries]
            pairs.append(torch.stack([queries[inside], rows[inside]]))
        queries, rows = torch.cat(pairs, 1)
        order = rows.argsort()
        found.append(rows[order[queries[order].argsort(stable=True)]])

    _by_blocks(query, prepared, max_memory, work)
    return torch.cat(found)


def range_count(query, prepared, radius, max_memory):
    """(N,) rows, with multiplicity, at distance <= radius (N,) of each query."""
    counts = torch.empty(len(query), dtype=torch.int64, device=query.device)

    def work(at, screen):
        limit = radius[at]
        low, high = _squares(limit) if prepared.distance == "euclidean" else (limit, limit)
        sums = torch.zeros_like(counts[at])

        def between(block):
            inside = block.inside(low)
            multiplicity = prepared.multiplicity[block.rows(torch.arange(inside.shape[1], device=inside.device))]
            for part in _parts(len(inside), inside.numel(), max_memory):
                sums[part] += (inside[part] * multiplicity).sum(1)
            return inside.logical_not_().logical_and_(block.open(high))

        for queries, rows, lower in _open_pairs(screen, between, 1, max_memory):
            near = rooted(_values(screen, queries, rows, lower), prepared.distance) <= limit[queries]
            sums.index_add_(0, queries[near], prepared.multiplicity[rows[near]])
        counts[at] = sums

    _by_blocks(query, prepared, max_memory, work)
    return counts


def distance_histogram(query, prepared, edges, max_memory):
    """(B,) pairs of a query and a row, with multiplicity, by distance: edges (B + 1,) float64, the last bin closed, others half open."""
    counts = torch.zeros(len(edges) + 1, dtype=torch.int64, device=query.device)  # one more at either end for what is outside

    def work(_, screen):
        def undecided(block):
            lower, upper = block.bounds()
            multiplicity = prepared.multiplicity[block.rows(torch.arange(lower.shape[1], device=lower.device))]
            open_pairs = torch.zeros(lower.shape, dtype=torch.bool, device=lower.device)
            for part in _parts(len(lower), lower.numel(), max_memory):
                low, high = (_bins(rooted(bound[part], prepared.distance), edges) for bound in (lower, upper))
                open_pairs[part] = low != high
                decided = multiplicity * (low == high)
                counts.index_add_(0, low.flatten(), decided.flatten())
            return open_pairs

        for queries, rows, lower in _open_pairs(screen, undecided, 1, max_memory):
            values = rooted(_values(screen, queries, rows, lower), prepared.distance)
            counts.index_add_(0, _bins(values, edges), prepared.multiplicity[rows])

    _by_blocks(query, prepared, max_memory, work, sliced=False)
    return counts[1:-1]


def pairwise_distances(query, prepared, out, max_memory):
    """Fill out (N, M), int64 or float64, with the distances to all rows, in their own order."""

    def work(at, screen):
        for start, table in screen.tables():
            stop = start + table.shape[1]
            columns = prepared.members[prepared.offsets[start] : prepared.offsets[stop]]
            table = rooted(table, prepared.distance)
            out[at, columns] = table.repeat_interleave(prepared.multiplicity[start:stop], 1)

    _by_blocks(query, prepared, max_memory, work, sliced=False)


def _by_blocks(query, prepared, max_memory, work, *, k=1, sliced=True):
    """Call work(slice of the queries, their screen) for all of them; where a screen is crowded, again with the next one.

    k: pairs that are held for each query.
    """
    kinds, several = screens(prepared, len(query), sliced), len(prepared.views) > 1
    if several:
        kinds = kinds[-1:]  # whose blocks are alike in every view
    start = 0
    while start < len(query):
        size = min(kinds[0].queries(prepared, max_memory), max_memory // (_PAIR_BYTES * k) + 1)
        at = slice(start, min(len(query), start + size))
        make = partial(Smallest, kinds[0]) if several else kinds[0]
        try:
            work(at, make(query[at], prepared, max_memory))
            start = at.stop
        except _CrowdedError:
            kinds = kinds[1:]


def _open_pairs(screen, chosen, k, max_memory):
    """Yield (queries, rows, lower bounds) of the pairs in the masks chosen(block), so many at a time that max_memory holds them.

    _CrowdedError when they are too many for this screen, before the first of a block; k: as many a query are none of its fault.
    """
    most = max(1, max_memory // _PAIR_BYTES)
    opened = seen = 0
    for block in screen.blocks():
        mask = chosen(block)
        count = int(mask.count_nonzero())
        opened, seen = opened + count, seen + mask.numel()
        if opened > screen.open_share * seen + 4 * k * screen.n:
            raise _CrowdedError
        for start, stop in _runs(mask.sum(1).tolist(), most) if count > most else [(0, screen.n)]:
            for queries, columns in (pairs.unbind(1) for pairs in mask[start:stop].nonzero().split(most)):
                yield queries + start, block.rows(columns), block.lower(queries + start, columns)


def _runs(counts, most):
    """(start, stop) of runs of about `most` in total that are not empty."""
    start = total = 0
    for i, count in enumerate(counts):
        if total + count > most and total:
            yield start, i
            start, total = i, 0
        total += count
    if total:
        yield start, len(counts)


def _values(screen, queries, rows, lower):
    return lower if screen.exact else screen.values(queries, rows)


def _parts(n, elements, max_memory):
    """Slices of n rows of so many elements that are counted together."""
    step = max(1, max(_COUNTED, max_memory >> 8) * n // max(1, elements))
    return [slice(start, start + step) for start in range(0, n, step)]


def _squares(radius):
    """Bounds (low, high) of the squares whose correctly rounded roots are surely, or may be, at most radius."""
    square = torch.where(radius < 0, -1.0, radius.double().square())
    return square * (1 - 2.0**-50) - 1e-300, torch.where(radius < 0, -1.0, square * (1 + 2.0**-50) + 1e-300)


def _bins(values, edges):
    """0 below the edges, 1 .. B, B + 1 above them."""
    values = values.double()
    return torch.where(values == edges[-1], len(edges) - 1, torch.searchsorted(edges, values, right=True))
