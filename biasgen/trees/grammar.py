"""Probabilistic grammars on complete binary trees (Garnier-Brun et al., arXiv 2603.03469, section 3): rules, sampling, likelihood."""
from dataclasses import dataclass

import numpy as np
import torch

from biasgen.diffusion.process import as_double, per_row
from biasgen.diffusion.schedule import Level
from biasgen.ops import philox
from biasgen.ops.tree_posterior import tree_posterior
from biasgen.ops.tree_posterior_sample import tree_posterior_sample
from biasgen.results import TreePosterior


@dataclass(frozen=True, eq=False)
class TreeGrammar:
    """Symbols 0..q-1 on a complete binary tree; each node draws its pair of children given its own symbol, the root is uniform.

    q: alphabet size, the same at every level. depth: levels below the root, so sequences have L = 2**depth leaves.
    rules (R, 3) int16: (parent, left child, right child). weights (R,) float64: probability of the pair given the parent.
    """

    q: int
    depth: int
    rules: np.ndarray
    weights: np.ndarray

    @classmethod
    def random(cls, q: int = 6, depth: int = 4, q_eff: int = 4, sigma: float = 1.0, seed: int = 0) -> "TreeGrammar":
        """The paper's grammar: all q*q pairs are shuffled and dealt to the parents, q each; the first q_eff of a parent are allowed, with
        softmax weights of N(0, sigma) logits; so every pair has at most one parent. Equal to the authors' for the same arguments.
        """
        if not 1 <= q_eff <= q:
            raise ValueError(f"q_eff: want 1..q = {q}, got {q_eff}")
        if not 1 <= depth <= 10:
            raise ValueError(f"depth: want 1..10, got {depth}")
        if not 2 <= q <= 64:
            raise ValueError(f"q: want 2..64, got {q}")
        if not sigma >= 0:
            raise ValueError(f"sigma: want a standard deviation >= 0, got {sigma}")
        stream = np.random.RandomState(seed)   # the legacy stream: this is what makes the grammar the authors'
        pairs = np.array([(a, b) for a in range(q) for b in range(q)])
        stream.shuffle(pairs)
        allowed = pairs.reshape(q, q, 2)[:, :q_eff]
        logits = sigma * np.array([stream.randn() for _ in range(q * q_eff)]).reshape(q, q_eff)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        parents = np.repeat(np.arange(q), q_eff)[:, None]
        rules = np.concatenate([parents, allowed.reshape(-1, 2)], 1).astype(np.int16)
        return cls(q, depth, rules, weights.reshape(-1))

    @property
    def length(self) -> int:
        """L, the number of leaves."""
        return 2**self.depth

    @property
    def transitions(self) -> np.ndarray:
        """(q, q, q) float64: probability of (left, right) given the parent, indexed [parent, left, right]."""
        table = np.zeros((self.q,) * 3)
        table[tuple(self.rules.T)] = self.weights
        return table

    def sample(self, n: int, *, seed: int = 0, offset: int = 0) -> np.ndarray:
        """(n, L) int8 sequences: rows offset..offset+n of the list that `seed` fixes, so that disjoint ranges are independent data.

        Number 0 of a sample draws the root, number 1 + i node i of the tree in level order, both by inverse distribution function.
        """
        if n < 0:
            raise ValueError(f"n: want a number of samples >= 0, got {n}")
        u = philox.uniforms(seed, n=n, count=self.length, offset=offset, purpose=philox.DATA)
        nodes = np.minimum((u[:, :1] * self.q).astype(np.int64), self.q - 1)
        first = np.searchsorted(self.rules[:, 0], np.arange(self.q))
        count = np.searchsorted(self.rules[:, 0], np.arange(self.q), side="right") - first
        padded = np.full((self.q, count.max()), np.inf)   # cumulative weights; inf closes the last rule against rounding
        for p in range(self.q):
            padded[p, : count[p] - 1] = np.cumsum(self.weights[first[p] : first[p] + count[p]])[:-1]
        for level in range(self.depth):
            draws = u[:, 2**level : 2 ** (level + 1)]
            rule = first[nodes] + (draws[..., None] > padded[nodes]).sum(-1)
            nodes = self.rules[rule, 1:].reshape(n, -1)
        return nodes.astype(np.int8)

    def log_prob(self, tokens: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """(n,) natural logarithm of the probability of (n, L) tokens, nats; -inf where the grammar forbids. Error 1e-5 + 1e-7 |log P|."""
        return self.posterior(self._evidence(tokens)).log_z

    def is_grammatical(self, tokens: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """(n,) bool: does the grammar generate the sequence at all?"""
        return ~self.posterior(self._evidence(tokens)).impossible

    def field(self, x_t: np.ndarray | torch.Tensor, level: Level) -> np.ndarray | torch.Tensor:
        """Log-field of noised one-hot rows: scale / sigma**2 * x_t, (B, L, Q) float64; evaluated here, in double, and nowhere else."""
        if x_t.ndim != 3 or tuple(x_t.shape[1:]) != (self.length, self.q):
            raise ValueError(f"x_t: want (B, {self.length}, {self.q}), got {tuple(x_t.shape)}")
        x = as_double(x_t)
        return x * per_row(level.gamma, x)

    def posterior(self, log_field: np.ndarray | torch.Tensor) -> TreePosterior:
        """Exact leaf marginals and log-evidence of (B, L, Q) or (L, Q) log-fields: ops.tree_posterior with this grammar's rules."""
        self._check_field(log_field)
        return tree_posterior(log_field, self.rules, self.weights)

    def posterior_sample(self, log_field: np.ndarray | torch.Tensor, n: int, *, seed: int = 0) -> np.ndarray | torch.Tensor:
        """(B, n, L) or (n, L) int8 strings from the posterior: ops.tree_posterior_sample with this grammar's rules."""
        self._check_field(log_field)
        return tree_posterior_sample(log_field, self.rules, self.weights, n, seed=seed)

    def _check_field(self, log_field: np.ndarray | torch.Tensor) -> None:
        if log_field.ndim not in (2, 3) or tuple(log_field.shape[-2:]) != (self.length, self.q):
            raise ValueError(f"log_field: want (B, {self.length}, {self.q}) or ({self.length}, {self.q}), got {tuple(log_field.shape)}")

    def _evidence(self, tokens: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """One-hot evidence: 0 at the token, -inf elsewhere."""
        index = torch.as_tensor(tokens)
        if index.ndim != 2 or index.shape[1] != self.length:
            raise ValueError(f"tokens: want (n, {self.length}), got {tuple(index.shape)}")
        if index.dtype.is_floating_point or index.dtype == torch.bool:
            raise ValueError(f"tokens: want integers, got {index.dtype}")
        if index.numel() and (int(index.min()) < 0 or int(index.max()) >= self.q):
            raise ValueError(f"tokens: want symbols 0..{self.q - 1}, got {int(index.min())}..{int(index.max())}")
        field = torch.full((*index.shape, self.q), -torch.inf, device=index.device)
        field.scatter_(-1, index.long()[..., None], 0.0)
        return field.numpy() if isinstance(tokens, np.ndarray) else field
