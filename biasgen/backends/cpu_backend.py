"""Native CPU kernels: one loop source for three instruction sets, single-threaded blocks on a pool of Python threads."""
import torch

from biasgen import _settings
from biasgen.backends._blocks import run_blocks
from biasgen.backends._log_field import refuse

try:
    from biasgen import _cpu
except ImportError as error:  # a source tree without the module: the torch backend serves
    _cpu, _missing = None, f"biasgen._cpu cannot be loaded ({error})"

DEVICES = ("cpu",)
OPS = {
    "knn": {"dtypes": ("uint8",), "distances": ("hamming", "sqeuclidean")},
    "tree_posterior": {"dtypes": ("float32", "float64"), "distances": ()},
}
QUERY_BLOCK = 512  # queries of one unit of work: 512 x 12 000 tokens take about 0.3 ms, thirty times what handing them out costs
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


def knn(query, prepared, k, max_memory=None):
    """The k nearest distinct rows of each query. max_memory is of no concern here: the kernels keep no table of distances.

    query (N, F) uint8; prepared: biasgen.ops._prepared.Prepared. Returns distances (N, k) and distinct rows (N, k) by
    (distance, row), tie_rows (N,) distinct rows at the smallest distance, tie_counts (N,) the same with multiplicity; all int64.
    """
    level, bits, reference = _pack(query, prepared)
    n = len(query)
    out = [torch.empty(shape, dtype=torch.int64) for shape in ((n, k), (n, k), (n,), (n,))]
    arrays, source, multiplicity = [t.numpy() for t in out], query.numpy(), prepared.multiplicity.numpy()

    def work(start, stop):
        block = [a[start:stop] for a in arrays]
        _cpu.knn(level, prepared.distance, source[start:stop], reference, multiplicity, bits, *block)

    run_blocks(work, n, QUERY_BLOCK)
    return tuple(out)


def rows_within(query, prepared, radius, offsets):
    """Distinct rows at distance <= radius (N,) of each query, ascending; offsets (N + 1,): where each query's begin, known beforehand."""
    level, bits, reference = _pack(query, prepared)
    rows = torch.empty(int(offsets[-1]), dtype=torch.int64)
    source, radius, offsets, out = query.numpy(), radius.numpy(), offsets.numpy(), rows.numpy()

    def work(start, stop):
        span = radius[start:stop], offsets[start : stop + 1]
        _cpu.rows_within(level, prepared.distance, source[start:stop], reference, len(prepared.rows), bits, *span, out)

    run_blocks(work, len(query), QUERY_BLOCK)
    return rows


def _pack(query, prepared):
    """(instruction set, bits a value, packed reference); the packed form serves every instruction set and stays with `prepared`."""
    level, bits = isa(), 8
    if prepared.distance == "hamming":
        bits = max(1, int(query.numpy().max()).bit_length(), prepared.largest.bit_length())  # torch would start its threads for this
    if bits not in prepared.packed:
        prepared.packed[bits] = _cpu.pack_reference(level, prepared.distance, prepared.rows.numpy(), bits)
    return level, bits, prepared.packed[bits]


def tree_posterior(log_field, rules, weights):
    """Exact leaf marginals. log_field (B, L, Q) float32 or float64, contiguous; rules (R, 3) int16, weights (R,) float64: checked by the op

    Returns marginals (B, L, Q) float32, log_z (B,) float64, impossible (B,) bool. Each thread takes (2 L + 6) Q 128 bytes of scratch.
    """
    B, L, Q = log_field.shape
    marginals = torch.empty((B, L, Q), dtype=torch.float32)
    log_z = torch.empty(B, dtype=torch.float64)
    impossible = torch.empty(B, dtype=torch.bool)
    level, source, rows, w = isa(), log_field.numpy(), rules.numpy(), weights.numpy()
    arrays = [t.numpy() for t in (marginals, log_z, impossible)]

    def work(start, stop):
        refused = _cpu.tree_posterior(level, source[start:stop], rows, w, *(a[start:stop] for a in arrays))
        if refused >= 0:
            refuse(source[start + refused], start + refused)

    run_blocks(work, B, max(16, FIELD_BLOCK // (16 * L * Q) * 16))
    return marginals, log_z, impossible
