"""Rows within a distance of each query by int8 tensor-core products: counted, then listed where the count says that they are.

Two limits a query cut the reference in rows at most `near` (counted), rows beyond `near` and at most `far` (listed) and the rest.
"""
import torch
import triton
import triton.language as tl

from biasgen.triton_kernels._tile import Slices, Tile, keys, operands, queries, shape

# By LIST, and whether a key takes much: int64, or tokens.
TILES = {(False, False): Tile(64, 128), (True, False): Tile(64, 128), (False, True): Tile(64, 64), (True, True): Tile(32, 64)}
_COUNTS = 1 << 24  # counts kept of a block of queries: 64 MiB


# Lists are made of some queries of a block: what is sliced for them begins at any address, and
# Triton would compile the kernel anew for an aligned one.
_SLICED = ["near", "far", "weights", "counts", "starts", "rows"]


@triton.jit(do_not_specialize=["N", "M"], do_not_specialize_on_alignment=_SLICED)
def _within_kernel(
    query, query_low, reference, reference_low, norms, D, stride, multiplicity, near, far, weights, counts, starts, rows, N, M, share,
    LIST: tl.constexpr, TWO: tl.constexpr, WIDE: tl.constexpr, TOKENS: tl.constexpr, RESIDENT: tl.constexpr,
    TILE_N: tl.constexpr, TILE_M: tl.constexpr, TILE_D: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """near, far (N,) limits of keys -> weights (N, S) int64: multiplicity of rows up to near, and counts (N, S) int32: rows beyond it up
    to far, of share s, rows s * share on. LIST: those rows, ascending, from rows[starts[n, s]] on. Multiplicity 0 leaves a row out."""
    i = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    part, parts = tl.program_id(1), tl.num_programs(1)
    stop = tl.minimum(M, (part + 1) * share)
    at = i.to(tl.int64) * parts + part
    counted = tl.zeros((TILE_N,), tl.int32)
    weight = tl.zeros((TILE_N,), tl.int64)
    start = weight
    busy = 1
    if LIST:  # most shares hold nothing: their products are not computed again
        busy = tl.max(tl.load(counts + at, mask=i < N, other=0), 0)
        start = tl.load(starts + at, mask=i < N, other=0)
    if busy > 0:
        held, held_low = i, i
        if RESIDENT:
            held = queries(query, i, N, D, TILE_D)
            if TWO:
                held_low = queries(query_low, i, N, D, TILE_D)
        limit = tl.load(near + i, mask=i < N, other=0)
        outer = tl.load(far + i, mask=i < N, other=0)
        for first in range(part * share, stop, TILE_M):
            j = first + tl.arange(0, TILE_M)
            key = keys(
                query, query_low, reference, reference_low, norms, held, held_low, i, j, N, stop, D, stride,
                TWO, WIDE, TOKENS, RESIDENT, TILE_N, TILE_M, TILE_D, DEPTH,
            )  # fmt: skip
            if tl.max((tl.min(key, 1) <= tl.maximum(limit, outer)).to(tl.int32), 0) > 0:
                times = tl.load(multiplicity + j, mask=j < stop, other=0)
                present = (times > 0)[None, :] & (i < N)[:, None]
                hits = (present & (key > limit[:, None]) & (key <= outer[:, None])).to(tl.int32)
                if LIST:
                    places = start[:, None] + tl.cumsum(hits, 1) - hits
                    tl.store(rows + places, tl.zeros((TILE_N, TILE_M), tl.int32) + j[None, :], mask=hits > 0)
                    start += tl.sum(hits, 1)
                else:
                    counted += tl.sum(hits, 1)
                    inside = present & (key <= limit[:, None])
                    weight += tl.sum(tl.where(inside, times[None, :], 0).to(tl.int64), 1)
    if not LIST:
        tl.store(counts + at, counted, mask=i < N)
        tl.store(weights + at, weight, mask=i < N)


class Within:
    """One block of queries and their limits: counts on construction, lists on demand.

    near, far (N,) int64: limits of the squared distance; near -1 for none. multiplicity (M,) int32: a row of 0 is left out.
    weights (N,): multiplicity of the rows up to near; counts (N,): rows beyond it up to far; both int64.
    """

    def __init__(self, query: Slices, reference: Slices, multiplicity: torch.Tensor, near: torch.Tensor, far: torch.Tensor):
        self._query, self._reference, self._multiplicity = query, reference, multiplicity
        bounds = torch.iinfo(torch.int64 if reference.wide else torch.int32)
        self._limits = [
            (limit.clamp(max=1 << 61) - query.norms).clamp(bounds.min, bounds.max // 2 if reference.wide else bounds.max - 1)
            for limit in (near, far)
        ]
        if not reference.wide:
            self._limits = [limit.int() for limit in self._limits]
        rows = TILES[False, reference.large].m
        tiles = triton.cdiv(len(reference), rows)
        self._share = triton.cdiv(tiles, max(1, min(tiles, _COUNTS // len(query), 65_535))) * rows
        parts = triton.cdiv(len(reference), self._share)
        device = query.high.device
        self._weights = torch.empty((len(query), parts), dtype=torch.int64, device=device)
        self._counts = torch.empty((len(query), parts), dtype=torch.int32, device=device)
        self._launch(slice(None), self._weights, self._counts, self._weights, self._counts, LIST=False)
        self.weights, self.counts = self._weights.sum(1), self._counts.sum(1)

    def rows(self, at: slice) -> torch.Tensor:
        """(P,) int64: the counted rows of the queries `at`, query by query, ascending."""
        counts = self._counts[at]
        ends = counts.flatten().cumsum(0)
        rows = torch.empty(int(ends[-1]), dtype=torch.int32, device=counts.device)
        if len(rows):
            self._launch(at, self._weights[at], counts, ends - counts.flatten(), rows, LIST=True)
        return rows.long()

    def _launch(self, at, *out, LIST):
        query, tile = self._query[at], TILES[LIST, self._reference.large]
        with torch.cuda.device_of(query.high):
            _within_kernel[(triton.cdiv(len(query), tile.n), self._weights.shape[1])](
                *operands(query, self._reference), self._multiplicity, *(limit[at] for limit in self._limits), *out,
                len(query), len(self._reference), self._share, LIST=LIST, **shape(self._reference, tile),
            )  # fmt: skip
