"""Evidence and grammar as the ops on trees take them: checked, and as tensors."""
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from biasgen._numbers import is_number
from biasgen.ops._rows import as_tensor, dtype_name, widened

MAX_LEAVES = 4096
MAX_SYMBOLS = 256
ARITIES = (2, 3, 4)
MAX_RULES = 1 << 24  # of one level: what a sum in the kernels holds (csrc/cpu/tree_messages-inl.h)
MASKED = -1
"""The token of a leaf that nobody saw."""


class Tree(NamedTuple):
    """A grammar as backends take it, on the CPU. rules (R, 1 + s) int16, weights (R,) float64, level_offsets (depth + 1,) int64, root (Q,)
    float64, channels (s^k, Q, Q) float64, 0 of them where no level is factorized."""

    rules: torch.Tensor
    weights: torch.Tensor
    level_offsets: torch.Tensor
    root: torch.Tensor
    channels: torch.Tensor

    @property
    def arity(self) -> int:
        return self.rules.shape[1] - 1

    @property
    def depth(self) -> int:
        return len(self.level_offsets) - 1

    @property
    def factorized(self) -> int:
        """k: the levels 1 .. k - 1 are left out, the nodes of level k hang on the root."""
        return round(math.log(len(self.channels), self.arity)) if len(self.channels) else 0

    def rules_of(self, level: int) -> slice:
        return slice(*block_of(self.level_offsets.tolist(), level))

    def rules_count(self, level: int) -> int:
        start, stop = block_of(self.level_offsets.tolist(), level)
        return stop - start

    @property
    def draws(self) -> int:
        """Random numbers that a string takes: the root's, those of nodes that hang on it, one for each node that is expanded."""
        return 1 + len(self.channels) + sum(self.arity**d for d in range(self.factorized, self.depth))

    @property
    def levels(self) -> tuple[int, ...]:
        """Those that have nodes, from the root."""
        return 0, *range(max(1, self.factorized), self.depth + 1)


def block_of(ends: Sequence[int], level: int) -> tuple[int, int]:
    """First and last + 1 of the rules of a level, by level_offsets: its own, or those of the nearest above that has some."""
    stop = ends[level + 1]
    return max(end for end in ends if end < stop), stop


def level_sizes(rules: Any, level_offsets: Any, channels: Any, L: int) -> tuple[list[int], list[int]]:
    """Nodes of each level, from the root to L leaves, and rules that a node of each level but the last has; 0 where `channels` left them
    out. Nothing is read but shapes and offsets."""
    s, hung = rules.shape[1] - 1, 0 if channels is None else channels.shape[0]
    depth = next((d for d in range(1, 13) if s**d >= L), 12)
    ends = [0] + [rules.shape[0]] * depth if level_offsets is None else [int(end) for end in level_offsets]
    nodes = [s**d if d == 0 or s**d >= hung else 0 for d in range(depth + 1)]
    blocks = [block_of(ends, d) for d in range(len(ends) - 1)]
    return nodes, [stop - start if s**d >= hung else 0 for d, (start, stop) in enumerate(blocks)]


def checked(
    log_field: Any, tokens: Any, rules: Any, weights: Any, level_offsets: Any, root: Any, channels: Any, temperature: float
) -> tuple[torch.Tensor, Tree]:
    """Evidence, contiguous, and the grammar, both at `temperature`; or one error. Evidence is a log-field (B, L, Q) or (L, Q), with the
    tokens written into it where both are given, else tokens (B, L) or (L,), int8 (int16 where Q > 127)."""
    rows = as_array(rules)
    if rows.ndim != 2 or rows.shape[1] - 1 not in ARITIES or len(rows) == 0 or rows.dtype.kind not in "iu":
        raise ValueError(f"rules: want (R, 1 + s) integers (parent, children), s = 2, 3 or 4, got {rows.dtype} of shape {rows.shape}")
    if not is_number(temperature) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature: want a finite number above 0, got {temperature}")
    if log_field is None and tokens is None:
        raise ValueError("log_field: want a log-field, tokens or both, got None and None")
    s = rows.shape[1] - 1
    sizes = [s**d for d in range(1, 13) if s**d <= MAX_LEAVES]
    if log_field is not None:
        dtype = dtype_name(log_field, "log_field")
        if dtype not in ("float32", "float64"):
            raise ValueError(f"log_field: want float32 or float64, got {dtype}")
        shape = tuple(log_field.shape)
        if len(shape) not in (2, 3) or shape[-2] not in sizes or not 1 <= shape[-1] <= MAX_SYMBOLS:
            raise ValueError(
                f"log_field: want (B, L, Q) or (L, Q) with L = {s}, {s * s}, ... {sizes[-1]} leaves, for rules with {s} children, and "
                f"Q <= {MAX_SYMBOLS}, got shape {shape}"
            )
        L, Q = shape[-2:]
    else:
        dtype_name(tokens, "tokens")
        Q = len(as_array(root)) if root is not None else int(rows[:, 0].max()) + 1   # each symbol has a rule
        L = tokens.shape[-1] if tokens.ndim else 0
        if not 1 <= Q <= MAX_SYMBOLS:
            raise ValueError(f"rules: want at most {MAX_SYMBOLS} symbols, got {Q}")
        if tokens.ndim not in (1, 2) or L not in sizes:
            raise ValueError(
                f"tokens: want (B, L) or (L,) with L = {s}, {s * s}, ... {sizes[-1]} leaves, for rules with {s} children, got shape "
                f"{tuple(tokens.shape)}"
            )
    tree = checked_tree(Q, sizes.index(L) + 1, rows, weights, level_offsets, root, channels)
    if tokens is None:
        evidence = as_tensor(log_field).detach()
    elif log_field is None:
        evidence = _checked_tokens(tokens, Q)
    else:
        evidence = _mixed(as_tensor(log_field).detach(), _checked_tokens(tokens, Q))
    if temperature != 1:
        tree = tree._replace(**{name: _cooled(getattr(tree, name), temperature, name) for name in ("weights", "root", "channels")})
        evidence = _cooled_field(evidence, temperature) if evidence.dtype.is_floating_point else evidence
    return evidence.contiguous(), tree


def batch_of(evidence: torch.Tensor) -> torch.Tensor:
    """Evidence with its B, of one sample where it has none."""
    return evidence if evidence.ndim == (3 if evidence.dtype.is_floating_point else 2) else evidence[None]


def as_given(out: Sequence[torch.Tensor], evidence: torch.Tensor, log_field: Any, tokens: Any) -> list[Any]:
    """Results of batch_of(evidence) as the caller's evidence is: without B where it has none; NumPy where log_field is, or tokens alone
    are."""
    found = list(out) if batch_of(evidence) is evidence else [values[0] for values in out]
    return [values.numpy() for values in found] if isinstance(tokens if log_field is None else log_field, np.ndarray) else found


def _checked_tokens(tokens: Any, Q: int) -> torch.Tensor:
    index = widened(as_tensor(tokens))
    if index.dtype.is_floating_point or index.dtype in (torch.bool, torch.uint64):
        raise ValueError(f"tokens: want integers, got {index.dtype}")
    if index.numel():
        low, high = (int(end) for end in torch.aminmax(index))
        if low < MASKED or high >= Q:
            raise ValueError(f"tokens: want symbols 0..{Q - 1}, or {MASKED} for a leaf that is masked, got {low}..{high}")
    return index.to(torch.int8 if Q <= 127 else torch.int16)


def _mixed(field: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The field, but where a leaf was seen: its token alone."""
    if field.shape[:-1] != tokens.shape:
        raise ValueError(f"tokens: want one a leaf of log_field, {tuple(field.shape[:-1])}, got {tuple(tokens.shape)}")
    if field.device != tokens.device:
        raise ValueError(f"tokens: want them on the device of log_field, {field.device}, got {tokens.device}")
    tokens = tokens[..., None].long()
    sure = torch.full_like(field, -math.inf).scatter_(-1, tokens.clamp(min=0), 0.0)
    return torch.where(tokens == MASKED, field, sure)


def _cooled(p: torch.Tensor, temperature: float, name: str) -> torch.Tensor:
    power = p ** (1 / temperature)
    if bool(((power == 0) & (p > 0)).any()):
        raise ValueError(f"temperature: {temperature} is so low that {name} of {float(p[p > 0].min()):.3g} vanish")
    return power


def _cooled_field(field: torch.Tensor, temperature: float) -> torch.Tensor:
    cold = field.double() / temperature
    if bool((cold.isinf() & ~field.isinf()).any()):   # -inf would exclude the symbol
        raise ValueError(f"temperature: {temperature} is so low that log_field leaves the range of float64")
    return cold


def checked_tree(
    Q: int, depth: int, rules: Any, weights: Any, level_offsets: Any = None, root: Any = None, channels: Any = None
) -> Tree:
    """The grammar, or one ValueError."""
    rows, w = as_array(rules), as_array(weights)
    if w.shape != (len(rows),) or w.dtype.kind != "f":
        raise ValueError(f"weights: want ({len(rows)},) floats, one a rule, got {w.dtype} of shape {w.shape}")
    outside = np.argwhere((rows < 0) | (rows >= Q))
    if len(outside):
        r = outside[0, 0]
        raise ValueError(f"rules: want symbols 0..{Q - 1}, got {rows[r].tolist()} in row {r}")
    w = w.astype(np.float64)
    bad = np.flatnonzero(~((w >= 0) & (w < np.inf)))
    if len(bad):
        raise ValueError(f"weights: want finite numbers >= 0, got {w[bad[0]]} in row {bad[0]}")
    offsets = _offsets(level_offsets, len(rows), depth)
    for level, (start, stop) in enumerate(pairwise(offsets.tolist())):
        if stop > start:
            _check_level(rows[start:stop].astype(np.int64), w[start:stop], Q, f" in level {level}" if stop - start < len(rows) else "")
    prior = np.full(Q, 1 / Q) if root is None else as_array(root)
    if prior.shape != (Q,) or prior.dtype.kind != "f" or not (prior >= 0).all() or not abs(prior.sum(dtype=np.float64) - 1) <= 1e-9:
        raise ValueError(
            f"root: want ({Q},) probabilities that sum to 1, got {prior.dtype} of shape {prior.shape}"
            + (f", least {prior.min()}, sum {prior.sum()}" if prior.dtype.kind == "f" and prior.size else "")
        )
    table = _channels(channels, Q, depth, rows.shape[1] - 1)
    kept = np.array(rows, np.int16, order="C"), np.ascontiguousarray(w), offsets, np.array(prior, np.float64), table
    return Tree(*(torch.from_numpy(part) for part in kept))


def _channels(channels: Any, Q: int, depth: int, s: int) -> np.ndarray:
    if channels is None:
        return np.empty((0, Q, Q))
    table = as_array(channels)
    counts = [0, *(s**k for k in range(1, depth + 1))]
    if table.ndim != 3 or table.shape[1:] != (Q, Q) or len(table) not in counts or table.dtype.kind != "f":
        raise ValueError(f"channels: want ({s}^k, {Q}, {Q}) floats, k <= {depth}, got {table.dtype} of shape {table.shape}")
    off = np.where((table >= 0).all(2), abs(table.sum(2, dtype=np.float64) - 1), np.inf)
    if not (off <= 1e-9).all():
        node, symbol = np.unravel_index(off.argmax(), off.shape)   # that of NaN, where there is any
        raise ValueError(
            f"channels: want probabilities that sum to 1 over the symbols of a node, got {table[node, symbol].tolist()} for node {node}, "
            f"root {symbol}"
        )
    return np.array(table, np.float64, order="C")


def _offsets(level_offsets: Any, R: int, depth: int) -> np.ndarray:
    if level_offsets is None:
        return np.array([0] + [R] * depth, np.int64)
    given = as_array(level_offsets)
    if given.shape != (depth + 1,) or given.dtype.kind not in "iu":
        raise ValueError(f"level_offsets: want ({depth + 1},) integers, depth + 1, got {given.dtype} of shape {given.shape}")
    offsets = given.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != R or (np.diff(offsets) < 0).any() or offsets[1] == 0:
        raise ValueError(f"level_offsets: want ascending numbers from 0 to R = {R}, the second above 0, got {offsets.tolist()}")
    return offsets


def _check_level(rows: np.ndarray, w: np.ndarray, Q: int, where: str) -> None:
    """ValueError unless the rules of one level are distinct and those of each parent sum to 1."""
    if len(rows) > MAX_RULES:
        raise ValueError(f"rules: want at most {MAX_RULES}, got {len(rows)}{where}")
    codes = rows @ Q ** np.arange(rows.shape[1] - 1, -1, -1)
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"rules: want each rule once, got {rows[first[counts > 1][0]].tolist()} {counts.max()} times{where}")
    present = np.bincount(rows[:, 0], minlength=Q)
    if not present.all():
        raise ValueError(f"rules: want at least one rule for each of the {Q} symbols, got none with parent {present.argmin()}{where}")
    totals = np.bincount(rows[:, 0], w, Q)
    worst = abs(totals - 1).argmax()
    if abs(totals[worst] - 1) > 1e-9:
        raise ValueError(f"weights: want a sum of 1 over the rules of each parent, got {totals[worst]} for parent {worst}{where}")


def as_array(values: Any) -> np.ndarray:
    """Of an array, a tensor anywhere, or numbers."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
