"""The exact denoiser of a tree grammar: the optimum that any network can at best reach."""
import torch

from biasgen.diffusion.schedule import Level
from biasgen.trees.grammar import TreeGrammar


class TreeDenoiser:
    """denoiser(x_t, level) -> E[x_0 | x_t]: (B, L, Q) float32 probabilities of the leaves given noised one-hot rows, by exact belief
    propagation in the field scale / sigma**2 * x_t. Never NaN: a noised row is evidence with full support.
    """

    def __init__(self, grammar: TreeGrammar) -> None:
        self.grammar = grammar

    def __call__(self, x_t: torch.Tensor, level: Level) -> torch.Tensor:
        return self.grammar.posterior(self.grammar.field(x_t, level)).marginals
