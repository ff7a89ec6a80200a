"""The denoiser that has memorized its training set: the optimum of the training loss, to which biased models lean."""
from collections.abc import Callable
from typing import Any

import torch

from biasgen.diffusion.denoisers import prediction_of
from biasgen.diffusion.process import as_double, model_space
from biasgen.diffusion.schedule import Level
from biasgen.ops.empirical_denoise import empirical_denoise, float_rows


class EmpiricalDenoiser:
    """denoiser(x_t, level) -> E[x_0 | x_t] when x_0 is a training row drawn at random; arrays or tensors (B, ...), in the type of x_t.

    Args:
        train: (M, ...) rows: floats in the model's space, integer tokens (made one-hot), or a TrainingSet; with `encode`, anything that
            it takes. Equal rows are kept once, with their multiplicity.
        encode: maps rows to the space in which noise is added; see biasgen.diffusion.process.model_space.

    Raises:
        As model_space; ValueError for NaN or infinite rows, and, when called, as biasgen.ops.empirical_denoise.empirical_denoise, which
        has the exactness too.

    Memory: the distinct rows; a call needs 256 MiB more at most.
    """

    def __init__(self, train: Any, encode: Callable | None = None) -> None:
        rows = model_space(train, encode, name="train")
        flat, multiplicity = torch.unique(float_rows(rows, "train"), dim=0, return_counts=True)
        self._rows = flat.reshape(-1, *rows.shape[1:])
        self._log_weights = multiplicity.double().log()

    def __call__(self, x_t: Any, level: Level) -> Any:
        return self.posterior(x_t, level)[0]

    def log_density(self, x_t: Any, level: Level) -> Any:
        """(B,) float64 log p(x_t), nats: of noised training rows, with respect to Lebesgue measure."""
        return self.posterior(x_t, level)[1]

    def score(self, x_t: Any, level: Level) -> Any:
        """Gradient of log_density by x_t, in its shape, float64: (scale x0_hat - x_t) / sigma**2 (Tweedie)."""
        x_t = as_double(x_t)
        return prediction_of(self(x_t, level), x_t, level, "score")

    def posterior(self, x_t: Any, level: Level) -> tuple[Any, Any]:
        """(x0_hat, log_density) in one pass."""
        return empirical_denoise(x_t, self._rows, level.scale, level.sigma, log_weights=self._log_weights)
