"""What the search kernels share: rows as int8, and the tile of keys that orders a block of reference rows for a block of queries."""
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

_RESIDENT = 128  # features up to which a block of queries stays on the chip
STEP = 64  # features of one step otherwise
# Features whose products are summed in int32 before the sum is added in int64. The two cross
# products of slices share one sum: 2 * 128^2 * 32 768 < 2^31.
_DEPTH = 32_768
OPTIONS = {"num_warps": 8, "num_stages": 3, "enable_fp_fusion": False}


@dataclass(frozen=True, eq=False)
class Slices:
    """Rows (R, D) as integers: high, or 256 high + low, int8, `width` columns; norms (R,) int64, their squared lengths.

    tokens: high holds tokens (bytes), compared position by position; norms are D then, so that every key is twice a number of positions.
    """

    high: torch.Tensor
    low: torch.Tensor | None
    norms: torch.Tensor
    tokens: bool = False

    def __len__(self) -> int:
        return len(self.high)

    def __getitem__(self, at: slice) -> "Slices":
        return Slices(self.high[at], None if self.low is None else self.low[at], self.norms[at], self.tokens)

    @property
    def wide(self) -> bool:
        """Whether keys need int64."""
        return self.low is not None or self.high.shape[1] > _DEPTH

    @property
    def large(self) -> bool:
        """Whether a key takes many registers."""
        return self.wide or self.tokens


@dataclass(frozen=True)
class Tile:
    """Shape of a block: queries and reference rows; a guess until measured on a device, but none spills (docs/gpu.md)."""

    n: int
    m: int


def width(D: int) -> int:
    """Columns that the kernels want for D features: loads are unmasked and start on 16-byte
    boundaries. Zeros in those beyond D change no distance.
    """
    return max(32, triton.next_power_of_2(D)) if D <= _RESIDENT else D + -D % STEP


def padded(rows: torch.Tensor) -> torch.Tensor:
    """rows (R, D) int8 with zero columns up to `width`; the same tensor where there are none."""
    beyond = width(rows.shape[1]) - rows.shape[1]
    return torch.nn.functional.pad(rows, (0, beyond)) if beyond else rows.contiguous()


def shape(reference: Slices, tile: Tile) -> dict:
    """The compile-time arguments of a kernel for these rows."""
    D = reference.high.shape[1]
    resident = D <= _RESIDENT and not reference.tokens
    return {
        "TWO": reference.low is not None,
        "WIDE": reference.wide,
        "TOKENS": reference.tokens,
        "RESIDENT": resident,
        "TILE_N": tile.n,
        "TILE_M": tile.m,
        "TILE_D": D if resident else STEP,
        "DEPTH": _DEPTH,
        **OPTIONS,
    }


def operands(query: Slices, reference: Slices) -> tuple:
    """The arguments that `keys` needs, in the order of every kernel.

    A slice that is not there is never read. Tokens of some queries may begin at any address: they
    are copied, because Triton would compile a kernel anew for an address that is not aligned.
    """
    norms = reference.norms if reference.wide else reference.norms.int()
    high = query.high if query.high.data_ptr() % 16 == 0 else query.high.clone()
    low = (high, reference.high) if reference.low is None else (query.low, reference.low)
    return (
        high, low[0], reference.high, low[1], norms.contiguous(), high.shape[1],
        reference.high.stride(0),
    )  # fmt: skip


@triton.jit
def largest(WIDE: tl.constexpr):
    """Above every key."""
    return tl.full((), 1 << 62, tl.int64) if WIDE else tl.full((), 2147483647, tl.int32)


@triton.jit
def queries(query, i, N, D, TILE_D: tl.constexpr):
    """(TILE_N, TILE_D) a block of queries from feature 0 on; rows beyond the last are the last."""
    return tl.load(query + tl.minimum(i, N - 1)[:, None].to(tl.int64) * D + tl.arange(0, TILE_D)[None, :])


@triton.jit
def _dot(x, y, products, k, TILE_D: tl.constexpr):
    """products (TILE_N, TILE_M) int32 and TILE_D more features from k on; x, y: where the rows begin."""
    d = k + tl.arange(0, TILE_D)
    return tl.dot(tl.load(x[:, None] + d[None, :]), tl.load(y[None, :] + d[:, None]), products, out_dtype=tl.int32)


@triton.jit
def keys(
    query, query_low, reference, reference_low, norms, held, held_low, i, j, N, stop, D, stride,
    TWO: tl.constexpr, WIDE: tl.constexpr, TOKENS: tl.constexpr, RESIDENT: tl.constexpr,
    TILE_N: tl.constexpr, TILE_M: tl.constexpr, TILE_D: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """(TILE_N, TILE_M) |y|^2 - 2 x.y of queries i and rows j, exact: int64 if WIDE, else int32.

    It is the largest key for rows from stop on. DEPTH: features of one int32 sum, where WIDE.
    """
    zero = tl.zeros((TILE_N, TILE_M), tl.int32)
    inside = tl.minimum(j, stop - 1)
    x_at = tl.minimum(i, N - 1).to(tl.int64) * D
    y_at = inside.to(tl.int64) * stride
    if TOKENS:
        total = zero
        for k in range(D):
            x = tl.load(query + x_at + k)
            y = tl.load(reference + y_at + k)
            total += (x[:, None] == y[None, :]).to(tl.int32)
    elif RESIDENT:
        d = tl.arange(0, TILE_D)
        y = tl.load(reference + y_at[None, :] + d[:, None])
        total = tl.dot(held, y, zero, out_dtype=tl.int32)
        if TWO:
            y_low = tl.load(reference_low + y_at[None, :] + d[:, None])
            cross = tl.dot(held_low, y, tl.dot(held, y_low, zero, out_dtype=tl.int32), out_dtype=tl.int32)
            low = tl.dot(held_low, y_low, zero, out_dtype=tl.int32)
            total = total.to(tl.int64) * 65536 + cross.to(tl.int64) * 256 + low.to(tl.int64)
    elif WIDE:
        total = tl.zeros((TILE_N, TILE_M), tl.int64)
        for first in range(0, D, DEPTH):
            last = tl.minimum(D, first + DEPTH)
            part = zero
            for k in range(first, last, TILE_D):
                part = _dot(query + x_at, reference + y_at, part, k, TILE_D)
            if TWO:
                total += part.to(tl.int64) * 65536
                part = zero
                for k in range(first, last, TILE_D):
                    part = _dot(query + x_at, reference_low + y_at, part, k, TILE_D)
                    part = _dot(query_low + x_at, reference + y_at, part, k, TILE_D)
                total += part.to(tl.int64) * 256
                part = zero
                for k in range(first, last, TILE_D):
                    part = _dot(query_low + x_at, reference_low + y_at, part, k, TILE_D)
            total += part.to(tl.int64)
    else:
        total = zero
        for k in range(0, D, TILE_D):
            total = _dot(query + x_at, reference + y_at, total, k, TILE_D)
    return tl.where((j < stop)[None, :], tl.load(norms + inside)[None, :] - 2 * total, largest(WIDE))
