"""The empirical denoiser by the book: one query after the other, direct differences, float64; those in long double, since
s * y of rows far from the origin would lose what decides."""
import numpy as np


def empirical_denoise(x_t, rows, scale, sigma, log_weights=None):
    """x0_hat (B, ...) and log p(x_t) (B,), float64; scale and sigma scalar or (B,), log_weights (M,), unnormalized."""
    B, M = len(x_t), len(rows)
    y = np.asarray(rows, np.float64).reshape(M, -1)
    far = y.astype(np.longdouble)
    log_w = np.zeros(M) if log_weights is None else np.asarray(log_weights, np.float64)
    log_w = log_w - log_sum_exp(log_w)
    x0_hat, log_density = np.empty((B, y.shape[1])), np.empty(B)
    for b, x in enumerate(np.asarray(x_t, np.float64).reshape(B, -1)):
        s, sd = np.broadcast_to(scale, B)[b], np.broadcast_to(sigma, B)[b]
        logits = log_w - ((x - s * far) ** 2).sum(1).astype(np.float64) / (2 * sd**2)
        weights = np.exp(logits - logits.max())
        x0_hat[b] = weights @ y / weights.sum()
        log_density[b] = log_sum_exp(logits) - y.shape[1] / 2 * np.log(2 * np.pi * sd**2)
    return x0_hat.reshape(np.shape(x_t)), log_density


def log_sum_exp(logits):
    """log of the sum of exponentials."""
    return logits.max() + np.log(np.exp(logits - logits.max()).sum())
