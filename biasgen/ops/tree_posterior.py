"""Exact posterior of the leaves of a complete tree, by belief propagation."""
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from biasgen.backends._mode import exact_arithmetic, is_capturing
from biasgen.ops._dispatch import choose
from biasgen.ops._rows import as_tensor, dtype_name
from biasgen.results import TreePosterior

MAX_LEAVES = 4096
MAX_SYMBOLS = 256
ARITIES = (2, 3, 4)
MAX_RULES = 1 << 24  # of one level: what a sum in the kernels holds (csrc/cpu/tree_posterior-inl.h)


@exact_arithmetic()
def tree_posterior(
    log_field: Any, rules: Any, weights: Any, level_offsets: Any = None, root: Any = None, *, levels: str = "leaves",
    backend: str | None = None,
) -> TreePosterior:
    """Marginals P(x_i = a | field) and the log-evidence, for leaves x derived from a root by rules that replace a symbol by s symbols.

    The posterior is proportional to P(x) exp(sum_i log_field[i, x_i]). Every marginal is right to a relative 1e-5 (below 2^-126 it is
    0), log_z to max(1e-5, 1e-7 L) + 1e-7 |log_z|, for every field; with the cpu backend a sample's bits do not depend on the rest of the
    batch. No gradient is recorded (that of log_z is the marginals).

    Args:
        log_field: (B, L, Q) or (L, Q) float32 or float64, in nats, L = s, s^2, ... leaves, at most 4096, Q <= 256 symbols; unnormalized.
            -inf excludes a symbol.
        rules: (R, 1 + s) integers (parent, children), s = 2, 3 or 4, symbols 0 .. Q - 1, none twice in a level. Several parents may have
            the same children.
        weights: (R,) probabilities; those of each parent sum to 1 in each level.
        level_offsets: (depth + 1,) integers: rules level_offsets[d] .. level_offsets[d + 1] - 1 are those of the nodes d levels below the
            root; an empty block stands for that of the level above. None: all rules at every level.
        root: (Q,) probabilities of the root's symbol, which sum to 1. None: uniform.
        levels: "leaves", or "all": the marginals of every node.
        backend: "cuda", "cpu", "torch"; None: BIASGEN_BACKEND, else the first that can. A CUDA graph can capture the first (docs/gpu.md).

    Returns:
        TreePosterior of marginals (B, L, Q) float32, log_z (B,) float64 in nats (the root's prior included) and impossible (B,) bool:
        evidence that the grammar forbids, with marginals 0 and log_z -inf. levels="all": marginals is a list of depth + 1 such tables,
        (B, s^d, Q) for the nodes d levels below the root. Without B for an (L, Q) field. NumPy for a NumPy field, else on the field's
        device.

    Raises:
        TypeError: log_field is neither array nor tensor. ValueError: wrong type, shape, rules, weights, offsets, root, levels or backend;
            NaN or +inf in the field; a sample whose finite fields spread over more than 2^30 bits, summed over the leaves.

    Memory: the result, and about 3 L Q 128 bytes a thread.

    Source: Pearl, Probabilistic Reasoning in Intelligent Systems, 1988; the tree model of arXiv 2603.03469.
    """
    if levels not in ("leaves", "all"):
        raise ValueError(f"levels: want 'leaves' or 'all', got {levels!r}")
    field, *grammar = checked(log_field, rules, weights, level_offsets, root)
    batched = field.ndim == 3
    name, module = choose(
        "tree_posterior", device=field.device.type, dtype=dtype_name(field, "log_field"), backend=backend, case=(*grammar, levels)
    )
    if is_capturing(field.device) and name != "cuda":
        raise ValueError(f"log_field: only the cuda backend runs while a CUDA graph is captured, got {name}, which reads it on the host")
    out = module.tree_posterior(field if batched else field[None], *grammar, levels)
    if isinstance(log_field, np.ndarray):
        out = [values.numpy() for values in out]
    marginals, log_z, impossible = (values if batched else values[0] for values in out)
    if levels == "all":
        s, depth = grammar[0].shape[1] - 1, len(grammar[2]) - 1
        bounds = [(s**d - 1) // (s - 1) for d in range(depth + 2)]
        marginals = [marginals[..., start:stop, :] for start, stop in pairwise(bounds)]
    return TreePosterior(marginals, log_z, impossible)


def checked(
    log_field: Any, rules: Any, weights: Any, level_offsets: Any = None, root: Any = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """log_field as a contiguous tensor; on the CPU rules (R, 1 + s) int16, weights (R,) float64, level_offsets (depth + 1,) int64 and
    root (Q,) float64; or one error."""
    dtype = dtype_name(log_field, "log_field")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"log_field: want float32 or float64, got {dtype}")
    shape = tuple(log_field.shape)
    rows = _as_array(rules)
    if rows.ndim != 2 or rows.shape[1] - 1 not in ARITIES or len(rows) == 0 or rows.dtype.kind not in "iu":
        raise ValueError(f"rules: want (R, 1 + s) integers (parent, children), s = 2, 3 or 4, got {rows.dtype} of shape {rows.shape}")
    s = rows.shape[1] - 1
    sizes = [s**d for d in range(1, 13) if s**d <= MAX_LEAVES]
    if len(shape) not in (2, 3) or shape[-2] not in sizes or not 1 <= shape[-1] <= MAX_SYMBOLS:
        raise ValueError(
            f"log_field: want (B, L, Q) or (L, Q) with L = {s}, {s * s}, ... {sizes[-1]} leaves, for rules with {s} children, and "
            f"Q <= {MAX_SYMBOLS}, got shape {shape}"
        )
    grammar = checked_grammar(shape[-1], sizes.index(shape[-2]) + 1, rows, weights, level_offsets, root)
    return as_tensor(log_field).detach().contiguous(), *grammar


def checked_grammar(
    Q: int, depth: int, rules: Any, weights: Any, level_offsets: Any = None, root: Any = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """rules (R, 1 + s) int16, weights (R,) float64, level_offsets (depth + 1,) int64 and root (Q,) float64 on the CPU, or one ValueError."""
    rows, w = _as_array(rules), _as_array(weights)
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
    prior = np.full(Q, 1 / Q) if root is None else _as_array(root)
    if prior.shape != (Q,) or prior.dtype.kind != "f" or not (prior >= 0).all() or not abs(prior.sum(dtype=np.float64) - 1) <= 1e-9:
        raise ValueError(
            f"root: want ({Q},) probabilities that sum to 1, got {prior.dtype} of shape {prior.shape}"
            + (f", least {prior.min()}, sum {prior.sum()}" if prior.dtype.kind == "f" and prior.size else "")
        )
    kept = np.array(rows, np.int16, order="C"), np.ascontiguousarray(w), offsets, np.array(prior, np.float64)
    return tuple(torch.from_numpy(part) for part in kept)


def _offsets(level_offsets: Any, R: int, depth: int) -> np.ndarray:
    if level_offsets is None:
        return np.array([0] + [R] * depth, np.int64)
    given = _as_array(level_offsets)
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


def _as_array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
