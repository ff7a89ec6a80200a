"""Noise levels: x_t = scale * x_0 + sigma * eps, and the schedules that name them by a step t."""
from dataclasses import dataclass
from typing import Any

import numpy as np

from biasgen._numbers import is_whole
from biasgen.ops._rows import as_tensor


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
        return self.scale / (self.sigma * self.sigma)


class Schedule:
    """Levels of the steps t = 1..T, from scale (T,) and sigma (T,); t = 0 is clean data: scale 1, sigma 0.

    ValueError unless both are positive and finite (the last scale may be 0) and sigma / scale increases strictly with t: each level must
    be the one before it with noise added.
    """

    def __init__(self, scale: np.ndarray, sigma: np.ndarray) -> None:
        scale, sigma = np.asarray(scale, np.float64), np.asarray(sigma, np.float64)
        if scale.ndim != 1 or not len(scale) or scale.shape != sigma.shape:
            raise ValueError(f"scale, sigma: want (T,) each with T > 0, got shapes {scale.shape} and {sigma.shape}")
        if not (np.isfinite(scale) & np.isfinite(sigma) & (sigma > 0) & (scale >= 0)).all() or not (scale[:-1] > 0).all():
            raise ValueError("scale, sigma: want finite values above 0, only the last scale may be 0")
        self._scale, self._sigma = np.concatenate([[1.0], scale]), np.concatenate([[0.0], sigma])
        self.T = len(scale)
        flat = ~(self._added_variance(np.arange(1, self.T + 1), np.arange(self.T)) > 0)
        if flat.any():
            t = int(flat.argmax()) + 1
            raise ValueError(
                f"scale, sigma: want sigma / scale to increase strictly with t, got {self._sigma[t - 1]:g} / {self._scale[t - 1]:g} "
                f"at t = {t - 1} and {self._sigma[t]:g} / {self._scale[t]:g} at t = {t}"
            )

    @classmethod
    def vp(cls, alpha_bar: np.ndarray) -> "Schedule":
        """Variance preserving: scale**2 = alpha_bar, sigma**2 = 1 - alpha_bar; (T,) strictly decreasing in (0, 1), the last may be 0."""
        alpha_bar = np.asarray(alpha_bar, np.float64)
        if alpha_bar.ndim != 1 or not len(alpha_bar):
            raise ValueError(f"alpha_bar: want (T,) with T > 0, got shape {alpha_bar.shape}")
        if not (np.diff(np.concatenate([[1.0], alpha_bar])) < 0).all() or alpha_bar[-1] < 0:
            raise ValueError("alpha_bar: want values that decrease strictly from below 1 and stay above 0, the last may be 0")
        return cls(np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar))

    @classmethod
    def linear(cls, T: int = 500) -> "Schedule":
        """The paper's: beta from 1e-4 to 0.02, both times 1000 / T, in T equal steps (Ho et al. 2020, rescaled)."""
        if T < 21:   # the last beta, 20 / T, must stay below 1
            raise ValueError(f"T: the linear schedule wants at least 21 steps, got {T}")
        beta = np.linspace(1e-4 * 1000 / T, 0.02 * 1000 / T, T)
        return cls.vp(np.cumprod(1.0 - beta))

    @classmethod
    def flow(cls, T: int = 1000) -> "Schedule":
        """Straight lines from data to noise: scale = 1 - t / T, sigma = t / T (Lipman et al. 2023). At t = T the scale is 0."""
        if not is_whole(T, 1):
            raise ValueError(f"T: want at least 1 step, got {T}")
        t = np.arange(1, T + 1)
        return cls((T - t) / T, t / T)

    @classmethod
    def edm(cls, T: int = 1000, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> "Schedule":
        """Scale 1; sigma from sigma_min at t = 1 to sigma_max at t = T, equal steps of sigma**(1 / rho) (Karras et al. 2022, eq. 5)."""
        if T < 2:
            raise ValueError(f"T: want at least 2 steps, got {T}")
        if not 0 < sigma_min < sigma_max < np.inf:
            raise ValueError(f"sigma_min, sigma_max: want 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        if not 0 < rho < np.inf:
            raise ValueError(f"rho: want a number above 0, got {rho}")
        return cls(np.ones(T), np.linspace(sigma_min ** (1 / rho), sigma_max ** (1 / rho), T) ** rho)

    @classmethod
    def from_diffusers(cls, scheduler: Any) -> "Schedule":
        """`vp` of the alphas_cumprod of a scheduler of diffusers. t counts from 1: their timestep is t - 1. TypeError without them."""
        if not hasattr(scheduler, "alphas_cumprod"):
            raise TypeError(
                f"scheduler: want one with alphas_cumprod, got {type(scheduler).__name__}; Schedule.flow and Schedule.edm are built from "
                "their own settings"
            )
        return cls.vp(as_tensor(scheduler.alphas_cumprod).double().cpu().numpy())

    def at(self, t: int | np.ndarray) -> Level:
        """The level of step t, an integer or (B,) integers in 1..T; ValueError outside."""
        steps = np.asarray(t)
        if not np.issubdtype(steps.dtype, np.integer):
            raise ValueError(f"t: want integers, got {steps.dtype}")
        if steps.size and (steps.min() < 1 or steps.max() > self.T):
            raise ValueError(f"t: want 1..{self.T}, got {steps.min()}..{steps.max()}")
        scale, sigma = self._scale[steps], self._sigma[steps]
        return Level(float(scale), float(sigma), int(steps)) if steps.ndim == 0 else Level(scale, sigma, steps)

    def posterior(self, t: int, s: int) -> tuple[float, float, float]:
        """(c0, ct, std) of x_s given x_t and x_0, 0 <= s < t <= T: x_s = c0 * x_0 + ct * x_t + std * z. At s = 0 exactly (1, 0, 0)."""
        if not 0 <= s < t <= self.T:
            raise ValueError(f"t, s: want 0 <= s < t <= {self.T}, got t = {t}, s = {s}")
        added, total, kept = self._added_variance(t, s), self._sigma[t] ** 2, self._sigma[s] ** 2
        c0 = self._scale[s] * added / total
        ct = self._scale[t] / self._scale[s] * kept / total
        return float(c0), float(ct), float(np.sqrt(kept * added / total))

    def _added_variance(self, t: int | np.ndarray, s: int | np.ndarray) -> float | np.ndarray:
        """Variance of x_t given x_s, for s < t."""
        return self._sigma[t] ** 2 - (self._scale[t] / self._scale[s] * self._sigma[s]) ** 2
