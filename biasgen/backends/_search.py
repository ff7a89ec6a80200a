"""One exact search in plain torch, in two halves: a screen bounds the distances of all pairs; pairs that the bounds leave open get their
value to the bit. knn, rows_within, range_count and distance_histogram are its short users. Runs inside exact_arithmetic."""
import torch

from biasgen import distances
from biasgen.backends._values import ON_SPHERE, pair_values, points, rooted
from biasgen.backends._views import Smallest

_QUERIES = 256  # of a block: enough for a product of matrices to run at full speed
_TILE = 1 << 13  # pairs whose 16 lanes are summed together: 1 MiB stays in the second-level cache
_CENTER_ROWS = 4096
_UNIT = 2.0**-53
_SMALLEST = 2.0**-1022  # what a term may lose where a library flushes denormals


class Screen:
    """A block of queries (n, D) before all distinct rows: bounds of the distances, and their values. Euclidean is squared throughout."""

    def __init__(self, query, prepared, center, max_memory):
        self._rows, self._center, self._max_memory = prepared.rows, center, max_memory
        self.distance = distances.get(prepared.distance).ordered_by
        self.x = points(query, self.distance)

    def blocks(self):
        """Yield (first row, points (m, D)) of the reference, so that the temporaries of a block take about max_memory bytes."""
        n, D = self.x.shape
        # A pair takes about six temporaries of 8 bytes, for hamming a byte a position too; a row four copies in float64.
        block = max(1, self._max_memory // (48 * n + (n * D if self.distance == "hamming" else 32 * D)))
        for start in range(0, len(self._rows), block):
            yield start, points(self._rows[start : start + block], self.distance)

    def bounds(self, y):
        """(lower, upper), both (n, m). Integers are exact: both are the same tensor, int64.

        The bound of the product of matrices, for rows at the distances a and b from the center and any order of summation (Higham,
        Accuracy and Stability of Numerical Algorithms, section 3.1), in units of 2^-53 (a + b)^2: D + 4 for the two norms and the
        product with its assembly, 3 for the rounding of the centered rows, D / 16 + 8 for the value itself. 4 (D + 16) leaves a factor
        of more than two for the rounding of a, b and the bounds themselves. Sums of |x - y| have the relative error D + D / 16 + 8.
        """
        D = y.shape[1]
        if self.distance == "hamming":
            exact = pair_values(self.x[:, None], y[None], "hamming")
            return exact, exact
        if not y.is_floating_point():  # integers below 2^53 throughout: exact in every order of summation
            exact = _all_pairs(self.x.double(), y.double(), self.distance)[0].long()
            return exact, exact
        x = self.x
        if self._center is not None and self.distance == "sqeuclidean":
            x, y = x - self._center, y - self._center
        near, scale = _all_pairs(x, y, self.distance)
        slack = scale.mul_(4 * (D + 16) * _UNIT).add_(8 * D * _SMALLEST)
        lower, upper = (near - slack).clamp_(min=0), near.add_(slack)
        if self.distance in ON_SPHERE:
            one_zero = x.any(1)[:, None] != y.any(1)
            lower, upper = (torch.where(one_zero, 1.0, bound / 2) for bound in (lower, upper))
        return lower, upper

    def values(self, queries, rows):
        """(P,) values of the pairs (queries[p], rows[p]), to the bit."""
        block = max(1, self._max_memory // (64 * self.x.shape[1]))
        pairs = zip(queries.split(block), rows.split(block), strict=True)
        return torch.cat([pair_values(self.x[q], points(self._rows[r], self.distance), self.distance) for q, r in pairs])

    def table(self, y):
        """(n, m) values, to the bit."""
        if not y.is_floating_point():
            return self.bounds(y)[0]
        step = max(1, _TILE // len(y))
        return torch.cat([pair_values(x[:, None], y[None], self.distance) for x in self.x.split(step)])


def screens(query, prepared, max_memory):
    """Yield (slice of the queries, their Screen)."""
    center = None
    if prepared.rows.is_floating_point():  # any center is right: near the data the rounding of the product is least
        center = prepared.rows[:_CENTER_ROWS].double().mean(0)
    size = max(1, min(64 if prepared.distance == "hamming" else _QUERIES, max_memory // (128 * query.shape[1])))
    for start in range(0, len(query), size):
        at = slice(start, start + size)
        views = [Screen(view, prepared, center, max_memory) for view in prepared.seen(query[at])]
        yield at, views[0] if len(views) == 1 else Smallest(views)


def knn(query, prepared, k, max_memory):
    """See torch_backend.knn."""
    parts = [_nearest(screen, prepared, k) for _, screen in screens(query, prepared, max_memory)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _nearest(screen, prepared, k):
    """values (n, k) and rows (n, k) by (value, row), tie_rows (n,), tie_counts (n,) of one block of queries."""
    n, device = len(screen.x), screen.x.device
    dtype, infinity = (torch.int64, torch.iinfo(torch.int64).max) if prepared.integer else (torch.float64, torch.inf)
    nearest_upper = torch.full((n, k), infinity, dtype=dtype, device=device)
    nearest = nearest_upper[:, 0]
    queries = rows = torch.zeros(0, dtype=torch.int64, device=device)
    values = torch.zeros(0, dtype=dtype, device=device)
    tie_rows = torch.zeros(n, dtype=torch.int64, device=device)
    tie_counts = torch.zeros_like(tie_rows)
    for start, y in screen.blocks():
        lower, upper = screen.bounds(y)
        nearest_upper = torch.cat([nearest_upper, upper], 1).topk(k, largest=False).values
        # What lies surely beyond k others is out; ~ keeps a bound that overflowed to NaN.
        open_queries, open_rows = (~(lower > nearest_upper.amax(1, keepdim=True))).nonzero().unbind(1)
        open_rows = open_rows + start
        found = screen.values(open_queries, open_rows)

        closer = nearest.scatter_reduce(0, open_queries, found, "amin")
        ties = found == closer[open_queries]
        kept = nearest == closer
        tie_rows = (tie_rows * kept).index_add_(0, open_queries[ties], torch.ones_like(open_rows[ties]))
        tie_counts = (tie_counts * kept).index_add_(0, open_queries[ties], prepared.multiplicity[open_rows[ties]])
        nearest = closer

        queries, rows, values = (torch.cat(pair) for pair in ((queries, open_queries), (rows, open_rows), (values, found)))
        order = values.argsort(stable=True)  # rows ascend within a query already: the order is (query, value, row)
        order = order[queries[order].argsort(stable=True)]
        rank = torch.arange(len(order), device=device) - torch.searchsorted(queries[order], torch.arange(n, device=device))[queries[order]]
        order = order[rank < k]
        queries, rows, values = queries[order], rows[order], values[order]
    return values.reshape(n, k), rows.reshape(n, k), tie_rows, tie_counts


def rows_within(query, prepared, radius, max_memory):
    """Distinct rows whose value is <= radius (N,) of each query, query by query, ascending."""
    found = [torch.zeros(0, dtype=torch.int64, device=query.device)]
    for at, screen in screens(query, prepared, max_memory):
        pairs = []
        for start, y in screen.blocks():
            queries, rows = (~(screen.bounds(y)[0] > radius[at, None])).nonzero().unbind(1)
            inside = screen.values(queries, rows + start) <= radius[at][queries]
            pairs.append(torch.stack([queries, rows + start], 1)[inside])
        pairs = torch.cat(pairs)
        found.append(pairs[pairs[:, 0].argsort(stable=True), 1])
    return torch.cat(found)


def range_count(query, prepared, radius, max_memory):
    """(N,) rows, with multiplicity, at distance <= radius (N,) of each query."""
    counts = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    for at, screen in screens(query, prepared, max_memory):
        for start, y in screen.blocks():
            lower, upper = (rooted(bound, prepared.distance) for bound in screen.bounds(y))
            multiplicity = prepared.multiplicity[start : start + len(y)]
            inside = upper <= radius[at, None]
            queries, rows = (~inside & ~(lower > radius[at, None])).nonzero().unbind(1)
            inside[queries, rows] = rooted(screen.values(queries, rows + start), prepared.distance) <= radius[at][queries]
            counts[at] += (inside * multiplicity).sum(1)
    return counts


def distance_histogram(query, prepared, edges, max_memory):
    """(B,) pairs of a query and a row, with multiplicity, by distance: edges (B + 1,) float64, the last bin closed, others half open."""
    counts = torch.zeros(len(edges) + 1, dtype=torch.int64, device=query.device)  # one more at either end for what is outside
    for _, screen in screens(query, prepared, max_memory):
        for start, y in screen.blocks():
            low, high = (_bins(rooted(bound, prepared.distance), edges) for bound in screen.bounds(y))
            queries, rows = (low != high).nonzero().unbind(1)
            low[queries, rows] = _bins(rooted(screen.values(queries, rows + start), prepared.distance), edges)
            counts.index_add_(0, low.flatten(), prepared.multiplicity[start : start + len(y)].repeat(len(low)))
    return counts[1:-1]


def pairwise_distances(query, prepared, out, max_memory):
    """Fill out (N, M), int64 or float64, with the distances to all rows, in their own order."""
    for at, screen in screens(query, prepared, max_memory):
        for start, y in screen.blocks():
            stop = start + len(y)
            columns = prepared.members[prepared.offsets[start] : prepared.offsets[stop]]
            table = rooted(screen.table(y), prepared.distance)
            out[at, columns] = table.repeat_interleave(prepared.multiplicity[start:stop], 1)


def _bins(values, edges):
    """0 below the edges, 1 .. B, B + 1 above them."""
    values = values.double()
    return torch.where(values == edges[-1], len(edges) - 1, torch.searchsorted(edges, values, right=True))


def _all_pairs(x, y, distance):
    """Distances (n, m) between float64 rows, rounded, and the scale (n, m) of their rounding error: see Screen.bounds."""
    if distance == "cityblock":
        near = torch.cdist(x, y, p=1)
        return near, near.clone()
    x_x, y_y = x.square().sum(1)[:, None], y.square().sum(1)
    return x_x + y_y - 2 * (x @ y.T), (x_x.sqrt() + y_y.sqrt()).square_()
