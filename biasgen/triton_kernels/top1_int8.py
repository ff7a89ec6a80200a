"""Nearest reference row of uint8 queries by int8 tensor-core products: exact squared L2, the probe's Triton kernel.

Both sides are shifted by 128 into int8, which changes no distance. A program holds a tile of queries and walks over the reference;
|y|^2 - 2 x.y is an exact int32 and decides; |x|^2 joins at the end.
"""
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

MAX_FEATURES = 33_025    # int32 products of uint8 rows are exact up to here on every path (docs/exactness.md)
_ALIGN = 16              # rows start on 16-byte boundaries, the widest load
_NORM_ROWS = 65_536      # rows widened to int32 at a time: 8 * 65 536 * D bytes
# A first guess: no spills on sm_80 and sm_90 (TILE_D = 128 spills on sm_80), not tuned on a device. Fusion is off in every kernel.
_TILE = {"TILE_N": 128, "TILE_M": 128, "TILE_D": 64}
_OPTIONS = {"num_warps": 8, "num_stages": 3, "enable_fp_fusion": False}


@triton.jit
def _top1_kernel(query, reference, norms, keys, indices, N, M, D, TILE_N: tl.constexpr, TILE_M: tl.constexpr, TILE_D: tl.constexpr):
    """query (N, D), reference (M, D) int8; norms (M,) int32 -> keys (N,) int32: min over j of norms[j] - 2 x.y_j; indices (N,) int32."""
    LARGEST: tl.constexpr = 2147483647   # above every key: 3 * 128^2 * 33 025 < 2^31 - 1
    i = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    d = tl.arange(0, TILE_D)
    best = tl.full((TILE_N,), LARGEST, tl.int32)
    best_index = tl.full((TILE_N,), 0, tl.int32)
    for first in range(0, M, TILE_M):
        j = first + tl.arange(0, TILE_M)
        products = tl.zeros((TILE_N, TILE_M), tl.int32)
        for k in range(0, D, TILE_D):
            x = tl.load(query + i[:, None].to(tl.int64) * D + (k + d)[None, :], mask=(i < N)[:, None] & (k + d < D)[None, :], other=0)
            y = tl.load(reference + j[None, :].to(tl.int64) * D + (k + d)[:, None], mask=(j < M)[None, :] & (k + d < D)[:, None], other=0)
            products = tl.dot(x, y, products, out_dtype=tl.int32)
        key = tl.where((j < M)[None, :], tl.load(norms + j, mask=j < M, other=0)[None, :] - 2 * products, LARGEST)
        smallest = tl.min(key, 1)
        better = smallest < best   # strictly: of equal rows the first stays
        if tl.max(better.to(tl.int32), 0) > 0:   # rare after the first tiles, so the arg-min costs nothing
            best_index = tl.where(better, first + tl.argmin(key, 1, tie_break_left=True), best_index)
            best = tl.minimum(best, smallest)
    tl.store(keys + i, best, mask=i < N)
    tl.store(indices + i, best_index, mask=i < N)


def top1(query: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest reference row of every query.

    Args: query (N, D) and reference (M, D) uint8, on one CUDA device; D <= 33 025, 1 <= M < 2^31 - 128.
    Returns: squared L2 distances (N,) int64 and indices (N,) int64, the lowest among ties. Memory beyond the rows: their int8 copies.
    """
    for rows, name in ((query, "query"), (reference, "reference")):
        _check_rows(rows, name)
    if query.shape[1] != reference.shape[1]:
        raise ValueError(f"query: want {reference.shape[1]} features like reference, got {query.shape[1]}")
    if query.device != reference.device:
        raise ValueError(f"query: want a tensor on {reference.device} like reference, got {query.device}")
    if not 1 <= len(reference) < 2**31 - _TILE["TILE_M"]:
        raise ValueError(f"reference: want 1 to 2^31 - {_TILE['TILE_M'] + 1} rows, got {len(reference)}")
    N = len(query)
    x, y = _shifted(query), _shifted(reference)
    keys, indices = (torch.empty(N, dtype=torch.int32, device=query.device) for _ in range(2))
    if N:
        _top1_kernel[(triton.cdiv(N, _TILE["TILE_N"]),)](
            x, y, _squared_norms(y), keys, indices, N, len(y), x.shape[1], **_TILE, **_OPTIONS
        )
    return _squared_norms(x).long() + keys, indices.long()


def compile_for(capability: int) -> CompiledKernel:
    """The kernel as `top1` launches it, compiled ahead of time for a compute capability (80, 90); needs no device."""
    pointers = {"query": "*i8", "reference": "*i8", "norms": "*i32", "keys": "*i32", "indices": "*i32"}
    names = _top1_kernel.arg_names
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, "D")}
    signature = pointers | dict.fromkeys(("N", "M", "D"), "i32") | dict.fromkeys(_TILE, "constexpr")
    source = ASTSource(fn=_top1_kernel, signature=signature, constexprs=_TILE, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=_OPTIONS)


def _check_rows(rows: torch.Tensor, name: str) -> None:
    if not isinstance(rows, torch.Tensor):
        raise TypeError(f"{name}: want a torch.Tensor, got {type(rows).__name__}")
    if rows.dtype != torch.uint8 or rows.ndim != 2:
        raise ValueError(f"{name}: want (rows, features) uint8, got {tuple(rows.shape)} {rows.dtype}")
    if not 1 <= rows.shape[1] <= MAX_FEATURES:
        raise ValueError(f"{name}: want 1 to {MAX_FEATURES} features, got {rows.shape[1]}")


def _shifted(rows: torch.Tensor) -> torch.Tensor:
    """rows - 128 as int8, padded with zero columns (which add nothing to a product) to a multiple of 16."""
    return torch.nn.functional.pad((rows ^ 128).view(torch.int8), (0, -rows.shape[1] % _ALIGN))


def _squared_norms(rows: torch.Tensor) -> torch.Tensor:
    """(rows,) int32; 128^2 * 33 025 < 2^31."""
    return torch.cat([part.to(torch.int32).square().sum(1, dtype=torch.int32) for part in rows.split(_NORM_ROWS)])
