"""The exact denoiser of a tree grammar: the optimum that any network can at best reach."""
import math
from typing import Any

import numpy as np

from biasgen.diffusion.denoisers import prediction_of
from biasgen.diffusion.process import as_double, per_row
from biasgen.diffusion.schedule import Level
from biasgen.trees.grammar import TreeGrammar


class TreeDenoiser:
    """denoiser(x_t, level) -> E[x_0 | x_t]: (B, L, Q) float32 probabilities of the leaves given noised one-hot rows, by exact belief
    propagation in the field scale / sigma**2 * x_t. Never NaN: a noised row is evidence with full support. Arrays or tensors.
    """

    def __init__(self, grammar: TreeGrammar) -> None:
        self.grammar = grammar

    def __call__(self, x_t: Any, level: Level) -> Any:
        return self.grammar.posterior(self.grammar.field(x_t, level)).marginals

    def log_density(self, x_t: Any, level: Level) -> Any:
        """(B,) float64 log p(x_t), nats: of noised sequences, with respect to Lebesgue measure. Error 1e-5 + 1e-7 |log_z|, where log_z is
        the log-evidence of -|x_t - scale x_0|^2 / (2 sigma^2): about -L Q / 2 for rows of that level.
        """
        return self.posterior(x_t, level)[1]

    def posterior(self, x_t: Any, level: Level) -> tuple[Any, Any]:
        """(x0_hat, log_density) in one pass."""
        field = self.grammar.field(x_t, level)
        x = as_double(x_t)
        scale, sigma = per_row(level.scale, x), per_row(level.sigma, x)
        # The rest of the square goes into the field, leaf by leaf: log_z is promised to a share of its size, which then stays small.
        found = self.grammar.posterior(field - ((x * x).sum(-1)[..., None] + scale**2) / (2 * sigma * sigma))
        log_sigma = math.log(sigma) if isinstance(sigma, float) else per_row(np.log(level.sigma), found.log_z)
        return found.marginals, found.log_z - self.grammar.length * self.grammar.q * (log_sigma + math.log(2 * math.pi) / 2)

    def score(self, x_t: Any, level: Level) -> Any:
        """Gradient of log_density by x_t, (B, L, Q) float64: (scale x0_hat - x_t) / sigma**2 (Tweedie). x0_hat carries a relative 1e-5."""
        return prediction_of(self(x_t, level), as_double(x_t), level, "score")
