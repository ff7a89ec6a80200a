"""Native CPU kernels: one loop source for three instruction sets, single-threaded blocks on a pool of Python threads."""
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from biasgen import _settings
from biasgen.backends import _codes, _denoise_paths
from biasgen.backends._blocks import num_threads, run_blocks
from biasgen.backends._log_field import refuse
from biasgen.backends._mode import exact_arithmetic
from biasgen.backends._values import on_host
from biasgen.results import TreePosterior

try:
    from biasgen import _cpu
except ImportError as error:  # a source tree without the module: the torch backend serves
    _cpu, _missing = None, f"biasgen._cpu cannot be loaded ({error})"

DEVICES = ("cpu",)
EVIDENCE = {"dtypes": ("float32", "float64", "int8", "int16"), "distances": ()}
# Queries of one unit of work at most. Hamming: 4096 x 12 000 rows of 16 tokens take 1.2 ms, ten times what handing out costs (with 512
# two threads gained 1.5x, with 4096 1.8x); of long rows so many that they stay in the second-level cache. Else each unit packs the rows
# for itself, which takes as long as 20 to 50 queries do.
HAMMING_BLOCK, QUERY_BLOCK = 4096, 1024
BLOCK_TOKENS = 1 << 18
SLOW_BLOCK = 1 << 33  # queries times reference rows times features that keep a thread busy for some 10 ms with AVX-512, 100 ms without
MAX_MEMORY = 256 << 20  # bytes for the temporaries of the empirical denoiser
LEAST_BLOCK = 64  # as many threads get work as have this many queries each
PLANES = (*range(1, 9), 12, 16)  # bits of a token that there are kernels for
STREAMED = 4 << 20  # bytes of marginals from which they are written past the caches
_LOGS = "logarithms"  # in Tree.packed
FIELD_BLOCK = 1 << 19  # log-field entries of one unit of work: 5500 samples of 16 x 6 take about 1.5 ms


def probe() -> str | None:
    """Why this backend cannot run, or None."""
    return _missing if _cpu is None else None


def isa() -> str:
    """The instruction set in use: BIASGEN_CPU_ISA, else the best of this machine. ValueError when a forced one cannot run here."""
    levels = _cpu.isa_levels()
    forced = _settings.cpu_isa()
    if forced is not None and forced not in levels:
        raise ValueError(f"BIASGEN_CPU_ISA: {forced!r} cannot run here; this machine has {', '.join(levels)}")
    return forced or levels[-1]


def normals(out, seed, first, step, purpose):
    """Fills out, (n, 4 blocks) float32, with the normals of samples first .. first + n: see biasgen/ops/philox.py."""
    _cpu.philox_normals(isa(), seed, first, step, purpose, out)


def knn(query, prepared, k, max_memory=None):
    """See _contract.Ops. max_memory is of no concern: the kernels keep no table of distances."""
    search, _, operands = _search(query, prepared)
    n, source, multiplicity = len(query), on_host(query), prepared.multiplicity.numpy()
    value = torch.int64 if prepared.integer else torch.float64
    shapes = ((n, k), value), ((n, k), torch.int64), ((n,), torch.int64), ((n,), torch.int64)
    out = [torch.empty(shape, dtype=dtype, device="cpu") for shape, dtype in shapes]
    arrays = [t.numpy() for t in out]

    def work(start, stop):
        search(source[start:stop], *operands, multiplicity, *(a[start:stop] for a in arrays))

    _run(work, n, prepared)
    return tuple(out)


def rows_within(query, prepared, radius, offsets):
    """See _contract.Ops."""
    _, search, operands = _search(query, prepared)
    rows = torch.empty(int(offsets[-1]), dtype=torch.int64, device="cpu")
    source, radius, offsets, out = on_host(query), radius.numpy(), offsets.numpy(), rows.numpy()

    def work(start, stop):
        search(source[start:stop], *operands, radius[start:stop], offsets[start : stop + 1], out)

    _run(work, len(query), prepared)
    return rows


def _search(query, prepared):
    """The native knn and rows_within for these rows, and what both take after the query."""
    return SEARCHES[prepared.distance](isa(), query, prepared)


def _by_planes(level, query, prepared):
    """Tokens, as bit planes, which serve every instruction set."""
    largest = max(int(on_host(query).max()), prepared.largest)  # torch would start its threads for this
    bits = next(bits for bits in PLANES if largest < 2**bits)
    if bits not in prepared.packed:
        prepared.packed[bits] = _cpu.pack_reference(level, on_host(prepared.rows), bits)
    return _of_integers(level, prepared, prepared.packed[bits], bits)


def _by_products(level, query, prepared):
    """Squared differences: of uint8 rows themselves, of floats screened by their codes."""
    if prepared.integer:
        return _of_integers(level, prepared, on_host(prepared.rows), 8)
    return _by_codes(level, query, prepared)


def _by_codes(level, query, prepared):
    """Floats, and points at length 1, screened by their 8-bit codes."""
    start, codes = (level, prepared.distance), _encoded(level, query.dtype, prepared)
    return partial(_cpu.knn_floats, *start), partial(_cpu.floats_within, *start), codes.operands


def _by_pairs(level, query, prepared):
    """Integers and floats, pair by pair: distances that no product of matrices bounds."""
    start, key = (level, prepared.distance), (query.dtype, "rows")
    if key not in prepared.packed:
        prepared.packed[key] = prepared.rows.to(query.dtype).numpy()
    return partial(_cpu.knn_direct, *start), partial(_cpu.direct_within, *start), (prepared.packed[key],)


def _of_integers(level, prepared, reference, bits):
    start, operands = (level, prepared.distance), (reference, len(prepared.rows), bits)
    return partial(_cpu.knn, *start), partial(_cpu.rows_within, *start), operands


# The distances of the cpu backend.
SEARCHES = {
    "hamming": _by_planes,
    "sqeuclidean": _by_products,
    "cosine": _by_codes,
    "correlation": _by_codes,
    "cityblock": _by_pairs,
    "chebyshev": _by_pairs,
}
OPS = {
    "empirical_denoise": {
        "dtypes": ("float32", "float64"),
        "distances": ("sqeuclidean", "hamming"),
    },
    "knn": {"dtypes": ("uint8", "int16", "float32", "float64"), "distances": tuple(SEARCHES)},
    **{op: EVIDENCE for op in ("tree_posterior", "tree_posterior_sample", "tree_map")},
}


def _encoded(level, dtype, prepared):
    """Codes of the rows, as `dtype` where that of the query is wider than theirs; they stay with `prepared`."""
    key = dtype, prepared.distance
    if key not in prepared.packed:
        with exact_arithmetic(prepared.rows.numel()):
            prepared.packed[key] = _codes.encode(_cpu, level, prepared.rows.to(dtype).numpy(), prepared.distance)
    return prepared.packed[key]


def _run(work, n, prepared):
    """work(start, stop) for blocks of n queries."""
    most, threads = QUERY_BLOCK, num_threads()
    if prepared.distance == "hamming":
        most = min(HAMMING_BLOCK, max(512, BLOCK_TOKENS // prepared.rows.shape[1]))
    turns = -(-n // (threads * most))  # of each thread; all as long, so that they end together
    block = max(LEAST_BLOCK, -(-n // (threads * turns)))
    run_blocks(work, n, block, slow=min(n, block) * prepared.rows.numel() >= SLOW_BLOCK)


def empirical_denoise(x_t, prepared, scale, sigma, log_p, max_memory=None):
    """See _contract.Ops. A query's bits do not depend on the others."""
    level, rows = isa(), prepared.rows
    arrays = [values.numpy() for values in (x_t.double().contiguous(), scale, sigma, log_p)]
    if prepared.distance == "hamming":
        return tuple(torch.from_numpy(values) for values in _denoise_paths.of_tokens(_cpu, level, rows.numpy(), *arrays))
    key = "empirical_denoise", level
    if key not in prepared.packed:
        codes = partial(_encoded, level, rows.dtype, replace(prepared, distance="sqeuclidean"))
        prepared.packed[key] = _denoise_paths.reference_of(_cpu, level, rows.numpy(), codes)
    found = _denoise_paths.empirical_denoise(_cpu, level, prepared.packed[key], *arrays, max_memory or MAX_MEMORY)
    return tuple(torch.from_numpy(values) for values in found)


def tree_posterior(evidence, tree, levels):
    """What `levels` asks for, TreePosterior.flat. evidence (B, L, Q) float32 or float64, or tokens
    (B, L) int8 or int16, contiguous.

    Each thread takes (nodes + 2 s + 5 + 2 s^k) Q 128 bytes of scratch, and 128 a rule where these
    are asked for."""
    B = len(evidence)
    # NumPy asks the system for large pages, torch does not: a twentieth of the time.
    arrays = {
        name: np.empty((B, *shape), dtype)
        for name, (dtype, shape) in TreePosterior.flat(tree, levels).items()
    }
    stream = "marginals" in arrays and arrays["marginals"].nbytes > STREAMED

    def work(*case, at):
        return _cpu.tree_posterior(
            *case, TreePosterior.of({name: array[at] for name, array in arrays.items()}), stream
        )

    _tree_blocks(evidence, tree, work)
    return TreePosterior.of({name: torch.from_numpy(array) for name, array in arrays.items()})


def tree_posterior_sample(evidence, tree, n, seed, numbers):
    """(B, n, L) strings from the posteriors, int8 (int16 where Q > 127), -1 where impossible. Numbers come from seed, in the kernel."""
    dtype = torch.int8 if tree.Q <= 127 else torch.int16
    strings = torch.empty((len(evidence), n, tree.L), dtype=dtype, device="cpu")
    array = strings.numpy()
    _tree_blocks(
        evidence,
        tree,
        lambda *case, at: _cpu.tree_posterior_sample(*case, seed, at.start, array[at]),
    )
    return strings


def tree_map(evidence, tree):
    """Leaves (B, L) of the most probable derivations, int8 (int16 where Q > 127), -1 where impossible, and log_p (B,) float64."""
    strings = np.empty((len(evidence), 1, tree.L), np.int8 if tree.Q <= 127 else np.int16)
    log_p = np.empty(len(evidence))
    if _LOGS not in tree.packed:
        logs = {name: getattr(tree, name).log().numpy() for name in ("weights", "root", "channels")}
        tree.packed[_LOGS] = tree.arrays._replace(**logs)
    logs = tree.packed[_LOGS]
    _tree_blocks(
        evidence, tree, lambda *case, at: _cpu.tree_map(*case, logs, strings[at], log_p[at])
    )
    return torch.from_numpy(strings[:, 0]), torch.from_numpy(log_p)


def _tree_blocks(evidence, tree, work):
    """work(instruction set, evidence, tree.arrays, at=slice) for blocks of samples; it returns -1
    or the sample that is refused."""
    level, source, grammar = isa(), evidence.numpy(), tree.arrays

    def block(start, stop):
        refused = work(level, source[start:stop], grammar, at=slice(start, stop))
        if refused >= 0:
            refuse(source[start + refused], start + refused)

    run_blocks(block, len(source), max(16, FIELD_BLOCK // (16 * tree.L * tree.Q) * 16))
