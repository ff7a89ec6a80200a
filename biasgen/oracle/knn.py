"""Distances to the bit and nearest rows by the book: all distances, all sorted. The words are in docs/exactness.md."""
import numpy as np


def distances(query, reference, distance):
    """(N, M) distances between rows (N, ...) and (M, ...): int64 for hamming, and for sqeuclidean,
    cityblock and chebyshev of integers; else float64."""
    x, y = (np.asarray(rows).reshape(len(rows), -1) for rows in (query, reference))
    integers = x.dtype.kind in "iu"
    if distance == "hamming":
        return (x.astype(np.int64)[:, None] != y.astype(np.int64)).sum(-1)
    if integers and distance in ("sqeuclidean", "cityblock", "chebyshev"):
        difference = x.astype(np.int64)[:, None] - y.astype(np.int64)
        if distance == "chebyshev":
            return abs(difference).max(-1)
        return (difference**2 if distance == "sqeuclidean" else abs(difference)).sum(-1)
    return np.array([[value(a, b, distance) for b in y.astype(np.float64)] for a in x.astype(np.float64)])


def value(x, y, distance):
    """The defined value between two float64 rows (D,)."""
    if distance == "cityblock":
        return lane_sum(abs(x - y))
    if distance == "chebyshev":
        return abs(x - y).max()
    if distance in ("sqeuclidean", "euclidean"):
        squared = lane_sum((x - y) ** 2)
        return np.sqrt(squared) if distance == "euclidean" else squared
    if distance == "correlation":
        x, y = centered(x), centered(y)
    elif distance != "cosine":
        raise ValueError(f"distance: no oracle for {distance!r}")
    x, y = normalized(x), normalized(y)
    if x.any() != y.any():
        return 1.0
    return lane_sum((x - y) ** 2) / 2


def lane_sum(terms):
    """16 lanes, lane l adds the terms l, l + 16, l + 32 ... in that order; then the lanes are halved. No fused multiply-add."""
    rows = np.concatenate([terms, np.zeros(-len(terms) % 16)]).reshape(-1, 16)
    lanes = np.zeros(16)
    for row in rows:
        lanes = lanes + row
    for width in (8, 4, 2, 1):
        lanes = lanes[:width] + lanes[width : 2 * width]
    return lanes[0]


def centered(x):
    """x minus its mean; a constant row is the zero row, whatever its mean rounds to."""
    return np.zeros_like(x) if x.min() == x.max() else x - lane_sum(x) / len(x)


def normalized(x):
    """x at length 1: first divided by its largest magnitude, so that no square overflows or vanishes; the zero row stays."""
    if not x.any():
        return x
    x = x / abs(x).max()
    return x / np.sqrt(lane_sum(x * x))


def ordered(query, reference, distance):
    """The table that neighbours are ordered by: the squares for euclidean, because many of them share a root."""
    if distance != "euclidean":
        return distances(query, reference, distance)
    return distances(query, reference, "sqeuclidean").astype(np.float64)


def knn(query, reference, k, distance):
    """distances (N, k), indices (N, k) by (distance, index), tie_counts (N,): rows at the smallest distance."""
    table = ordered(query, reference, distance)
    indices = np.argsort(table, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(table, indices, 1)
    return np.sqrt(found) if distance == "euclidean" else found, indices, (table == table.min(1, keepdims=True)).sum(1)


def nearest_credit(query, reference, distance, within=None):
    """(M,) sum over queries, in their order, of 1 / tie_count for every row at the smallest distance."""
    weights = np.zeros(len(reference))
    for row in ordered(query, reference, distance):
        nearest = row == row.min()
        smallest = np.sqrt(row.min()) if distance == "euclidean" else row.min()
        if within is None or smallest <= within:
            weights[nearest] += 1.0 / nearest.sum()
    return weights
