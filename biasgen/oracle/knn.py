"""Nearest rows by the book: all distances, all sorted."""
import numpy as np


def distances(query, reference, distance):
    """(N, M) int64 distances between integer rows (N, ...) and (M, ...)."""
    x = np.asarray(query, np.int64).reshape(len(query), 1, -1)
    y = np.asarray(reference, np.int64).reshape(1, len(reference), -1)
    if distance == "hamming":
        return (x != y).sum(-1)
    if distance == "sqeuclidean":
        return ((x - y) ** 2).sum(-1)
    raise ValueError(f"distance: no oracle for {distance!r}")


def knn(query, reference, k, distance):
    """distances (N, k), indices (N, k) by (distance, index), tie_counts (N,): rows at the smallest distance."""
    table = distances(query, reference, distance)
    indices = np.argsort(table, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(table, indices, 1), indices, (table == table.min(1, keepdims=True)).sum(1)


def nearest_credit(query, reference, distance, within=None):
    """(M,) sum over queries, in their order, of 1 / tie_count for every row at the smallest distance."""
    weights = np.zeros(len(reference))
    for row in distances(query, reference, distance):
        nearest = row == row.min()
        if within is None or row.min() <= within:
            weights[nearest] += 1.0 / nearest.sum()
    return weights
