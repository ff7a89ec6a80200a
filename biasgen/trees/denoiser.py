"""The exact denoiser of a tree grammar: the optimum that any network can at best reach."""
import math
from typing import Any

import numpy as np

from biasgen.diffusion.denoisers import prediction_of
from biasgen.diffusion.process import as_double, per_row
from biasgen.diffusion.schedule import Level
from biasgen.trees.grammar import TreeGrammar

PAPER_FLOOR = 1e-16


class TreeDenoiser:
    """denoiser(x_t, level) -> E[x_0 | x_t]: (B, L, Q) float32 probabilities of the leaves given noised one-hot rows, by exact belief
    propagation in the field scale / sigma**2 * x_t. Never NaN: a noised row is evidence with full support. Arrays or tensors.

    Args:
        grammar: the law of the data.
        factorized: k of BP_k, 0..depth: the denoiser of grammar.factorized(k). 0: of the grammar as it is given.
        compat: "paper": what the authors' torch code computes. Each forbidden rule is allowed at weight 1e-16 (grammar.floored) and
            scale / sigma**2 is a float32 number; it has no density, and levels must be variance preserving. docs/paper_differences.md.

    Raises ValueError for another compat, k outside 0..depth, or, with "paper", a grammar of more than 2^24 possible rules.
    """

    def __init__(self, grammar: TreeGrammar, factorized: int = 0, compat: str | None = None) -> None:
        if compat not in (None, "paper"):
            raise ValueError(f"compat: want None or 'paper', got {compat!r}")
        if compat == "paper":
            grammar = grammar.floored(PAPER_FLOOR)
        self.grammar = grammar.factorized(factorized) if factorized else grammar
        self.compat = compat

    def __call__(self, x_t: Any, level: Level) -> Any:
        field = self.grammar.field(x_t, level if self.compat is None else _paper_level(level))
        return self.grammar.posterior(field).marginals

    def log_density(self, x_t: Any, level: Level) -> Any:
        """(B,) float64 log p(x_t), nats: of noised sequences, with respect to Lebesgue measure. Error 1e-5 + 1e-7 |log_z|, where log_z is
        the log-evidence of -|x_t - scale x_0|^2 / (2 sigma^2): about -L Q / 2 for rows of that level.
        """
        return self.posterior(x_t, level)[1]

    def posterior(self, x_t: Any, level: Level) -> tuple[Any, Any]:
        """(x0_hat, log_density) in one pass."""
        if self.compat is not None:
            raise ValueError(f"compat: {self.compat!r} has no density, only TreeDenoiser(grammar) does")
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


def _paper_level(level: Level) -> Level:
    """A level with the gamma of the authors' U-turns, in which alpha_bar = scale**2 is float32: 5000.16 for 4999.50 at t = 1 of 500."""
    alpha_bar = np.float32(np.square(level.scale))
    if (abs(np.square(level.scale) + np.square(level.sigma) - 1) > 1e-9).any() or (alpha_bar == 1).any():
        raise ValueError("level: compat='paper' wants scale**2 + sigma**2 = 1, and scale**2 below 1 in float32")
    gamma = np.sqrt(alpha_bar) / (np.float32(1) - alpha_bar)
    return Level(np.float64(gamma), 1.0, level.t)
