"""The empirical denoiser over rows that are listed for each query: by their differences, in float64."""
import torch
import triton
import triton.language as tl

TILE_P = 32  # pairs a program, sixteen lanes each
TILE_D = 128  # features a program, of sixteen rows at a time
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit(do_not_specialize=["P", "D"])
def _squares_kernel(query, scale, rows, center, queries, listed, squares, P, D, TILE_P: tl.constexpr):
    """query x' (N, D), scale s (N,), center c float64, rows y (M, D); queries, listed (P,) int64 -> squares (P,) of |x' - s (y - c)|."""
    p = tl.program_id(0) * TILE_P + tl.arange(0, TILE_P)
    present = p < P
    n = tl.load(queries + p, mask=present, other=0)
    y_at = tl.load(listed + p, mask=present, other=0) * D
    s = tl.load(scale + n)
    lanes = tl.zeros((TILE_P, 16), tl.float64)
    for k in range(0, D, 16):
        d = k + tl.arange(0, 16)
        inside = present[:, None] & (d < D)[None, :]
        x = tl.load(query + (n * D)[:, None] + d[None, :], mask=inside, other=0.0)
        c = tl.load(center + d, mask=d < D, other=0.0)
        y = tl.load(rows + y_at[:, None] + d[None, :], mask=inside, other=0.0).to(tl.float64) - c[None, :]
        difference = tl.where(inside, x - s[:, None] * y, 0.0)
        lanes += difference * difference
    tl.store(squares + p, tl.sum(lanes, 1), mask=present)


@triton.jit(do_not_specialize=["D"], do_not_specialize_on_alignment=["sum_of_squares"])
def _sums_kernel(weights, rows, listed, starts, sums, total, sum_of_squares, D, TILE_D: tl.constexpr):
    """weights, listed (P,); those of query n from starts[n] to starts[n + 1] -> their sum and that of their squares (N,), and the sum of
    weights times rows (N, D)."""
    n = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * TILE_D + tl.arange(0, TILE_D)
    start, stop = tl.load(starts + n), tl.load(starts + n + 1)
    weight = tl.zeros((), tl.float64)
    square = tl.zeros((), tl.float64)
    row_sums = tl.zeros((TILE_D,), tl.float64)
    for first in range(start, stop, 16):
        p = first + tl.arange(0, 16)
        w = tl.load(weights + p, mask=p < stop, other=0.0)
        row = tl.load(listed + p, mask=p < stop, other=0)
        y = tl.load(rows + (row * D)[:, None] + d[None, :], mask=(d < D)[None, :], other=0.0)
        weight += tl.sum(w, 0)
        square += tl.sum(w * w, 0)
        row_sums += tl.sum(w[:, None] * y.to(tl.float64), 0)
    tl.store(sums + n * D + d, row_sums, mask=d < D)
    if tl.program_id(1) == 0:
        tl.store(total + n, weight)
        tl.store(sum_of_squares + n, square)


def squares_of(query, scale, rows, center, queries, listed):
    """(P,) float64: |x' - s (y - c)|^2 of the pairs (queries[p], listed[p]) int64; x' (N, D), s (N,), c (D,) float64, rows y (M, D)."""
    squares = torch.empty(len(listed), dtype=torch.float64, device=query.device)
    with torch.cuda.device_of(query):
        _squares_kernel[(triton.cdiv(len(listed), TILE_P),)](
            query, scale, rows, center, queries, listed, squares, len(listed), query.shape[1], TILE_P=TILE_P, **OPTIONS
        )
    return squares


def weighted(weights, rows, listed, starts):
    """Sums of weights w and of w w (N,), and of w y (N, D), float64, over the rows y that are listed (P,) for each query, from starts[n] to
    starts[n + 1]; weights (P,) float64, rows (M, D) float32 or float64, listed and starts (N + 1,) int64."""
    N, D = len(starts) - 1, rows.shape[1]
    total, sum_of_squares = torch.empty((2, N), dtype=torch.float64, device=rows.device)
    sums = torch.empty((N, D), dtype=torch.float64, device=rows.device)
    with torch.cuda.device_of(rows):
        _sums_kernel[(N, triton.cdiv(D, TILE_D))](weights, rows, listed, starts, sums, total, sum_of_squares, D, TILE_D=TILE_D, **OPTIONS)
    return total, sum_of_squares, sums
