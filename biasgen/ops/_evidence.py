"""Evidence about the leaves of a tree as the ops take it: checked, and as one tensor."""

import math
from typing import Any

import numpy as np
import torch

from biasgen._numbers import is_number
from biasgen.ops._rows import as_tensor, dtype_name, widened
from biasgen.ops.tree import Tree

MASKED = -1
"""The token of a leaf that nobody saw."""


def checked(
    log_field: Any, tokens: Any, tree: Tree, temperature: float = 1.0
) -> tuple[torch.Tensor, Tree]:
    """Evidence, contiguous, and the grammar, both at `temperature`; or one error. Evidence is a
    log-field (B, L, Q) or (L, Q), with the tokens written into it where both are given, else tokens
    (B, L) or (L,), int8 (int16 where Q > 127)."""
    if not is_number(temperature) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature: want a finite number above 0, got {temperature}")
    if log_field is None and tokens is None:
        raise ValueError("log_field: want a log-field, tokens or both, got None and None")
    if log_field is not None:
        dtype = dtype_name(log_field, "log_field")
        if dtype not in ("float32", "float64"):
            raise ValueError(f"log_field: want float32 or float64, got {dtype}")
        _check_shape("log_field", log_field, (tree.L, tree.Q))
    if tokens is not None:
        dtype_name(tokens, "tokens")  # TypeError for another kind of object
        _check_shape("tokens", tokens, (tree.L,))
    if tokens is None:
        evidence = as_tensor(log_field).detach()
    elif log_field is None:
        evidence = _checked_tokens(tokens, tree.Q)
    else:
        evidence = _mixed(as_tensor(log_field).detach(), _checked_tokens(tokens, tree.Q))
    if temperature != 1:
        tree = tree.cooled(temperature)
        if evidence.dtype.is_floating_point:
            evidence = _cooled_field(evidence, temperature)
    return evidence.contiguous(), tree


def batch_of(evidence: torch.Tensor) -> torch.Tensor:
    """Evidence with its B, of one sample where it has none."""
    whole = 3 if evidence.dtype.is_floating_point else 2
    return evidence if evidence.ndim == whole else evidence[None]


def as_given(values: torch.Tensor, evidence: torch.Tensor, log_field: Any, tokens: Any) -> Any:
    """A result of batch_of(evidence) as the caller's evidence is: without B where it has none;
    NumPy where log_field is, or tokens alone are."""
    found = values if batch_of(evidence) is evidence else values[0]
    given = tokens if log_field is None else log_field
    return found.numpy() if isinstance(given, np.ndarray) else found


def _check_shape(name: str, given: Any, shape: tuple[int, ...]) -> None:
    """ValueError unless `given` is of this shape, or (B, *shape)."""
    if given.ndim not in (len(shape), len(shape) + 1) or tuple(given.shape[-len(shape) :]) != shape:
        sizes = ", ".join(map(str, shape))
        one = f"({sizes},)" if len(shape) == 1 else f"({sizes})"
        raise ValueError(f"{name}: want (B, {sizes}) or {one}, got {tuple(given.shape)}")


def _checked_tokens(tokens: Any, Q: int) -> torch.Tensor:
    index = widened(as_tensor(tokens))
    if index.dtype.is_floating_point or index.dtype in (torch.bool, torch.uint64):
        raise ValueError(f"tokens: want integers, got {index.dtype}")
    if index.numel():
        low, high = (int(end) for end in torch.aminmax(index))
        if low < MASKED or high >= Q:
            raise ValueError(
                f"tokens: want symbols 0..{Q - 1}, or {MASKED} for a leaf that is masked, "
                f"got {low}..{high}"
            )
    return index.to(torch.int8 if Q <= 127 else torch.int16)


def _mixed(field: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The field, but where a leaf was seen: its token alone."""
    if field.shape[:-1] != tokens.shape:
        raise ValueError(
            f"tokens: want one a leaf of log_field, {tuple(field.shape[:-1])}, "
            f"got {tuple(tokens.shape)}"
        )
    if field.device != tokens.device:
        raise ValueError(
            f"tokens: want them on the device of log_field, {field.device}, got {tokens.device}"
        )
    tokens = tokens[..., None].long()
    sure = torch.full_like(field, -math.inf).scatter_(-1, tokens.clamp(min=0), 0.0)
    return torch.where(tokens == MASKED, field, sure)


def _cooled_field(field: torch.Tensor, temperature: float) -> torch.Tensor:
    cold = field.double() / temperature
    if bool((cold.isinf() & ~field.isinf()).any()):  # -inf would exclude the symbol
        raise ValueError(
            f"temperature: {temperature} is so low that log_field leaves the range of float64"
        )
    return cold
