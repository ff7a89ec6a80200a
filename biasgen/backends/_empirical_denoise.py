"""The empirical denoiser in plain torch: blocks of queries against blocks of rows, sums of exponentials carried along, float64."""
import math

import torch

_QUERIES = 512  # of a block: enough for a product of matrices to run at full speed


def empirical_denoise(x_t, rows, scale, sigma, log_p, max_memory):
    """x0_hat (B, D), log p(x_t), effective sample size and zeros (B,), float64.

    x_t (B, D), rows (M, D) float32 or float64, or tokens (M, L) uint8 or the int16 of uint16, made one-hot block by block; scale, sigma
    (B,), log_p (M,) float64."""
    B, D = x_t.shape
    queries = max(1, min(_QUERIES, max_memory // (64 * D)))  # up to four copies of them take half of the memory
    block = max(1, max_memory // (16 * (4 * queries + 2 * D)))
    x0_hat = torch.empty((B, D), dtype=torch.float64, device=x_t.device)
    log_density, effective, dropped = (torch.zeros(B, dtype=torch.float64, device=x_t.device) for _ in range(3))
    for start in range(0, B, queries):
        at = slice(start, start + queries)
        x0_hat[at], log_density[at], effective[at] = _block(x_t[at].double(), rows, scale[at, None], sigma[at, None], log_p, block)
    return x0_hat, log_density, effective, dropped


def _block(x, rows, scale, sigma, log_p, size):
    """The same for queries that are worked on together; scale, sigma (b, 1)."""
    top = torch.full_like(sigma, -math.inf)
    total, squares, sums = torch.zeros_like(sigma), torch.zeros_like(sigma), torch.zeros_like(x)
    for start in range(0, len(rows), size):
        y = _points(rows[start : start + size], x.shape[1])
        logits = log_p[start : start + size] - _half_squares(x, y, scale, sigma)
        higher = torch.maximum(top, logits.amax(1, keepdim=True))
        kept, weights = (top - higher).exp(), (logits - higher).exp()
        total = total * kept + weights.sum(1, keepdim=True)
        squares = squares * kept.square() + weights.square().sum(1, keepdim=True)
        sums = sums * kept + weights @ y
        top = higher
    log_density = top + total.log() - x.shape[1] * (sigma.log() + math.log(2 * math.pi) / 2)
    return sums / total, log_density[:, 0], (total.square() / squares)[:, 0]


def _points(rows, D):
    """(m, D) float64."""
    if rows.is_floating_point():
        return rows.double()
    symbols = rows.long() & 0xFFFF
    return torch.nn.functional.one_hot(symbols, D // rows.shape[1]).flatten(1).double()


def _half_squares(x, y, scale, sigma):
    """|x - scale y|^2 / (2 sigma^2), (b, m). By a product of matrices where its rounding is proven harmless, else by differences."""
    D = x.shape[1]
    x_x, y_y = x.square().sum(1, keepdim=True), y.square().sum(1)
    # Rounding of the three sums together, for any order of summation (Higham, Accuracy and Stability, section 3.1).
    bound = (D + 4) * 2.0**-53 * (x_x + scale.square() * y_y.max()) / sigma.square()
    if bound.max() <= min(1e-10 * D, 1e-6):
        return (x_x + scale.square() * y_y - 2 * (scale * (x @ y.T))) / (2 * sigma.square())
    squares = torch.empty((len(x), len(y)), dtype=torch.float64, device=x.device)
    for s in scale.unique():
        own = scale[:, 0] == s
        squares[own] = torch.cdist(x[own], s * y, compute_mode="donot_use_mm_for_euclid_dist").square()
    return squares / (2 * sigma.square())
