"""The k nearest rows of each query by int8 tensor-core products, k <= 64, and how many rows share the smallest distance.

A program holds a block of queries and walks over its share of the reference; what comes closer enters the sorted few in registers.
"""
import torch
import triton
import triton.language as tl

from biasgen.triton_kernels._tile import Slices, Tile, keys, largest, operands, queries, shape
from biasgen.triton_kernels._tune import tile_for

_PROGRAMS = 528  # to fill a device: four blocks for each of 132 multiprocessors; a share of the reference has 4096 rows at least
_SHARE = 4096
# By the number of neighbours kept, and whether a key takes much (int64, or tokens); the first where none is timed. Larger ones spill:
# docs/gpu.md.
TILES = {
    (1, False): (Tile(64, 128), Tile(128, 64), Tile(128, 128)),
    (16, False): (Tile(64, 128), Tile(64, 64)),
    (64, False): (Tile(64, 64),),
    (1, True): (Tile(64, 64),),
    (16, True): (Tile(32, 64),),
    (64, True): (Tile(32, 64),),
}


@triton.jit(do_not_specialize=["N", "M"])
def _nearest_kernel(
    query, query_low, reference, reference_low, norms, D, stride, multiplicity, best_keys, best_rows, tie_rows, tie_counts, N, M, share,
    K: tl.constexpr, TWO: tl.constexpr, WIDE: tl.constexpr, TOKENS: tl.constexpr, RESIDENT: tl.constexpr,
    TILE_N: tl.constexpr, TILE_M: tl.constexpr, TILE_D: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """best_keys, best_rows (N, S, K): of share s, rows s * share on, the K least (key, row) in any order, filled up with the largest key;
    tie_rows, tie_counts (N, S): rows at the least key, and their multiplicity."""
    i = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    part, parts = tl.program_id(1), tl.num_programs(1)
    stop = tl.minimum(M, (part + 1) * share)
    held, held_low = i, i
    if RESIDENT:
        held = queries(query, i, N, D, TILE_D)
        if TWO:
            held_low = queries(query_low, i, N, D, TILE_D)
    columns = tl.arange(0, TILE_M)
    best = tl.zeros((TILE_N, K), tl.int64 if WIDE else tl.int32) + largest(WIDE)
    rows = tl.zeros((TILE_N, K), tl.int32) - 1 - tl.arange(0, K)[None, :]  # all different: one at a time is replaced
    tied = tl.zeros((TILE_N,), tl.int32)
    counted = tl.zeros((TILE_N,), tl.int64)
    for first in range(part * share, stop, TILE_M):
        j = first + columns
        key = keys(
            query, query_low, reference, reference_low, norms, held, held_low, i, j, N, stop, D, stride,
            TWO, WIDE, TOKENS, RESIDENT, TILE_N, TILE_M, TILE_D, DEPTH,
        )  # fmt: skip
        least = tl.min(key, 1)
        before = tl.min(best, 1)
        if tl.max((least <= before).to(tl.int32), 0) > 0:
            hits = key == tl.minimum(least, before)[:, None]
            weights = tl.load(multiplicity + j, mask=j < stop, other=0)
            tied = tl.where(least < before, 0, tied) + tl.sum(hits.to(tl.int32), 1)
            counted = tl.where(least < before, 0, counted) + tl.sum(tl.where(hits, weights[None, :], 0).to(tl.int64), 1)
        entering = tl.max((least < tl.max(best, 1)).to(tl.int32), 0)
        while entering > 0:  # rare after the first tiles
            least, at = tl.min(key, 1, return_indices=True, return_indices_tie_break_left=True)
            worst = tl.max(best, 1)
            # Rows ascend, so one at the same distance as those kept comes after them; of the worst the last row leaves.
            is_worst = best == worst[:, None]
            last = tl.max(tl.where(is_worst, rows, -2147483648), 1)
            replaced = is_worst & (rows == last[:, None]) & (least < worst)[:, None]
            best = tl.where(replaced, least[:, None], best)
            rows = tl.where(replaced, (first + at)[:, None], rows)
            key = tl.where(columns[None, :] == at[:, None], largest(WIDE), key)
            entering = tl.max((least < worst).to(tl.int32), 0)
            if K == 1:
                entering = 0
    at = i.to(tl.int64) * parts + part
    slots = at[:, None] * K + tl.arange(0, K)[None, :]
    tl.store(best_keys + slots, best, mask=(i < N)[:, None])
    tl.store(best_rows + slots, rows, mask=(i < N)[:, None])
    tl.store(tie_rows + at, tied, mask=i < N)
    tl.store(tie_counts + at, counted, mask=i < N)


def nearest(query: Slices, reference: Slices, multiplicity: torch.Tensor, k: int) -> tuple[torch.Tensor, ...]:
    """The k <= min(M, 64) nearest rows of each of N queries by (squared distance, row); the same on any number of shares.

    Returns squared distances (N, k), rows (N, k), tie_rows (N,) and tie_counts (N,), rows at the smallest distance and the sum of their
    multiplicity (M,) int32; all int64. Takes 16 N k bytes for each share of the reference.
    """
    kept = 1 if k == 1 else 16 if k <= 16 else 64

    def launch(query, reference, tile):
        return _launch(query, reference, multiplicity, kept, tile)

    key = kept, reference.high.shape[1], reference.low is None, reference.tokens
    tile = tile_for(key, TILES[kept, reference.large], query, reference, launch)
    found, rows, tie_rows, tie_counts = launch(query, reference, tile)
    tied = found.amin(2) == found.amin((1, 2))[:, None]
    rows, order = rows.flatten(1).long().sort(1)  # the lesser key first, then a stable sort by the greater one
    found, by_key = found.flatten(1).long().gather(1, order).sort(dim=1, stable=True)
    rows = rows.gather(1, by_key)[:, :k]
    return found[:, :k] + query.norms[:, None], rows, (tie_rows * tied).sum(1), (tie_counts * tied).sum(1)


def _launch(query, reference, multiplicity, kept, tile):
    """What _nearest_kernel writes, with the reference in enough shares to fill a device."""
    N, M, device = len(query), len(reference), query.high.device
    blocks = triton.cdiv(N, tile.n)
    parts = max(1, min(triton.cdiv(_PROGRAMS, blocks), triton.cdiv(M, _SHARE)))
    share = triton.cdiv(triton.cdiv(M, parts), tile.m) * tile.m
    parts = triton.cdiv(M, share)
    found = torch.empty((N, parts, kept), dtype=torch.int64 if reference.wide else torch.int32, device=device)
    rows = torch.empty((N, parts, kept), dtype=torch.int32, device=device)
    tie_rows = torch.empty((N, parts), dtype=torch.int32, device=device)
    tie_counts = torch.empty((N, parts), dtype=torch.int64, device=device)
    with torch.cuda.device_of(query.high):
        _nearest_kernel[(blocks, parts)](
            *operands(query, reference), multiplicity, found, rows, tie_rows, tie_counts, N, M, share, K=kept, **shape(reference, tile)
        )
    return found, rows, tie_rows, tie_counts
