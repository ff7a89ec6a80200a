"""A grammar on a complete tree as ops, backends and kernels take it, checked once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch

from biasgen._numbers import is_whole
from biasgen.ops._tree_checks import checked_parts


class Arrays(NamedTuple):
    """The parts of a Tree as read-only NumPy arrays; native modules read them by name."""

    rules: np.ndarray
    weights: np.ndarray
    level_offsets: np.ndarray
    root: np.ndarray
    channels: np.ndarray


@dataclass(frozen=True, eq=False)
class Tree:
    """A grammar that was checked, on the CPU. `checked` makes one; its tensors are its own, and
    nobody changes them.

    rules (R, 1 + s) int16: parent, children. weights (R,) float64. level_offsets: depth + 1
    numbers, as for `checked`. root (Q,) float64. channels (s^k, Q, Q) float64, none where k = 0:
    law of each node of level k given the root.

    What follows from them: arity s; depth; Q symbols; L leaves; factorized, the k of BP_k: the
    levels 1 .. k - 1 are left out, and the nodes of level k hang on the root. blocks: first and
    last + 1 of the rules of each level but that of the leaves. nodes: how many each level has, from
    the root to the leaves, 0 where it is left out. rule_counts: rules of each level but that of the
    leaves, 0 where its nodes are not expanded.

    packed: what backends derive and keep; never saved.
    """

    rules: torch.Tensor = field(repr=False)
    weights: torch.Tensor = field(repr=False)
    level_offsets: tuple[int, ...]
    root: torch.Tensor = field(repr=False)
    channels: torch.Tensor = field(repr=False)
    arity: int = field(init=False)
    depth: int = field(init=False)
    Q: int = field(init=False)
    L: int = field(init=False)
    factorized: int = field(init=False)
    blocks: tuple[tuple[int, int], ...] = field(init=False, repr=False)
    nodes: tuple[int, ...] = field(init=False, repr=False)
    rule_counts: tuple[int, ...] = field(init=False, repr=False)
    packed: dict[Any, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Reads shapes and offsets alone, so that it serves where torch.compile has no values."""
        s, depth, ends = self.rules.shape[1] - 1, len(self.level_offsets) - 1, self.level_offsets
        k = sum(s**d <= self.channels.shape[0] for d in range(1, depth + 1))
        blocks = tuple((max(end for end in ends if end < stop), stop) for stop in ends[1:])
        found = {
            "arity": s,
            "depth": depth,
            "Q": self.root.shape[0],
            "L": s**depth,
            "factorized": k,
            "blocks": blocks,
            "nodes": tuple(s**d if d == 0 or d >= k else 0 for d in range(depth + 1)),
            "rule_counts": tuple(
                stop - start if d >= k else 0 for d, (start, stop) in enumerate(blocks)
            ),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @classmethod
    def checked(
        cls,
        q: int,
        depth: int,
        rules: Any,
        weights: Any,
        level_offsets: Any = None,
        root: Any = None,
        channels: Any = None,
    ) -> "Tree":
        """A grammar of q symbols, copied from arrays, tensors or lists.

        Args:
            q: symbols, 1..256. depth: levels below the root, so that L = s^depth <= 4096.
            rules: (R, 1 + s) integers (parent, children), s = 2, 3 or 4, symbols 0..q - 1, none
                twice in a level. Several parents may have the same children.
            weights: (R,) probabilities; those of each parent sum to 1 in each level.
            level_offsets: (depth + 1,) integers: rules level_offsets[d] .. level_offsets[d + 1] - 1
                are those of the nodes d levels below the root; an empty block stands for that of
                the level above. None: all rules at every level.
            root: (q,) probabilities of the root's symbol, which sum to 1. None: uniform.
            channels: (s^k, q, q) probabilities, k >= 1, of each node of level k given the root,
                [node, root, symbol]: hangs these nodes on the root, without the levels between
                (TreeGrammar.factorized). None: the whole tree.

        Raises ValueError that begins with the name of the argument, and says which level, which
        parent, which sum; also for a tensor that requires a gradient, which is not computed."""
        rows, w, offsets, prior, table = checked_parts(
            q, depth, rules, weights, level_offsets, root, channels
        )
        return _remembered(
            cls(*map(torch.from_numpy, (rows, w)), offsets, *map(torch.from_numpy, (prior, table)))
        )

    @property
    def shared(self) -> bool:
        """Whether all levels have the same rules."""
        return self.level_offsets[1] == self.level_offsets[-1]

    @property
    def draws(self) -> int:
        """Random numbers that a string takes: the root's, those of nodes that hang on it, one for
        each node that is expanded."""
        return 1 + len(self.channels) + sum(self.nodes[self.factorized : self.depth])

    @cached_property
    def arrays(self) -> Arrays:
        """The same memory."""
        offsets = np.array(self.level_offsets, np.int64)
        parts = self.rules, self.weights, torch.from_numpy(offsets), self.root, self.channels
        found = Arrays(*(part.numpy() for part in parts))
        for array in found:
            array.flags.writeable = False
        return found

    def with_channels(self, channels: np.ndarray) -> "Tree":
        """The same rules below level k, whose nodes hang on the root: channels as for `checked`,
        float64, not checked."""
        return _remembered(replace(self, channels=torch.from_numpy(channels)))

    def with_factorized(self, k: int) -> "Tree":
        """The grammar of BP_k: its channels are the true laws of the nodes of level k given the
        root. ValueError for k outside 0..depth, and where they take more than 1 GiB."""
        if not is_whole(k, 0) or k > self.depth:
            raise ValueError(f"k: want 0..{self.depth}, got {k}")
        if k == self.factorized == 0:
            return self
        s, Q = self.arity, self.Q
        if 8 * s**k * Q**2 > 1 << 30:
            raise ValueError(f"k: want tables of at most 1 GiB, got {s**k} nodes of {Q} x {Q}")
        if k == 0:
            return self.with_channels(np.empty((0, Q, Q)))
        table = np.eye(Q)[None]
        for start, stop in self.blocks[:k]:
            rules, weights = self.arrays.rules[start:stop], self.arrays.weights[start:stop]
            step = np.zeros((s, Q, Q))
            for child in range(s):
                np.add.at(step[child], (rules[:, 0], rules[:, 1 + child]), weights)
            table = (table[:, None] @ step).reshape(-1, Q, Q)
        return self.with_channels(table)

    def cooled(self, temperature: float) -> "Tree":
        """With every probability to the power 1 / temperature; ValueError where one vanishes."""
        if temperature == 1:
            return self
        parts = {}
        for name in ("weights", "root", "channels"):
            p = getattr(self, name)
            parts[name] = p ** (1 / temperature)
            if bool(((parts[name] == 0) & (p > 0)).any()):
                least = float(p[p > 0].min())
                raise ValueError(
                    f"temperature: {temperature} is so low that {name} of {least:.3g} vanish"
                )
        return replace(self, **parts)

    def __reduce__(self) -> tuple[Any, ...]:
        """Of copies and pickles, which need not be checked again."""
        return _restored, (self.rules, self.weights, self.level_offsets, self.root, self.channels)


def of_tensors(
    rules: torch.Tensor,
    weights: torch.Tensor,
    level_offsets: Sequence[int],
    root: torch.Tensor,
    channels: torch.Tensor,
) -> Tree:
    """The Tree that has these tensors, with what backends keep in it; else another one of them,
    checked."""
    parts, offsets = (rules, weights, root, channels), tuple(level_offsets)
    known = _KNOWN.get(_addresses(*parts))
    if known is not None and known.level_offsets == offsets:
        own = known.rules, known.weights, known.root, known.channels
        if all(
            (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
            for a, b in zip(parts, own, strict=True)
        ):
            return known
    table = channels if len(channels) else None
    return Tree.checked(len(root), len(offsets) - 1, rules, weights, offsets, root, table)


_KNOWN: WeakValueDictionary[tuple[int, ...], Tree] = WeakValueDictionary()
"""Trees by _addresses, while they live."""


def _addresses(*tensors: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)


def _remembered(tree: Tree) -> Tree:
    _KNOWN[_addresses(tree.rules, tree.weights, tree.root, tree.channels)] = tree
    return tree


def _restored(*parts: Any) -> Tree:
    return _remembered(Tree(*parts))
