"""Plain torch on any device: the fallback, and every distance. Equal to the oracle to the bit, as everywhere."""
import math

import torch

from biasgen.backends import _empirical_denoise, _search
from biasgen.backends._log_field import MAX_SPREAD, refuse
from biasgen.backends._mode import exact_arithmetic
from biasgen.backends._values import pair_values, points, rooted
from biasgen.distances import DISTANCES

DEVICES = ("cpu", "cuda")
SEARCH = {"dtypes": ("uint8", "int16", "float32", "float64"), "distances": tuple(DISTANCES)}
OPS = {
    "empirical_denoise": {"dtypes": ("float32", "float64"), "distances": ("sqeuclidean", "hamming")},
    **{op: SEARCH for op in ("knn", "range_count", "distance_histogram", "pairwise_distances", "paired_distances")},
    "tree_posterior": {"dtypes": ("float32", "float64"), "distances": ()},
    "tree_posterior_sample": {"dtypes": ("float32", "float64"), "distances": ()},
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
    with exact_arithmetic(_elements(query, prepared)):
        return _search.knn(query, prepared, k, max_memory or MAX_MEMORY)


def rows_within(query, prepared, radius, offsets):
    """Distinct rows of value <= radius (N,) of each query, ascending; offsets (N + 1,): where each query's begin, known beforehand."""
    with exact_arithmetic(_elements(query, prepared)):
        rows = _search.rows_within(query, prepared, radius, MAX_MEMORY)
    if len(rows) != int(offsets[-1]):
        raise ValueError("offsets: do not match the number of rows within the radius")
    return rows


def range_count(query, prepared, radius, max_memory=None):
    """(N,) int64: reference rows, with multiplicity, at distance <= radius (N,) float64 or int64 of each query."""
    with exact_arithmetic(_elements(query, prepared)):
        return _search.range_count(query, prepared, radius, max_memory or MAX_MEMORY)


def distance_histogram(query, prepared, edges, max_memory=None):
    """(B,) int64: pairs of a query and a reference row by distance; edges (B + 1,) float64, all bins half open but the last."""
    with exact_arithmetic(_elements(query, prepared)):
        return _search.distance_histogram(query, prepared, edges, max_memory or MAX_MEMORY)


def pairwise_distances(query, prepared, out):
    """Fill out (N, M), float64 or int64 as the distance has it for these rows, with the distances of all pairs."""
    with exact_arithmetic(_elements(query, prepared)):
        _search.pairwise_distances(query, prepared, out, MAX_MEMORY)


def paired_distances(a, b, distance):
    """(N,) distances between row i of a (N, F) and row i of b (N, F), int64 or float64."""
    block = max(1, MAX_MEMORY // (64 * a.shape[1]))
    with exact_arithmetic(a.numel()):
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


def tree_posterior(log_field, rules, weights):
    """Exact leaf marginals, in the log domain in float64, sparse over the rules; blocks whose temporaries take about MAX_MEMORY bytes.

    log_field (B, L, Q) float32 or float64; rules (R, 3) int16, weights (R,) float64: checked by the op. Returns marginals (B, L, Q)
    float32, log_z (B,) float64, impossible (B,) bool, on the device of log_field.
    """
    B, L, Q = log_field.shape
    lists = [_rules_of(rules, weights, symbol, log_field.device) for symbol in range(3)]
    widest = max(log_w.numel() for _, log_w in lists)
    block = max(1, MAX_MEMORY // (8 * 4 * L * max(Q, widest // 2)))
    out = (
        torch.empty((B, L, Q), dtype=torch.float32, device=log_field.device),
        torch.empty(B, dtype=torch.float64, device=log_field.device),
        torch.empty(B, dtype=torch.bool, device=log_field.device),
    )
    for start in range(0, B, block):
        field = log_field[start : start + block].double()
        _check_field(field, start)
        for whole, part in zip(out, _posterior(field, *lists), strict=True):
            whole[start : start + block] = part
    return out


def tree_posterior_sample(log_field, rules, weights, n, seed, numbers):
    """(B, n, L) int8 strings from the posteriors, -1 where the evidence is impossible; blocks as in tree_posterior.

    numbers(start, stop): (stop - start, n, L) float64 in (0, 1), of rows start..stop; a backend with random numbers of its own takes seed.
    """
    B, L, Q = log_field.shape
    by_parent = _rules_of(rules, weights, 0, log_field.device)
    block = max(1, MAX_MEMORY // (8 * 4 * L * max(Q, by_parent[1].numel() // 2, max(n, 1) * by_parent[1].shape[1])))
    strings = torch.empty((B, n, L), dtype=torch.int8, device=log_field.device)
    for start in range(0, B, block):
        field = log_field[start : start + block].double()
        _check_field(field, start)
        strings[start : start + block] = _draw(field, by_parent, numbers(start, start + len(field)))
    return strings


def _draw(field, by_parent, u):
    """(b, n, L) strings of one block, from the root down; u (b, n, L)."""
    (left, right), log_w = by_parent
    inside = [field]
    while inside[0].shape[1] > 1:
        inside.insert(0, _combine(by_parent, inside[0][:, 0::2], inside[0][:, 1::2]))
    nodes = _pick(inside[0].expand(-1, u.shape[1], -1), u[..., 0])[..., None]
    for below in inside[1:]:
        one, other = left[nodes], right[nodes]   # (b, n, nodes, rules)
        rows = [below[:, None, side::2].expand(-1, u.shape[1], -1, -1) for side in (0, 1)]
        width = nodes.shape[2]
        rule = _pick(rows[0].gather(3, one) + rows[1].gather(3, other) + log_w[nodes], u[..., width : 2 * width])[..., None]
        nodes = torch.cat([one.gather(3, rule), other.gather(3, rule)], 3).flatten(2)
    impossible = torch.logsumexp(inside[0][:, 0], -1) == -math.inf
    return torch.where(impossible[:, None, None], -1, nodes)


def _pick(logs, u):
    """The first place over the last axis of `logs` at which the running share reaches u < 1: never one without a share."""
    top = logs.amax(-1, keepdim=True)
    reached = (logs - torch.where(top == -math.inf, 0.0, top)).exp().cumsum(-1)
    return (u[..., None] * reached[..., -1:] > reached).sum(-1)


def _rules_of(rules, weights, symbol, device):
    """Rules grouped by the symbol in column `symbol`: ([the two other columns] (Q', K) each, log-weights (Q', K)), K the longest group;
    shorter ones are filled up with log-weight -inf."""
    others = [column for column in range(3) if column != symbol]
    groups = [(rules[:, symbol] == s).nonzero()[:, 0] for s in range(int(rules[:, 0].max()) + 1)]
    shape = len(groups), max(len(group) for group in groups)
    columns = [torch.zeros(shape, dtype=torch.long) for _ in others]
    log_w = torch.full(shape, -math.inf, dtype=torch.float64)
    for s, group in enumerate(groups):
        for column, other in zip(columns, others, strict=True):
            column[s, : len(group)] = rules[group, other].long()
        log_w[s, : len(group)] = weights[group].log()
    return [column.to(device) for column in columns], log_w.to(device)


def _combine(rules, first, second):
    """(..., Q) message: log of the sum over each symbol's rules of first * second * weight. No +inf occurs, so no NaN."""
    (one, other), log_w = rules
    return torch.logsumexp(first[..., one] + second[..., other] + log_w, -1)


def _posterior(field, by_parent, by_left, by_right):
    """marginals, log_z, impossible of one block, float64."""
    Q = field.shape[2]
    top = field.amax(2, keepdim=True)
    top = torch.where(top == -math.inf, 0.0, top)
    inside = [field - top]
    while inside[-1].shape[1] > 1:
        inside.append(_combine(by_parent, inside[-1][:, 0::2], inside[-1][:, 1::2]))
    root = torch.logsumexp(inside[-1][:, 0], -1)
    outside = torch.zeros_like(inside[-1])
    for below in inside[-2::-1]:
        left, right = below[:, 0::2], below[:, 1::2]
        both = [_combine(by_left, outside, right), _combine(by_right, outside, left)]
        outside = torch.stack(both, 2).flatten(1, 2)
    impossible = root == -math.inf
    belief = outside + inside[0]
    total = torch.logsumexp(belief, -1, keepdim=True)
    marginals = torch.where(total == -math.inf, 0.0, (belief - total).exp())
    marginals = torch.where(marginals < 2.0**-126, 0.0, marginals)
    return marginals, root + _sum(top[..., 0]) - math.log(Q), impossible


def _sum(values):
    """(B,) sums of (B, L) float64, L <= 1024, right although large values cancel: multiples of 2^-40 of the largest add up exactly."""
    _, exponent = values.abs().amax(1, keepdim=True).frexp()
    unit = torch.ldexp(torch.ones_like(values[:, :1]), exponent.clamp(min=-900) - 40)  # not 0 where all values are denormals
    whole = (values / unit).round() * unit
    return whole.sum(1) + (values - whole).sum(1)


def _check_field(field, start):
    """ValueError for the first sample of a block with NaN, +inf or too large a spread; start: its number."""
    finite = field.isfinite()
    high = torch.where(finite, field, -math.inf).amax(2)
    low = torch.where(finite, field, math.inf).amin(2)
    spread = torch.where(high < low, 0.0, high - low).sum(1) / math.log(2)
    wrong = (field.isnan() | (field == math.inf)).any(2).any(1) | ~(spread < MAX_SPREAD)
    if wrong.any():
        sample = int(wrong.nonzero()[0])
        refuse(field[sample].cpu().numpy(), start + sample)
