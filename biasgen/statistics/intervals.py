"""Intervals and exact tails that need no permutation."""
import math

import numpy as np

Z95 = 1.959963984540054     # standard normal quantile at .975


def wilson(count: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of `count` out of n independent rows (Wilson 1927); not empty at 0 or n."""
    share = count / n
    center = share + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def binomial_log_pmf(n: int, p: float) -> np.ndarray:
    """(n + 1,) logarithms of P(count = 0 .. n) for n draws at probability 0 < p < 1."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    counts = np.arange(n + 1)
    return log_factorial[n] - log_factorial - log_factorial[::-1] + counts * math.log(p) + (n - counts) * math.log1p(-p)


def reflected(value: float, resampled: np.ndarray) -> tuple[float, float]:
    """95 % interval of `value` from resampled values: their deviations from their own mean, reflected about `value`.

    The resampled values of a divergence lie above `value` (resampling adds noise to noise); only their spread is used, not their place.
    """
    low, high = np.quantile(resampled - resampled.mean(), [0.025, 0.975])
    return float(value - high), float(value - low)
