"""The denoiser that has memorized its training set: the optimum of the training loss, to which biased models lean."""
from collections.abc import Callable
from typing import Any

from biasgen.diffusion.denoisers import prediction_of
from biasgen.diffusion.process import as_double, model_space, plain_rows
from biasgen.diffusion.schedule import Level
from biasgen.ops._prepared import distance_of, prepare
from biasgen.ops.empirical_denoise import empirical_denoise, float_rows
from biasgen.results import Denoised


class EmpiricalDenoiser:
    """denoiser(x_t, level) -> E[x_0 | x_t] when x_0 is a training row drawn at random; arrays or tensors (B, ...), in the type of x_t.

    Args:
        train: (M, ...) rows: floats in the model's space, integer tokens (one-hot rows: x_t is (B, ..., Q) for any Q above the largest),
            or a TrainingSet; with `encode`, anything that it takes. Equal rows are kept once, with their multiplicity.
        encode: maps rows to the space in which noise is added; see biasgen.diffusion.process.model_space.

    Raises:
        As model_space; ValueError for NaN or infinite rows, and, when called, as biasgen.ops.empirical_denoise.empirical_denoise, which
        has the exactness too.

    Memory: the distinct rows, D + 40 bytes for each, tokens in one byte or two; a call needs 256 MiB more at most.
    """

    def __init__(self, train: Any, encode: Callable | None = None) -> None:
        rows, distance = plain_rows(train, "train"), getattr(train, "distance", None)
        if encode is not None or distance_of(rows, distance, "train") != "hamming":
            rows, distance = model_space(rows, encode, name="train"), "sqeuclidean"
            float_rows(rows, "train")
        self.prepared = prepare(rows, distance, name="train")

    def __call__(self, x_t: Any, level: Level) -> Any:
        return self.denoise(x_t, level).x0_hat

    def log_density(self, x_t: Any, level: Level) -> Any:
        """(B,) float64 log p(x_t), nats: of noised training rows, with respect to Lebesgue measure."""
        return self.denoise(x_t, level).log_density

    def effective_sample_size(self, x_t: Any, level: Level) -> Any:
        """(B,) float64: how many training rows x_t may have come from, one over the sum of their squared posterior probabilities."""
        return self.denoise(x_t, level).effective_sample_size

    def score(self, x_t: Any, level: Level) -> Any:
        """Gradient of log_density by x_t, in its shape, float64: (scale x0_hat - x_t) / sigma**2 (Tweedie)."""
        x_t = as_double(x_t)
        return prediction_of(self(x_t, level), x_t, level, "score")

    def posterior(self, x_t: Any, level: Level) -> tuple[Any, Any]:
        """(x0_hat, log_density) in one pass, as every denoiser with a density has it."""
        found = self.denoise(x_t, level)
        return found.x0_hat, found.log_density

    def denoise(self, x_t: Any, level: Level) -> Denoised:
        """Everything in one pass."""
        return empirical_denoise(x_t, self, level.scale, level.sigma)
