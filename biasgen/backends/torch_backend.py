"""Plain torch on any device: the fallback, and every distance. Equal to the oracle to the bit, as everywhere."""
import torch

from biasgen.backends import _empirical_denoise, _search, _trees
from biasgen.backends._mode import exact_arithmetic
from biasgen.backends._values import VALUES, pair_values, points, rooted

DEVICES = ("cpu", "cuda")
SEARCH = {"dtypes": ("uint8", "int16", "float32", "float64"), "distances": tuple(VALUES)}
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
    """See _contract.Ops. Blocks whose temporaries take about max_memory bytes, here and below."""
    with exact_arithmetic(_elements(query, prepared), query.device):
        return _search.knn(query, prepared, k, max_memory or MAX_MEMORY)


def rows_within(query, prepared, radius, offsets):
    """See _contract.Ops."""
    with exact_arithmetic(_elements(query, prepared), query.device):
        rows = _search.rows_within(query, prepared, radius, MAX_MEMORY)
    if len(rows) != int(offsets[-1]):
        raise ValueError("offsets: do not match the number of rows within the radius")
    return rows


def range_count(query, prepared, radius, max_memory=None):
    """See _contract.Ops."""
    with exact_arithmetic(_elements(query, prepared), query.device):
        return _search.range_count(query, prepared, radius, max_memory or MAX_MEMORY)


def distance_histogram(query, prepared, edges, max_memory=None):
    """See _contract.Ops."""
    with exact_arithmetic(_elements(query, prepared), query.device):
        return _search.distance_histogram(query, prepared, edges, max_memory or MAX_MEMORY)


def pairwise_distances(query, prepared, out):
    """See _contract.Ops."""
    with exact_arithmetic(_elements(query, prepared), query.device):
        _search.pairwise_distances(query, prepared, out, MAX_MEMORY)


def paired_distances(a, b, distance):
    """See _contract.Ops."""
    block = max(1, MAX_MEMORY // (64 * a.shape[1]))
    with exact_arithmetic(a.numel(), a.device):
        pairs = zip(a.split(block), b.split(block), strict=True)
        values = torch.cat([pair_values(points(x, distance), points(y, distance), distance) for x, y in pairs])
        return rooted(values, distance)


def _elements(query, prepared):
    """No tensor of a search has more."""
    return max(len(query) * len(prepared.rows), query.numel(), prepared.rows.numel()) * 16


def empirical_denoise(x_t, prepared, scale, sigma, log_p, max_memory=None):
    """See _contract.Ops. Everything is in float64, and nothing is dropped."""
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
