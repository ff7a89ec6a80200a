"""Noise levels: x_t = scale * x_0 + sigma * eps, and the schedules that name them by a step t."""
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Level:
    """One noise level, or one a row. scale, sigma: float64, scalar or (B,); t: the schedule's step, for networks that read it.

    gamma = scale / sigma**2 turns x_t into the log-field of one-hot data.
    """

    scale: float | np.ndarray
    sigma: float | np.ndarray
    t: int | np.ndarray | None = None

    @property
    def gamma(self) -> float | np.ndarray:
        """Intensity of the field, float64."""
        return self.scale / np.square(self.sigma)


class Schedule:
    """A variance-preserving schedule over t = 1..T, from alpha_bar (T,) float64, strictly decreasing in (0, 1); t = 0 is clean data."""

    def __init__(self, alpha_bar: np.ndarray) -> None:
        alpha_bar = np.asarray(alpha_bar, np.float64)
        if alpha_bar.ndim != 1 or not len(alpha_bar):
            raise ValueError(f"alpha_bar: want (T,) with T > 0, got shape {alpha_bar.shape}")
        if not (alpha_bar > 0).all() or not (np.diff(np.concatenate([[1.0], alpha_bar])) < 0).all():
            raise ValueError("alpha_bar: want values that decrease strictly from below 1 and stay above 0")
        self._alpha_bar = np.concatenate([[1.0], alpha_bar])
        self.T = len(alpha_bar)

    @classmethod
    def linear(cls, T: int = 500) -> "Schedule":
        """The paper's: beta from 1e-4 to 0.02, both times 1000 / T, in T equal steps (Ho et al. 2020, rescaled)."""
        if T < 21:   # the last beta, 20 / T, must stay below 1
            raise ValueError(f"T: the linear schedule wants at least 21 steps, got {T}")
        beta = np.linspace(1e-4 * 1000 / T, 0.02 * 1000 / T, T)
        return cls(np.cumprod(1.0 - beta))

    def at(self, t: int | np.ndarray) -> Level:
        """The level of step t, an integer or (B,) integers in 1..T; ValueError outside."""
        steps = np.asarray(t)
        if not np.issubdtype(steps.dtype, np.integer):
            raise ValueError(f"t: want integers, got {steps.dtype}")
        if steps.size and (steps.min() < 1 or steps.max() > self.T):
            raise ValueError(f"t: want 1..{self.T}, got {steps.min()}..{steps.max()}")
        alpha_bar = self._alpha_bar[steps]
        scale, sigma = np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar)
        return Level(float(scale), float(sigma), int(steps)) if steps.ndim == 0 else Level(scale, sigma, steps)

    def posterior(self, t: int, s: int) -> tuple[float, float, float]:
        """(c0, ct, std) of x_s given x_t and x_0, 0 <= s < t <= T: x_s = c0 * x_0 + ct * x_t + std * z. At s = 0 exactly (1, 0, 0)."""
        if not 0 <= s < t <= self.T:
            raise ValueError(f"t, s: want 0 <= s < t <= {self.T}, got t = {t}, s = {s}")
        if s == 0:
            return 1.0, 0.0, 0.0
        at, as_ = self._alpha_bar[t], self._alpha_bar[s]
        alpha = at / as_
        c0 = np.sqrt(as_) * (1 - alpha) / (1 - at)
        ct = np.sqrt(alpha) * (1 - as_) / (1 - at)
        return float(c0), float(ct), float(np.sqrt((1 - alpha) * (1 - as_) / (1 - at)))
