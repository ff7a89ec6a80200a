"""Networks that predict noise, velocity or score as denoisers, and back."""
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from biasgen.diffusion.process import per_row
from biasgen.diffusion.sampler import Denoiser
from biasgen.diffusion.schedule import Level

# Every prediction is a * x_t + b * x_0, with eps = (x_t - scale x_0) / sigma put in: (scale, sigma) -> (a, b).
_COEFFICIENTS: dict[str, Callable] = {
    "x0": lambda scale, sigma: (0.0 * sigma, 1.0 + 0.0 * sigma),
    "eps": lambda scale, sigma: (1 / sigma, -scale / sigma),
    "v": lambda scale, sigma: (scale / sigma, -(scale**2 + sigma**2) / sigma),
    "score": lambda scale, sigma: (-1 / sigma**2, scale / sigma**2),
    "flow": lambda scale, sigma: (1 / sigma, -(scale + sigma) / sigma),
}


def as_denoiser(predict: Callable[[torch.Tensor, Level], torch.Tensor], prediction: str) -> Denoiser:
    """The denoiser (x_t, level) -> x0_hat of a network predict(x_t, level) -> prediction, both (B, ...).

    Args:
        predict: called with what the denoiser is called with, in the caller's autocast mode; level.t is the step (diffusers counts from
            0: level.t - 1).
        prediction: "x0"; "eps", the noise (Ho et al. 2020); "v" = scale eps - sigma x_0 (Salimans & Ho 2022); "score" = -eps / sigma;
            "flow" = eps - x_0, the velocity of x_t = (1 - t) x_0 + t eps (Lipman et al. 2023).

    Returns:
        x0_hat in the type of x_t, computed in float64; no gradient is recorded.

    Raises:
        ValueError: unknown prediction; when called, at scale 0, where "eps" and "score" say nothing of x_0, or a prediction of another
        shape than x_t. TypeError: when called, a prediction that is no tensor.
    """
    _check(prediction)

    @torch.no_grad()
    def denoiser(x_t: torch.Tensor, level: Level) -> torch.Tensor:
        of_x_t, of_x0 = _COEFFICIENTS[prediction](level.scale, level.sigma)
        if np.any(of_x0 == 0):
            raise ValueError(
                f"level: at scale 0 (t = {level.t}) a model of {prediction!r} says nothing of x_0; start at a lower step, or predict 'v'"
            )
        predicted = predict(x_t, level)
        if not isinstance(predicted, torch.Tensor):
            raise TypeError(f"predict: want a function that returns a tensor, got {type(predicted).__name__}")
        if predicted.shape != x_t.shape:
            raise ValueError(f"predict: want a prediction of shape {tuple(x_t.shape)} as x_t, got {tuple(predicted.shape)}")
        x = x_t.double()
        return ((predicted.double() - per_row(of_x_t, x) * x) / per_row(of_x0, x)).to(x_t.dtype)

    return denoiser


def prediction_of(x0_hat: Any, x_t: Any, level: Level, prediction: str) -> Any:
    """What a network of that kind would predict where the denoiser says x0_hat: the inverse of `as_denoiser`.

    x0_hat, x_t (B, ...) arrays or tensors, which also set the precision. At low noise all but "x0" divide a small difference by sigma.
    """
    _check(prediction)
    of_x_t, of_x0 = _COEFFICIENTS[prediction](level.scale, level.sigma)
    return per_row(of_x_t, x_t) * x_t + per_row(of_x0, x_t) * x0_hat


def _check(prediction: str) -> None:
    if prediction not in _COEFFICIENTS:
        raise ValueError(f"prediction: want one of {', '.join(map(repr, _COEFFICIENTS))}, got {prediction!r}")
