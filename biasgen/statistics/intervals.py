"""Intervals and exact tails that need no permutation."""
import math

import numpy as np

Z95 = 1.959963984540054     # standard normal quantile at .975


def wilson(count: float, n: float) -> tuple[float, float]:
    """95 % interval of a share of `count` out of n independent rows (Wilson 1927); not empty at 0 or n."""
    share = count / n
    center = share + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def share_interval(value: float, spread: float, permuted: np.ndarray) -> tuple[float, float]:
    """95 % interval of a share of dependent rows whose standard deviation is `spread`, within [0, 1].

    At 0 and 1 the spread vanishes although few rows may be behind the value; then it is Wilson's for as many independent rows as have the
    spread of the `permuted` values under the null.
    """
    if spread > 0 and 0 < value < 1:
        return max(0.0, value - Z95 * spread), min(1.0, value + Z95 * spread)
    mean, variance = float(permuted.mean()), float(permuted.var())
    if variance == 0:
        return 0.0, 1.0
    rows = mean * (1 - mean) / variance
    return wilson(value * rows, rows)


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


def student_upper_tail(t: float, degrees: float) -> float:
    """P(T > t) for Student's t with `degrees` > 0 degrees of freedom, to 1e-10 relative up to 10^6 degrees.

    Half the incomplete beta function I_x(degrees / 2, 1 / 2) at x = degrees / (degrees + t^2), by its continued fraction (DLMF 8.17.22).
    Raises ValueError for other degrees or a t that is not a number.
    """
    if math.isnan(t):
        raise ValueError(f"t: want a number, got {t!r}")
    if not 0 < degrees < math.inf:
        raise ValueError(f"degrees: want a number > 0, got {degrees!r}")
    if t < 0:
        return 1 - student_upper_tail(-t, degrees)
    if math.isinf(t):
        return 0.0
    a, x, y = degrees / 2, degrees / (degrees + t * t), t * t / (degrees + t * t)
    log_beta = math.lgamma(0.5) - _log_gamma_half_step(a)
    front = math.exp(a * -math.log1p(t * t / degrees) + (0.5 * math.log(y) if y else -math.inf) - log_beta)
    if x < (a + 1) / (a + 2.5):     # the fraction converges in about sqrt(a) terms on this side, its mirror on the other
        return front * _beta_fraction(x, a, 0.5) / (2 * a)
    return 0.5 - front * _beta_fraction(y, 0.5, a)


def _log_gamma_half_step(a: float) -> float:
    """log(Gamma(a + 1/2) / Gamma(a)); the difference of two large logarithms would lose digits, the series does not."""
    if a < 100:
        return math.lgamma(a + 0.5) - math.lgamma(a)
    return 0.5 * math.log(a) - 1 / (8 * a) + 1 / (192 * a**3) - 1 / (640 * a**5)


def _beta_fraction(x: float, a: float, b: float) -> float:
    """The continued fraction 1 / (1 + d1 / (1 + d2 / (1 + ...))) of the incomplete beta function, by the method of Lentz."""
    value, c, d = 1.0, 1.0, 0.0
    for k in range(1, 100_000):
        m, odd = divmod(k, 2)
        term = (-(a + m) * (a + b + m) if odd else m * (b - m)) * x / ((a + k - 1) * (a + k))
        d = 1 / (1 + term * d)
        c = 1 + term / c
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return 1 / value
