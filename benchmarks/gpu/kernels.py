"""Triton kernels that only measure: parts of the search, and reads of memory that stays in L2."""

import torch
import triton
import triton.language as tl

from biasgen.triton_kernels import nearest
from biasgen.triton_kernels._tile import OPTIONS, STEP, Slices, Tile, _dot

PARTS = {"products": 0, "products and minimum": 1, "products, minimum and ties": 2}
_BLOCK = 4096  # elements that a program reads at a time


@triton.jit(do_not_specialize=["N", "M"])
def _part_kernel(
    query, reference, norms, D, stride, found, ties, N, M, share,
    PART: tl.constexpr, TILE_N: tl.constexpr, TILE_M: tl.constexpr, TILE_D: tl.constexpr,
):  # fmt: skip
    """The loops of _nearest_kernel for rows of one slice, up to a part of what it does with a tile.

    PART 0: products alone, those of all tiles in one sum; 1: the least key; 2: rows at it, too.
    found, ties (N, S) int32; M and share are multiples of TILE_M.
    """
    i = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    part, parts = tl.program_id(1), tl.num_programs(1)
    x_at = tl.minimum(i, N - 1).to(tl.int64) * D
    zero = tl.zeros((TILE_N, TILE_M), tl.int32)
    total = zero
    best = tl.zeros((TILE_N,), tl.int32) + 2147483647
    tied = tl.zeros((TILE_N,), tl.int32)
    for first in range(part * share, tl.minimum(M, (part + 1) * share), TILE_M):
        j = first + tl.arange(0, TILE_M)
        y_at = j.to(tl.int64) * stride
        if PART > 0:
            total = zero
        for k in range(0, D, TILE_D):
            total = _dot(query + x_at, reference + y_at, total, k, TILE_D)
        if PART > 0:
            key = tl.load(norms + j)[None, :] - 2 * total
            least = tl.min(key, 1)
            if PART > 1:  # noqa: SIM102 - known when it is compiled, the other is not
                if tl.max((least <= best).to(tl.int32), 0) > 0:
                    hits = key == tl.minimum(least, best)[:, None]
                    tied = tl.where(least < best, 0, tied) + tl.sum(hits.to(tl.int32), 1)
            best = tl.minimum(best, least)
    at = i.to(tl.int64) * parts + part
    tl.store(found + at, tl.min(total, 1) if PART == 0 else best, mask=i < N)
    tl.store(ties + at, tied, mask=i < N)


def part_of_search(
    part: int, query: Slices, reference: Slices, tile: Tile
) -> tuple[torch.Tensor, torch.Tensor]:
    """found, ties (N, S) of _part_kernel, S shares of the reference as in nearest._launch.

    Rows of one slice, more than 128 features; the number of rows is a multiple of tile.m.
    """
    N, M, device = len(query), len(reference), query.high.device
    blocks = triton.cdiv(N, tile.n)
    parts = max(1, min(triton.cdiv(nearest._PROGRAMS, blocks), triton.cdiv(M, nearest._SHARE)))
    share = triton.cdiv(triton.cdiv(M, parts), tile.m) * tile.m
    parts = triton.cdiv(M, share)
    found, ties = (torch.empty((N, parts), dtype=torch.int32, device=device) for _ in range(2))
    _part_kernel[(blocks, parts)](
        query.high, reference.high, reference.norms.int(), query.high.shape[1],
        reference.high.stride(0), found, ties, N, M, share,
        PART=part, TILE_N=tile.n, TILE_M=tile.m, TILE_D=STEP, **OPTIONS,
    )  # fmt: skip
    return found, ties


@triton.jit
def _read_kernel(source, sums, blocks, times, BLOCK: tl.constexpr):
    """The programs together read all blocks `times` times, each another one each time, past L1."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    total = tl.zeros((BLOCK,), tl.int32)
    for turn in range(times):
        for at in range(program, blocks, programs):
            block = (at + turn) % blocks
            offset = block * BLOCK + tl.arange(0, BLOCK)
            total += tl.load(source + offset, cache_modifier=".cg")
    tl.store(sums + program, tl.sum(total, 0))


def read(source: torch.Tensor, times: int, programs: int = 1056) -> torch.Tensor:
    """(programs,) int32: sums of what each read. source int32, of a multiple of 4096 elements.

    All programs together read it `times` times.
    """
    sums = torch.empty(programs, dtype=torch.int32, device=source.device)
    _read_kernel[(programs,)](source, sums, source.numel() // _BLOCK, times, BLOCK=_BLOCK)
    return sums
