"""Exact posterior of the leaves of a complete binary tree, by belief propagation."""
from typing import Any

import numpy as np
import torch

from biasgen.backends._mode import exact_arithmetic, is_capturing
from biasgen.ops import _library
from biasgen.ops._dispatch import choose
from biasgen.ops._rows import as_tensor, dtype_name
from biasgen.results import TreePosterior

MAX_DEPTH = 10
MAX_SYMBOLS = 64


def tree_posterior(log_field: Any, rules: Any, weights: Any, *, backend: str | None = None) -> TreePosterior:
    """Marginals P(x_i = a | field) and the log-evidence, for leaves x derived from a uniform root by the same rules at every level.

    The posterior is proportional to P(x) exp(sum_i log_field[i, x_i]). Every marginal is right to a relative 1e-5 (below 2^-126 it is
    0), log_z to max(1e-5, 1e-7 L) + 1e-7 |log_z|, for every field; with the cpu backend a sample's bits do not depend on the rest of the
    batch. The gradient of log_z by log_field is the marginals, exactly; there is no other (see Raises).

    Args:
        log_field: (B, L, Q) or (L, Q) float32 or float64, in nats, L = 2, 4, ... 1024 leaves, Q <= 64 symbols; unnormalized. -inf
            excludes a symbol.
        rules: (R, 3) integers (parent, left, right), symbols 0 .. Q - 1, none twice.
        weights: (R,) probabilities; those of each parent sum to 1.
        backend: "cuda", "cpu", "torch"; None: BIASGEN_BACKEND, else the first that can. A CUDA graph can capture the first (docs/gpu.md).

    Returns:
        TreePosterior of marginals (B, L, Q) float32, log_z (B,) float64 in nats (the root's -log Q included) and impossible (B,) bool:
        evidence that the grammar forbids, with marginals 0 and log_z -inf. Without B for an (L, Q) field. NumPy for a NumPy field, else
        on the field's device.

    Raises:
        TypeError: log_field is neither array nor tensor. ValueError: wrong type, shape, rules, weights or backend; NaN or +inf in the
            field; a sample whose finite fields spread over more than 2^30 bits, summed over the leaves. With a tensor that requires a
        gradient: ValueError for rules or weights; RuntimeError when the marginals, or a gradient of log_z, are differentiated.

    Source: Pearl, Probabilistic Reasoning in Intelligent Systems, 1988; the tree model of arXiv 2603.03469.
    """
    if _library.wanted(log_field, rules, weights):
        return TreePosterior(*_registered(*map(_library.as_tensor, (log_field, rules, weights)), backend))
    return _computed(log_field, rules, weights, backend)


@exact_arithmetic()
def _computed(log_field: Any, rules: Any, weights: Any, backend: str | None) -> TreePosterior:
    field, rules, weights = checked(log_field, rules, weights)
    batched = field.ndim == 3
    name, module = choose("tree_posterior", device=field.device.type, dtype=dtype_name(field, "log_field"), backend=backend)
    if is_capturing(field.device) and name != "cuda":
        raise ValueError(f"log_field: only the cuda backend runs while a CUDA graph is captured, got {name}, which reads it on the host")
    out = module.tree_posterior(field if batched else field[None], rules, weights)
    if isinstance(log_field, np.ndarray):
        out = [values.numpy() for values in out]
    return TreePosterior(*(values if batched else values[0] for values in out))


def checked(log_field: Any, rules: Any, weights: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log_field as a contiguous tensor, rules (R, 3) int16 and weights (R,) float64 on the CPU, or one error."""
    dtype = dtype_name(log_field, "log_field")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"log_field: want float32 or float64, got {dtype}")
    shape = tuple(log_field.shape)
    if len(shape) not in (2, 3) or shape[-2] not in [2**d for d in range(1, MAX_DEPTH + 1)] or not 1 <= shape[-1] <= MAX_SYMBOLS:
        raise ValueError(
            f"log_field: want (B, L, Q) or (L, Q) with L = 2, 4, ... {2**MAX_DEPTH} and Q <= {MAX_SYMBOLS}, got shape {shape}"
        )
    return as_tensor(log_field).detach().contiguous(), *_grammar(rules, weights, shape[-1])


def _grammar(rules: Any, weights: Any, Q: int) -> tuple[torch.Tensor, torch.Tensor]:
    """rules (R, 3) int16 and weights (R,) float64 on the CPU, or one ValueError."""
    rows, w = _as_array(rules), _as_array(weights)
    if rows.ndim != 2 or rows.shape[1] != 3 or len(rows) == 0 or rows.dtype.kind not in "iu":
        raise ValueError(f"rules: want (R, 3) integers (parent, left, right), got {rows.dtype} of shape {rows.shape}")
    if w.shape != (len(rows),) or w.dtype.kind != "f":
        raise ValueError(f"weights: want ({len(rows)},) floats, one a rule, got {w.dtype} of shape {w.shape}")
    outside = np.argwhere((rows < 0) | (rows >= Q))
    if len(outside):
        r = outside[0, 0]
        raise ValueError(f"rules: want symbols 0..{Q - 1}, got {rows[r].tolist()} in row {r}")
    codes = (rows[:, 0].astype(np.int64) * Q + rows[:, 1]) * Q + rows[:, 2]
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"rules: want each rule once, got {rows[first[counts > 1][0]].tolist()} {counts.max()} times")
    w = w.astype(np.float64)
    bad = np.flatnonzero(~((w >= 0) & (w < np.inf)))
    if len(bad):
        raise ValueError(f"weights: want finite numbers >= 0, got {w[bad[0]]} in row {bad[0]}")
    present = np.bincount(rows[:, 0].astype(np.int64), minlength=Q)
    if not present.all():
        raise ValueError(f"rules: want at least one rule for each of the {Q} symbols, got none with parent {present.argmin()}")
    totals = np.bincount(rows[:, 0].astype(np.int64), w, Q)
    worst = abs(totals - 1).argmax()
    if abs(totals[worst] - 1) > 1e-9:
        raise ValueError(f"weights: want a sum of 1 over the rules of each parent, got {totals[worst]} for parent {worst}")
    return torch.from_numpy(np.array(rows, np.int16, order="C")), torch.from_numpy(np.ascontiguousarray(w))


def _as_array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _run(
    log_field: torch.Tensor, rules: torch.Tensor, weights: torch.Tensor, backend: str | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    found = _computed(log_field, rules, weights, backend)
    return found.marginals, found.log_z, found.impossible


def _shapes(log_field: torch.Tensor, rules: torch.Tensor, weights: torch.Tensor, backend: str | None) -> _library.Tensors:
    batch = log_field.shape[:-2]
    kinds = (log_field.shape, torch.float32), (batch, torch.float64), (batch, torch.bool)
    return tuple(log_field.new_empty(shape, dtype=dtype) for shape, dtype in kinds)


_registered = _library.register(
    "tree_posterior",
    _run,
    _shapes,
    value=1,
    keep=lambda arguments, outputs: (arguments[0], outputs[0]),
    gradient=lambda by_log_z, log_field, marginals: (by_log_z[..., None, None] * marginals).to(log_field.dtype),
)
