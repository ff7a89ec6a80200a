"""Denoisers with a known dose of the training set: the exact one of a mixed law, and the mean of two denoisers."""
from typing import Any

import torch

from biasgen._numbers import is_number
from biasgen.diffusion import Level


class MixtureDenoiser:
    """The MMSE denoiser of the law (1 - dose) P + dose P_train: a dose of memorization that goes through the whole sampler.

    x0_hat = w E_train[x_0 | x_t] + (1 - w) E_P[x_0 | x_t], where w(x_t) = dose p_train,t / (dose p_train,t + (1 - dose) p_t) is the
    posterior probability that x_t came from a training row. The dose of the samples is that of the law as far as the sampler's steps are
    small: on the paper's grammar four fifths of it arrive with 50 uniform steps, .95 and more with 500 (docs/studies/dose.md).

    Args:
        exact: denoiser of P, empirical: denoiser of P_train; both with
            .posterior(x_t (B, ...), level) -> (x0_hat (B, ...), (B,) natural logarithms of densities in the same space): TreeDenoiser,
            EmpiricalDenoiser.
        dose: in [0, 1].

    Raises TypeError for a denoiser without posterior, ValueError for another dose. Source: biasgen, docs/statistics.md.
    """

    def __init__(self, exact: Any, empirical: Any, dose: float) -> None:
        for name, denoiser in (("exact", exact), ("empirical", empirical)):
            if not hasattr(denoiser, "posterior"):
                raise TypeError(f"{name}: want a denoiser with posterior(x_t, level), got {type(denoiser).__name__}")
        self.exact, self.empirical, self.dose = exact, empirical, _share(dose, "dose")

    def __call__(self, x_t: torch.Tensor, level: Level) -> torch.Tensor:
        """x0_hat, shape and element type of x_t."""
        (exact, log_exact), (empirical, log_empirical) = self._joint(x_t, level)
        return _mean(exact, empirical, torch.sigmoid(log_empirical - log_exact), x_t)

    def log_density(self, x_t: torch.Tensor, level: Level) -> torch.Tensor:
        """(B,) float64, log of the mixture's density at x_t, nats."""
        return torch.logaddexp(*(log_joint for _, log_joint in self._joint(x_t, level)))

    def _joint(self, x_t: torch.Tensor, level: Level) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(x0_hat, log((1 - dose) p_t)) of the exact denoiser, (x0_hat, log(dose p_train,t)) of the empirical one; logarithms float64."""
        shares = torch.tensor([1 - self.dose, self.dose], dtype=torch.float64, device=x_t.device).log()
        found = [denoiser.posterior(x_t, level) for denoiser in (self.exact, self.empirical)]
        return [(x0_hat, share + log_density.double()) for share, (x0_hat, log_density) in zip(shares, found, strict=True)]


class ConstantMixture:
    """x0_hat = coefficient * empirical + (1 - coefficient) * exact at every x_t: the control for denoiser-level numbers.

    Its alignment is `coefficient` by construction (where the exact denoiser's is 0). The coefficient is not a dose of samples: over the
    steps of a sampler a small pull to the training set vanishes and a large one wins (on the paper's grammar .25 gives 1.9 % copies, .51
    gives 100 %). For a dose of samples take MixtureDenoiser.

    Args:
        exact, empirical: (x_t (B, ...), level) -> x0_hat (B, ...).
        coefficient: in [0, 1].

    Raises ValueError for another coefficient. Source: biasgen, docs/statistics.md.
    """

    def __init__(self, exact: Any, empirical: Any, coefficient: float) -> None:
        self.exact, self.empirical, self.coefficient = exact, empirical, _share(coefficient, "coefficient")

    def __call__(self, x_t: torch.Tensor, level: Level) -> torch.Tensor:
        """x0_hat, shape and element type of x_t."""
        weight = torch.full((len(x_t),), self.coefficient, dtype=torch.float64, device=x_t.device)
        return _mean(self.exact(x_t, level), self.empirical(x_t, level), weight, x_t)


def _share(value: float, name: str) -> float:
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name}: want a share in [0, 1], got {value!r}")
    return float(value)


def _mean(exact: torch.Tensor, empirical: torch.Tensor, weight: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
    """weight * empirical + (1 - weight) * exact in float64, one weight (B,) a row; as x_t. Weights 0 and 1 return one of them exactly."""
    weight = weight.reshape(-1, *[1] * (x_t.ndim - 1))
    return (weight * empirical.double() + (1 - weight) * exact.double()).to(x_t.dtype)
