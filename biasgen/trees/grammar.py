"""Probabilistic grammars on complete trees (Garnier-Brun et al., arXiv 2603.03469, section 3): rules, sampling, likelihood."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from biasgen._numbers import is_number, is_whole
from biasgen.diffusion.process import as_double, per_row
from biasgen.diffusion.schedule import Level
from biasgen.ops import philox
from biasgen.ops._evidence import MASKED
from biasgen.ops._rows import as_tensor, dtype_name
from biasgen.ops._tree_checks import ARITIES, MAX_RULES, MAX_SYMBOLS, check_depth
from biasgen.ops.tree import Tree
from biasgen.ops.tree_map import tree_map
from biasgen.ops.tree_posterior import tree_posterior
from biasgen.ops.tree_posterior_sample import tree_posterior_sample
from biasgen.results import TreePosterior


@dataclass(frozen=True, eq=False)
class TreeGrammar:
    """Symbols 0..q-1 on a complete tree; each node draws its s children given its own symbol, the root from a prior.

    q: alphabet size, at most 256, the same at every level. depth: levels below the root, so that
    sequences have L = s**depth <= 4096 leaves. rules (R, 1 + s) int16: (parent, children), s = 2, 3
    or 4. weights (R,) float64: probability of the children given the parent. level_offsets
    (depth + 1,) int64: rules level_offsets[d] .. level_offsets[d + 1] - 1 are those of the nodes d
    levels below the root; an empty block stands for that of the level above, so None, all rules at every
    level, is [0, R, R ...]. root (q,) float64: probabilities of the root's symbol, None: uniform.
    k: of BP_k, see `factorized`.

    All is checked here, and no call checks it again: calls read arrays of their own, so that a
    change of the ones above changes no answer, while dataclasses.replace(grammar) makes a grammar
    of what they hold then.

    ValueError where a symbol is outside the alphabet, a rule comes twice in a level, a parent has
    no rule, weights of a parent do not sum to 1 within 1e-9 (which level, which parent, the sum),
    offsets, root or k are wrong."""

    q: int
    depth: int
    rules: np.ndarray
    weights: np.ndarray
    level_offsets: np.ndarray | None = None
    root: np.ndarray | None = None
    k: int = 0

    def __post_init__(self) -> None:
        tree = Tree.checked(
            self.q, self.depth, self.rules, self.weights, self.level_offsets, self.root
        )
        self._hold(tree.with_factorized(self.k))

    def _hold(self, tree: Tree) -> None:
        held = {"q": tree.Q, "depth": tree.depth, "k": tree.factorized, "_tree": tree}
        copies = {
            name: getattr(tree.arrays, name).copy()
            for name in ("rules", "weights", "level_offsets", "root")
        }
        for name, value in (held | copies).items():
            object.__setattr__(self, name, value)

    @classmethod
    def of_tree(cls, tree: Tree) -> "TreeGrammar":
        """The grammar of what was checked already."""
        grammar = object.__new__(cls)
        grammar._hold(tree)
        return grammar

    def __reduce__(self) -> tuple[Any, ...]:
        """Of copies and pickles, which need not be checked again."""
        return TreeGrammar.of_tree, (self.tree,)

    @classmethod
    def from_rules(
        cls, q: int, depth: int, rules: np.ndarray, weights: np.ndarray, *, level_offsets: np.ndarray | None = None,
        root: np.ndarray | None = None,
    ) -> "TreeGrammar":
        """A grammar of your own: the constructor by a name that goes with the others."""
        return cls(q, depth, rules, weights, level_offsets, root)

    @classmethod
    def from_transitions(
        cls, depth: int, transitions: np.ndarray | Sequence[np.ndarray], *, root: np.ndarray | None = None
    ) -> "TreeGrammar":
        """The grammar of a dense table (q, q, q) [parent, left, right], with more children more axes, or of a list of `depth` tables, from
        the root down, where levels differ. Zeros are what the grammar forbids. Errors as from_rules.
        """
        tables = [np.asarray(table) for table in ([transitions] if isinstance(transitions, np.ndarray) else transitions)]
        shape = tables[0].shape if tables else ()
        if len(tables) not in (1, depth) or len(shape) - 1 not in ARITIES or {1} != {len(set(table.shape)) for table in tables}:
            raise ValueError(
                f"transitions: want a (q, q, q) table, 2 to 4 axes after the parent's, or {depth} of them, got "
                f"{', '.join(str(table.shape) for table in tables)}"
            )
        check_depth(len(shape) - 1, depth)
        rules = [np.argwhere(table) for table in tables]
        weights = np.concatenate([table[tuple(rows.T)] for table, rows in zip(tables, rules, strict=True)])
        ends = np.cumsum([0, *map(len, rules)])
        offsets = np.concatenate([ends, np.full(depth + 1 - len(ends), ends[-1])])
        return cls.from_rules(shape[0], depth, np.concatenate(rules), weights, level_offsets=offsets, root=root)

    @classmethod
    def random_hierarchy(
        cls, v: int = 16, m: int = 4, s: int = 2, depth: int = 4, seed: int = 0, *, shared: bool = False
    ) -> "TreeGrammar":
        """The Random Hierarchy Model (Cagnetta et al., arXiv 2307.02129): every one of v symbols has m equally likely s-tuples, all v m
        distinct; each level has its own, or all have those of the first (shared). Level d draws them by the numbers of sample d, steps
        0, 1 .., purpose DATA of ops/philox.py.
        """
        if s not in ARITIES:
            raise ValueError(f"s: want 2, 3 or 4 children, got {s}")
        if not is_whole(v, 1) or v > MAX_SYMBOLS:
            raise ValueError(f"v: want 1..{MAX_SYMBOLS} symbols, got {v}")
        if not is_whole(m, 1) or m > v ** (s - 1) or v * m > MAX_RULES:
            raise ValueError(f"m: want 1..v**(s - 1) = {v ** (s - 1)} tuples a symbol, v m <= {MAX_RULES} in all, got {m}")
        check_depth(s, depth)
        levels = []
        for level in range(1 if shared else depth):
            tuples: dict[int, None] = {}   # in the order drawn; drawn again until all differ
            step = 0
            while len(tuples) < v * m:
                u = philox.uniforms(seed, n=1, count=2 * v * m, offset=level, step=step, purpose=philox.DATA)[0]
                tuples |= dict.fromkeys(np.minimum((u * v**s).astype(np.int64), v**s - 1).tolist())
                step += 1
            codes = np.array(list(tuples)[: v * m])
            children = codes[:, None] // v ** np.arange(s - 1, -1, -1) % v
            levels.append(np.concatenate([np.repeat(np.arange(v), m)[:, None], children], 1))
        rules = np.concatenate(levels).astype(np.int16)
        offsets = None if shared else v * m * np.arange(depth + 1, dtype=np.int64)
        return cls(v, depth, rules, np.full(len(rules), 1 / m), offsets)

    @classmethod
    def random(cls, q: int = 6, depth: int = 4, q_eff: int = 4, sigma: float = 1.0, seed: int = 0) -> "TreeGrammar":
        """The paper's grammar: all q*q pairs are shuffled and dealt to the parents, q each; the first q_eff of a parent are allowed, with
        softmax weights of N(0, sigma) logits; so every pair has at most one parent. Equal to the authors' for the same arguments.
        """
        if not is_whole(q_eff, 1) or q_eff > q:
            raise ValueError(f"q_eff: want 1..q = {q}, got {q_eff}")
        check_depth(2, depth)
        if not is_whole(q, 2) or q > MAX_SYMBOLS:
            raise ValueError(f"q: want 2..{MAX_SYMBOLS}, got {q}")
        if not is_number(sigma) or sigma < 0:
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
    def tree(self) -> Tree:
        """The same as ops take it: biasgen.ops.tree.Tree."""
        return self._tree

    @property
    def channels(self) -> np.ndarray:
        """(s**k, q, q) float64, a copy: probability of each node of level k given the root, [node,
        root, symbol]; (0, q, q) for k = 0."""
        return self.tree.arrays.channels.copy()

    @property
    def length(self) -> int:
        """L, the number of leaves."""
        return self.tree.L

    @property
    def arity(self) -> int:
        """s, the number of children of a node."""
        return self.tree.arity

    @property
    def transitions(self) -> np.ndarray:
        """(q, ...) float64 with 1 + s axes: probability of the children given the parent, [parent, left, right] where s = 2; with an axis
        (depth, ...) before them where levels differ. ValueError above 1 GiB.
        """
        shared = self.tree.shared
        shape = (self.q,) * (1 + self.arity) if shared else (self.depth,) + (self.q,) * (1 + self.arity)
        if 8 * math.prod(shape) > 1 << 30:
            raise ValueError(f"transitions: want a table of at most 1 GiB, got shape {shape}; rules and weights say the same")
        table, arrays = np.zeros(shape), self.tree.arrays
        for level in range(self.depth):
            block = slice(*self.tree.blocks[level])
            (table if shared else table[level])[tuple(arrays.rules[block].T)] = arrays.weights[
                block
            ]
        return table

    def factorized(self, k: int) -> "TreeGrammar":
        """The model of BP_k: the nodes of level k are drawn each by itself given the root, from
        their true law given it, and the rules hold below. k = 0 is the whole grammar, k = depth
        makes the leaves independent given the root. Posterior and log_prob are exact for it.
        ValueError for k outside 0..depth, and where channels would take more than 1 GiB."""
        return TreeGrammar.of_tree(self.tree.with_factorized(k))

    def floored(self, floor: float) -> "TreeGrammar":
        """All q**(1 + s) rules at every level, each weight larger by `floor`, 0 < floor <= 1e-16: what is forbidden becomes possible at
        that price. 1e-16 is the number that the authors' code adds before it takes logarithms (docs/paper_differences.md).
        """
        if not 0 < floor <= 1e-16:   # weights stay normalized to rounding
            raise ValueError(f"floor: want a weight in (0, 1e-16], got {floor}")
        if self.q ** (1 + self.arity) > MAX_RULES:
            raise ValueError(f"floor: want at most {MAX_RULES} rules, got all {self.q}**{1 + self.arity}")
        table = self.transitions + floor
        tables = table if table.ndim == 1 + self.arity else list(table)
        return self.from_transitions(self.depth, tables, root=self.tree.arrays.root).factorized(
            self.k
        )

    def sample(self, n: int, *, seed: int = 0, offset: int = 0) -> np.ndarray:
        """(n, L) int8 sequences (int16 where q > 127): rows offset..offset+n of the list that `seed` fixes, so that disjoint ranges are
        independent data.

        By inverse distribution function, number 0 of a sample draws the root, the next, level by
        level, what each node becomes (where k > 0, first the nodes of level k)."""
        if not is_whole(n, 0):
            raise ValueError(f"n: want a number of samples >= 0, got {n}")
        rules, weights, _, root, channels = self.tree.arrays
        hung = len(channels)
        u = philox.uniforms(seed, n=n, count=self.tree.draws, offset=offset, purpose=philox.DATA)
        if (root == root[0]).all():
            nodes = np.minimum((u[:, :1] * self.q).astype(np.int64), self.q - 1)
        else:
            last = np.flatnonzero(root)[-1]
            nodes = np.minimum((u[:, :1, None] > np.cumsum(root)).sum(-1), last)
        used = 1 + hung
        if hung:
            reached = np.cumsum(channels, 2)
            nodes = np.stack([(u[:, 1 + j, None] * reached[j, nodes[:, 0], -1:] > reached[j, nodes[:, 0]]).sum(-1) for j in range(hung)], 1)
        for level in range(self.k, self.depth):
            block = slice(*self.tree.blocks[level])
            order = block.start + np.argsort(rules[block, 0], kind="stable")
            ends = np.searchsorted(rules[order, 0], np.arange(self.q), side="right")
            first = np.concatenate([[0], ends[:-1]])
            padded = np.full((self.q, (ends - first).max()), np.inf)   # cumulative weights; inf closes the last rule against rounding
            for p in range(self.q):
                padded[p, : ends[p] - first[p] - 1] = np.cumsum(weights[order[first[p] : ends[p]]])[
                    :-1
                ]
            draws = u[:, used : used + nodes.shape[1]]
            used += nodes.shape[1]
            rule = first[nodes] + (draws[..., None] > padded[nodes]).sum(-1)
            nodes = rules[order[rule], 1:].reshape(n, self.arity * nodes.shape[1])
        return nodes.astype(np.int8 if self.q <= 127 else np.int16)

    def log_prob(self, tokens: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """(n,) natural logarithm of the probability of (n, L) tokens, nats; -inf where the grammar forbids. Error 1e-5 + 1e-7 |log P|."""
        self._check_tokens(tokens)
        return self.posterior(tokens=tokens, levels=None).log_z

    def is_grammatical(self, tokens: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """(n,) bool: does the grammar generate the sequence at all?"""
        self._check_tokens(tokens)
        return ~self.posterior(tokens=tokens, levels=None).impossible

    def field(self, x_t: np.ndarray | torch.Tensor, level: Level) -> np.ndarray | torch.Tensor:
        """Log-field of noised one-hot rows: scale / sigma**2 * x_t, (B, L, Q) float64; evaluated here, in double, and nowhere else."""
        if x_t.ndim != 3 or tuple(x_t.shape[1:]) != (self.length, self.q):
            raise ValueError(f"x_t: want (B, {self.length}, {self.q}), got {tuple(x_t.shape)}")
        x = as_double(x_t)
        return x * per_row(level.gamma, x)

    def posterior(
        self, log_field: np.ndarray | torch.Tensor | None = None, levels: str | None = "leaves", *,
        tokens: np.ndarray | torch.Tensor | None = None, temperature: float = 1.0, compat: str | None = None,
    ) -> TreePosterior:
        """Exact marginals and log-evidence given (B, L, Q) or (L, Q) log-fields, tokens (B, L) or (L,) with -1 for leaves that nobody saw,
        or both: ops.tree_posterior with this grammar. levels: what is wanted, None, "leaves", "all" or "rules". compat: "paper" reads
        tokens as the authors' code does, where q + 1 stands for a leaf that nobody saw.
        """
        if compat is not None:
            tokens = self._paper_tokens(tokens, compat)
        return tree_posterior(
            log_field, self.tree, tokens=tokens, temperature=temperature, levels=levels
        )

    def posterior_sample(
        self, log_field: np.ndarray | torch.Tensor | None, n: int, *, seed: int = 0, tokens: np.ndarray | torch.Tensor | None = None,
        temperature: float = 1.0,
    ) -> np.ndarray | torch.Tensor:
        """(B, n, L) or (n, L) strings from the posterior: ops.tree_posterior_sample with this grammar."""
        return tree_posterior_sample(
            log_field, self.tree, n, tokens=tokens, temperature=temperature, seed=seed
        )

    def map_estimate(
        self, log_field: np.ndarray | torch.Tensor | None = None, *, tokens: np.ndarray | torch.Tensor | None = None
    ) -> tuple[np.ndarray | torch.Tensor, np.ndarray | torch.Tensor]:
        """(tokens (B, L), log_p (B,)) of the most probable derivation: ops.tree_map with this grammar."""
        return tree_map(log_field, self.tree, tokens=tokens)

    def _paper_tokens(self, tokens: np.ndarray | torch.Tensor | None, compat: str) -> np.ndarray | torch.Tensor:
        """The authors' symbols, -1 where theirs is q + 1."""
        if compat != "paper":
            raise ValueError(f"compat: want None or 'paper', got {compat!r}")
        if tokens is None:
            raise ValueError("compat: 'paper' is a way to read tokens, got none")
        dtype_name(tokens, "tokens")   # TypeError for another kind of object
        symbols = as_tensor(tokens).long()
        masked = symbols == self.q + 1
        if bool((~masked & ((symbols < 0) | (symbols >= self.q))).any()):
            raise ValueError(
                f"tokens: compat='paper' wants symbols 0..{self.q - 1}, or {self.q + 1} for a leaf that is masked; {self.q} means nothing, "
                f"got {int(symbols.min())}..{int(symbols.max())}"
            )
        symbols = symbols.masked_fill(masked, MASKED)
        return symbols if isinstance(tokens, torch.Tensor) else symbols.numpy()

    def _check_tokens(self, tokens: np.ndarray | torch.Tensor) -> None:
        """Whole strings: every leaf seen."""
        dtype_name(tokens, "tokens")   # TypeError for another kind of object
        if tokens.ndim != 2 or tokens.shape[1] != self.length:
            raise ValueError(f"tokens: want (n, {self.length}), got {tuple(tokens.shape)}")
        low = int(tokens.min()) if math.prod(tokens.shape) else 0
        if low < 0:
            raise ValueError(f"tokens: want symbols 0..{self.q - 1}, got {low}")
