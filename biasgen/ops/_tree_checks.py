"""What the arrays of a grammar must be, with one error for each way in which they are not."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from biasgen._numbers import is_whole

MAX_LEAVES = 4096
MAX_SYMBOLS = 256
ARITIES = (2, 3, 4)
MAX_RULES = 1 << 24  # of one level: what a sum in the kernels holds (csrc/cpu/tree_messages-inl.h)

Parts = tuple[np.ndarray, np.ndarray, tuple[int, ...], np.ndarray, np.ndarray]


def checked_parts(
    q: int, depth: int, rules: Any, weights: Any, level_offsets: Any, root: Any, channels: Any
) -> Parts:
    """The parts of a biasgen.ops.tree.Tree, copied; arguments and errors: see Tree.checked."""
    for name, given in (("weights", weights), ("root", root), ("channels", channels)):
        if isinstance(given, torch.Tensor) and given.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name}: no gradient by it is computed, got a tensor that requires one; "
                "detach() it"
            )
    rows, w = _as_array(rules), _as_array(weights)
    fits = rows.ndim == 2 and len(rows) > 0 and rows.shape[1] - 1 in ARITIES
    if not fits or rows.dtype.kind not in "iu":
        raise ValueError(
            "rules: want (R, 1 + s) integers (parent, children), s = 2, 3 or 4, "
            f"got {rows.dtype} of shape {rows.shape}"
        )
    if not is_whole(q, 1) or q > MAX_SYMBOLS:
        raise ValueError(f"q: want 1..{MAX_SYMBOLS}, got {q}")
    check_depth(rows.shape[1] - 1, depth)
    if w.shape != (len(rows),) or w.dtype.kind != "f":
        raise ValueError(
            f"weights: want ({len(rows)},) floats, one a rule, got {w.dtype} of shape {w.shape}"
        )
    outside = np.argwhere((rows < 0) | (rows >= q))
    if len(outside):
        r = outside[0, 0]
        raise ValueError(f"rules: want symbols 0..{q - 1}, got {rows[r].tolist()} in row {r}")
    w = w.astype(np.float64)
    bad = np.flatnonzero(~((w >= 0) & (w < np.inf)))
    if len(bad):
        raise ValueError(f"weights: want finite numbers >= 0, got {w[bad[0]]} in row {bad[0]}")
    offsets = _offsets(level_offsets, len(rows), depth)
    for level, (start, stop) in enumerate(pairwise(offsets)):
        if stop > start:
            where = f" in level {level}" if stop - start < len(rows) else ""
            _check_level(rows[start:stop].astype(np.int64), w[start:stop], q, where)
    prior = np.full(q, 1 / q) if root is None else _as_array(root)
    fits = prior.shape == (q,) and prior.dtype.kind == "f" and (prior >= 0).all()
    if not fits or not abs(prior.sum(dtype=np.float64) - 1) <= 1e-9:
        numbers = prior.dtype.kind == "f" and prior.size
        raise ValueError(
            f"root: want ({q},) probabilities that sum to 1, "
            f"got {prior.dtype} of shape {prior.shape}"
            + (f", least {prior.min()}, sum {prior.sum()}" if numbers else "")
        )
    rows = np.array(rows, np.int16, order="C")
    table = _channels(channels, q, depth, rows.shape[1] - 1)
    return rows, np.ascontiguousarray(w), offsets, np.array(prior, np.float64), table


def check_depth(s: int, depth: int) -> None:
    """ValueError unless s^depth is a number of leaves."""
    deepest = max(d for d in range(1, 13) if s**d <= MAX_LEAVES)
    if not is_whole(depth, 1) or depth > deepest:
        raise ValueError(f"depth: want 1..{deepest} for nodes with {s} children, got {depth}")


def _channels(channels: Any, q: int, depth: int, s: int) -> np.ndarray:
    if channels is None:
        return np.empty((0, q, q))
    table = _as_array(channels)
    counts = [0, *(s**k for k in range(1, depth + 1))]
    fits = table.ndim == 3 and table.shape[1:] == (q, q) and len(table) in counts
    if not fits or table.dtype.kind != "f":
        raise ValueError(
            f"channels: want ({s}^k, {q}, {q}) floats, k <= {depth}, "
            f"got {table.dtype} of shape {table.shape}"
        )
    off = np.where((table >= 0).all(2), abs(table.sum(2, dtype=np.float64) - 1), np.inf)
    if not (off <= 1e-9).all():
        node, symbol = np.unravel_index(off.argmax(), off.shape)  # that of NaN, where there is any
        raise ValueError(
            "channels: want probabilities that sum to 1 over the symbols of a node, "
            f"got {table[node, symbol].tolist()} for node {node}, root {symbol}"
        )
    return np.array(table, np.float64, order="C")


def _offsets(level_offsets: Any, R: int, depth: int) -> tuple[int, ...]:
    if level_offsets is None:
        return (0, *[R] * depth)
    given = _as_array(level_offsets)
    if given.shape != (depth + 1,) or given.dtype.kind not in "iu":
        raise ValueError(
            f"level_offsets: want ({depth + 1},) integers, depth + 1, "
            f"got {given.dtype} of shape {given.shape}"
        )
    offsets = given.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != R or (np.diff(offsets) < 0).any() or offsets[1] == 0:
        raise ValueError(
            f"level_offsets: want ascending numbers from 0 to R = {R}, the second above 0, "
            f"got {offsets.tolist()}"
        )
    return tuple(offsets.tolist())


def _check_level(rows: np.ndarray, w: np.ndarray, q: int, where: str) -> None:
    """ValueError unless the rules of one level are distinct and those of each parent sum to 1."""
    if len(rows) > MAX_RULES:
        raise ValueError(f"rules: want at most {MAX_RULES}, got {len(rows)}{where}")
    codes = rows @ q ** np.arange(rows.shape[1] - 1, -1, -1)
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    if (counts > 1).any():
        twice = rows[first[counts > 1][0]].tolist()
        raise ValueError(f"rules: want each rule once, got {twice} {counts.max()} times{where}")
    present = np.bincount(rows[:, 0], minlength=q)
    if not present.all():
        missing = present.argmin()
        raise ValueError(
            f"rules: want at least one rule for each of the {q} symbols, "
            f"got none with parent {missing}{where}"
        )
    totals = np.bincount(rows[:, 0], w, q)
    worst = abs(totals - 1).argmax()
    if abs(totals[worst] - 1) > 1e-9:
        raise ValueError(
            "weights: want a sum of 1 over the rules of each parent, "
            f"got {totals[worst]} for parent {worst}{where}"
        )


def _as_array(values: Any) -> np.ndarray:
    """Of an array, a tensor anywhere, or numbers."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
