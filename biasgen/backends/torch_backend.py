"""Plain torch on any device: the fallback, and every distance. Equal to the oracle to the bit, as everywhere."""
import torch

from biasgen.backends import _empirical_denoise, _search, _trees
from biasgen.backends._mode import exact_arithmetic
from biasgen.backends._values import pair_values, points, rooted
from biasgen.distances import DISTANCES

DEVICES = ("cpu", "cuda")
SEARCH = {"dtypes": ("uint8", "int16", "float32", "float64"), "distances": tuple(DISTANCES)}
EVIDENCE = {"dtypes": ("float32", "float64", "int8", "int16"), "distances": ()}
OPS = {
    "empirical_denoise": {"dtypes": ("float32", "float64"), "distances": ("sqeuclidean", "hamming")},
    **{op: SEARCH for op in ("knn", "range_count", "distance_histogram", "pairwise_distances", "paired_distances")},
    **{op: EVIDENCE for op in ("tree_posterior", "tree_posterior_sample", "tree_map")},
}
MAX_MEMORY = 256 << 20  # bytes for the temporaries of one block


def probe() -> str | None:
    """Why this backend cannot run, or None."""
    return None


def isa() -> None:
    """No instruction set is chosen here."""


def knn(query, prepared, k, max_memory=None):
    """The k nearest distinct rows of each query, in blocks whose temporaries take about max_memory bytes.

    query (N, F): uint8 or int16 (tokens beyond 255), or float32 or float64 beside float rows; prepared: biasgen.ops._prepared.Prepared.
    Returns values (N, k), the distances (squared for euclidean), and distinct rows (N, k) by (value, row), tie_rows (N,) distinct rows at
    the smallest value, tie_counts (N,) the same with multiplicity; int64, but values are float64 unless the distance has integer values
    for these rows.
    """
    with exact_arithmetic(_elements(query, prepared), query.device):
        return _search.knn(query, prepared, k, max_memory or MAX_MEMORY)


def rows_within(query, prepared, radius, offsets):
    """Distinct rows of value <= radius (N,) of each query, ascending; offsets (N + 1,): where each query's begin, known beforehand."""
    with exact_arithmetic(_elements(query, prepared), query.device):
        rows = _search.rows_within(query, prepared, radius, MAX_MEMORY)
    if len(rows) != int(offsets[-1]):
        raise ValueError("offsets: do not match the number of rows within the radius")
    return rows


def range_count(query, prepared, radius, max_memory=None):
    """(N,) int64: reference rows, with multiplicity, at distance <= radius (N,) float64 or int64 of each query."""
    with exact_arithmetic(_elements(query, prepared), query.device):
        return _search.range_count(query, prepared, radius, max_memory or MAX_MEMORY)


def distance_histogram(query, prepared, edges, max_memory=None):
    """(B,) int64: pairs of a query and a reference row by distance; edges (B + 1,) float64, all bins half open but the last."""
    with exact_arithmetic(_elements(query, prepared), query.device):
        return _search.distance_histogram(query, prepared, edges, max_memory or MAX_MEMORY)


def pairwise_distances(query, prepared, out):
    """Fill out (N, M), float64 or int64 as the distance has it for these rows, with the distances of all pairs."""
    with exact_arithmetic(_elements(query, prepared), query.device):
        _search.pairwise_distances(query, prepared, out, MAX_MEMORY)


def paired_distances(a, b, distance):
    """(N,) distances between row i of a (N, F) and row i of b (N, F), int64 or float64."""
    block = max(1, MAX_MEMORY // (64 * a.shape[1]))
    with exact_arithmetic(a.numel(), a.device):
        pairs = zip(a.split(block), b.split(block), strict=True)
        values = torch.cat([pair_values(points(x, distance), points(y, distance), distance) for x, y in pairs])
        return rooted(values, distance)


def _elements(query, prepared):
    """No tensor of a search has more."""
    return max(len(query) * len(prepared.rows), query.numel(), prepared.rows.numel()) * 16


def empirical_denoise(x_t, prepared, scale, sigma, log_p, max_memory=None):
    """x0_hat (B, D), log p(x_t), effective sample size and dropped probability, 0, (B,), float64; float64 throughout.

    x_t (B, D) float32 or float64; prepared: biasgen.ops._prepared.Prepared with U distinct rows; scale, sigma (B,), log_p (U,) float64:
    checked by the op, the weights normalized. Blocks whose temporaries take about max_memory bytes.
    """
    return _empirical_denoise.empirical_denoise(x_t, prepared.rows, scale, sigma, log_p, max_memory or MAX_MEMORY)


def tree_posterior(evidence, tree, levels):
    """Exact marginals, in the log domain in float64; see _trees."""
    return _trees.tree_posterior(evidence, tree, levels, MAX_MEMORY)


def tree_posterior_sample(evidence, tree, n, seed, numbers):
    """Strings from the posteriors; see _trees. A backend with random numbers of its own takes seed."""
    return _trees.tree_posterior_sample(evidence, tree, n, numbers, MAX_MEMORY)


def tree_map(evidence, tree):
    """The most probable derivations; see _trees."""
    return _trees.tree_map(evidence, tree, MAX_MEMORY)
