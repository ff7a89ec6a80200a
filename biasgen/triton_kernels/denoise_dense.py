"""The two products of the empirical denoiser over all rows: float64 scores become weights below the largest of their panel, and the weights
a mean of rows.

Rows come in panels. The maximum of every panel is known before the second product begins, so that nothing is rescaled but by factors that
are read; a query's sums run over the panels in their order, whatever else is in the batch.
"""
import torch
import triton
import triton.language as tl

PANEL = 64  # rows whose weights are summed in single precision: docs/exactness.md
RUN = 512  # features that the first product adds up in one go
STEP = 16  # features, or rows, of one step of a product: twice as many take more registers than there are
TILE_N = 64  # queries of a block
TILE_D = 32  # features of a block of the second product
_PANELS = 65_535  # of one launch
# Parts of one allocation, which begin at any address: no variant for aligned ones.
_PARTS = ["totals", "total_squares", "sum_of_squares"]
OPTIONS = {"num_warps": 8, "num_stages": 2, "enable_fp_fusion": False}


@triton.jit
def _centered(rows, center, j, d, M, D):
    """(rows, features) float64 less the center; rows beyond the last are the last, features beyond the last are 0."""
    inside = (d < D)[None, :]
    at = tl.minimum(j, M - 1)[:, None].to(tl.int64) * D + d[None, :]
    c = tl.load(center + d, mask=d < D, other=0.0)
    return tl.where(inside, tl.load(rows + at, mask=inside, other=0.0).to(tl.float64) - c[None, :], 0.0)


@triton.jit(do_not_specialize=["N", "M", "first"], do_not_specialize_on_alignment=_PARTS)
def _weigh_kernel(
    query, factor, rows, center, squares, log_p, weights, tops, totals, total_squares, N, M, first, D,
    TILE_N: tl.constexpr, PANEL: tl.constexpr, STEP: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """query (N, D), factor (N,), squares, log_p (M,) float64; panel p: rows first + p * PANEL on -> tops, totals, total_squares (P, N)
    float64: the largest logit and the sums of weights exp(logit - top) and of their squares; weights (P, N, PANEL) float32."""
    i = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    panel = tl.program_id(1)
    j = first + panel * PANEL + tl.arange(0, PANEL)
    x_at = tl.minimum(i, N - 1).to(tl.int64) * D
    score = tl.zeros((TILE_N, PANEL), tl.float64)
    for run in range(0, D, RUN):
        part = tl.zeros((TILE_N, PANEL), tl.float64)
        for k in range(run, tl.minimum(D, run + RUN), STEP):
            d = k + tl.arange(0, STEP)
            x = tl.load(query + x_at[:, None] + d[None, :], mask=(d < D)[None, :], other=0.0)
            part = tl.dot(x, tl.trans(_centered(rows, center, j, d, M, D)), part, out_dtype=tl.float64)
        score += part
    present = j < M
    square = tl.load(squares + j, mask=present, other=0.0)
    prior = tl.load(log_p + j, mask=present, other=float("-inf"))
    below = tl.load(factor + tl.minimum(i, N - 1))
    logit = score + (prior[None, :] - below[:, None] * square[None, :])
    top = tl.max(logit, 1)
    weight = tl.exp(logit - top[:, None])
    at = panel.to(tl.int64) * N + i
    held = i < N
    tl.store(tops + at, top, mask=held)
    tl.store(totals + at, tl.sum(weight, 1), mask=held)
    tl.store(total_squares + at, tl.sum(weight * weight, 1), mask=held)
    tl.store(weights + at[:, None] * PANEL + tl.arange(0, PANEL)[None, :], weight.to(tl.float32), mask=held[:, None])


@triton.jit(
    do_not_specialize=["N", "M", "first", "panels"], do_not_specialize_on_alignment=_PARTS
)
def _mean_kernel(
    weights, rows, center, kept, factors, totals, total_squares, sums, total, sum_of_squares, N, M, first, D, panels,
    TILE_N: tl.constexpr, PANEL: tl.constexpr, STEP: tl.constexpr, TILE_D: tl.constexpr,
):  # fmt: skip
    """Go on with sums (N, D), total and sum_of_squares (N,) float64 of the weights: panel by panel what there is times kept (P, N), and
    what the panel adds, which _weigh_kernel gave below its own largest logit, times factors (P, N)."""
    i = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    d = tl.program_id(1) * TILE_D + tl.arange(0, TILE_D)
    held = i < N
    here = held[:, None] & (d < D)[None, :]
    at = i.to(tl.int64)[:, None] * D + d[None, :]
    row_sums = tl.load(sums + at, mask=here, other=0.0)
    weight = tl.load(total + i, mask=held, other=0.0)
    square = tl.load(sum_of_squares + i, mask=held, other=0.0)
    for panel in range(panels):
        of_panel = tl.cast(panel, tl.int64) * N + i
        keep = tl.load(kept + of_panel, mask=held, other=1.0)
        factor = tl.load(factors + of_panel, mask=held, other=0.0)
        weight = weight * keep + factor * tl.load(totals + of_panel, mask=held, other=0.0)
        square = square * (keep * keep) + factor * factor * tl.load(total_squares + of_panel, mask=held, other=0.0)
        row_sums *= keep[:, None]
        if tl.max(factor, 0) > 0:
            part = tl.zeros((TILE_N, TILE_D), tl.float32)
            for row in range(0, PANEL, STEP):
                r = row + tl.arange(0, STEP)
                w = tl.load(weights + of_panel[:, None] * PANEL + r[None, :], mask=held[:, None], other=0.0)
                y = _centered(rows, center, first + panel * PANEL + r, d, M, D).to(tl.float32)
                part = tl.dot(w, y, part, input_precision="tf32x3", out_dtype=tl.float32)
            row_sums += factor[:, None] * part.to(tl.float64)
    tl.store(sums + at, row_sums, mask=here)
    if tl.program_id(1) == 0:  # what the others read of these they do not use
        tl.store(total + i, weight, mask=held)
        tl.store(sum_of_squares + i, square, mask=held)


def weighted(query, factor, rows, center, squares, log_p, max_memory):
    """Sums over all rows y of weights w = exp(logit - top), logit = q.y' - factor |y'|^2 + log_p, y' = y - center.

    query q (N, D), factor (N,), center (D,), squares (M,) of |y'|, log_p (M,) float64, contiguous; rows (M, D) float32 or float64.
    Returns top, sums of w and of w w (N,), of w y' (N, D); float64. Takes about max_memory bytes beside them, 300 a query at least.
    """
    (N, D), M, device = query.shape, len(rows), query.device
    top = torch.full((N,), -torch.inf, dtype=torch.float64, device=device)
    total, sum_of_squares = torch.zeros((2, N), dtype=torch.float64, device=device)
    sums = torch.zeros((N, D), dtype=torch.float64, device=device)
    blocks, most = triton.cdiv(N, TILE_N), min(_PANELS, max(1, max_memory // (N * (4 * PANEL + 64))))
    for first in range(0, M, most * PANEL):
        panels = min(most, triton.cdiv(M - first, PANEL))
        weights = torch.empty((panels, N, PANEL), dtype=torch.float32, device=device)
        tops, totals, total_squares = torch.empty((3, panels, N), dtype=torch.float64, device=device)
        with torch.cuda.device_of(query):
            _weigh_kernel[(blocks, panels)](
                query, factor, rows, center, squares, log_p, weights, tops, totals, total_squares, N, M, first, D,
                TILE_N=TILE_N, PANEL=PANEL, STEP=STEP, RUN=RUN, **OPTIONS,
            )  # fmt: skip
            highest = torch.cat([top[None], tops]).cummax(0).values
            kept, factors = (highest[:-1] - highest[1:]).exp_(), (tops - highest[1:]).exp_()
            _mean_kernel[(blocks, triton.cdiv(D, TILE_D))](
                weights, rows, center, kept, factors, totals, total_squares, sums, total, sum_of_squares, N, M, first, D, panels,
                TILE_N=TILE_N, PANEL=PANEL, STEP=STEP, TILE_D=TILE_D, **OPTIONS,
            )  # fmt: skip
        top = highest[-1]
    return top, total, sum_of_squares, sums
