"""Ops as torch knows them, biasgen::<name>: for calls that are compiled or recorded for a gradient; no other call comes here."""
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from biasgen.ops import _rows


def wanted(*values: Any) -> bool:
    """Whether a call with these arguments goes through the registered op: torch.compile is reading it, or it is recorded for a gradient.

    RuntimeError for dual numbers, whose tangents would be lost.
    """
    if torch.compiler.is_compiling():
        return isinstance(values[0], torch.Tensor)
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    dual = forward_ad._current_level >= 0     # no public name says it, and unpack_dual costs 2 us
    if dual and any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise RuntimeError("forward-mode derivatives are not computed here; use a backward pass, torch.autograd.grad")
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def as_tensor(values: Any) -> torch.Tensor:
    """An array or numbers as a tensor, in the way that torch.compile can read where it does."""
    if torch.compiler.is_compiling() and not isinstance(values, torch.Tensor):
        return torch.as_tensor(values, device="cpu")
    return _rows.as_tensor(values)


def register(name: str, run: Callable, shapes: Callable, *, value: int, keep: Callable, gradient: Callable) -> Callable:
    """biasgen::<name>, which returns a list of tensors. Number `value` of them, (B,) or a scalar,
    has a gradient by the first argument; no other pair has one.

    Where a gradient is wanted by another argument or of another output (which would be a second derivative of that value), and where the
    gradient itself is differentiated, one error says so: nothing is taken for zero that is not.

    Args:
        run: takes tensors, numbers and texts, annotated; returns a list of tensors of its own.
            shapes: the same, without reading a value.
        keep: (arguments, outputs) -> the tensors that gradient wants.
        gradient: (gradient by that output, what was kept) -> gradient by the first argument.
    """
    op = torch.library.custom_op(f"biasgen::{name}", run, mutates_args=())
    op.register_fake(shapes)
    arguments = [argument.name for argument in op._opoverload._schema.arguments]

    # An op of its own, so that its derivative is asked for here; computed in place it would come back as zero without an error.
    def run_backward(by_value: torch.Tensor, by_others: list[torch.Tensor], kept: list[torch.Tensor]) -> torch.Tensor:
        if any(bool(by.any()) for by in by_others):
            raise RuntimeError(f"{name}: only its log-evidence has a gradient; detach() the rest, which would want a second derivative")
        return gradient(by_value, *kept)

    backward = torch.library.custom_op(f"biasgen::{name}_backward", run_backward, mutates_args=())
    backward.register_fake(lambda by_value, by_others, kept: torch.empty_like(kept[0], memory_format=torch.contiguous_format))

    def refuse(context: Any, *_: Any) -> None:
        raise RuntimeError(f"{name}: it has no second derivative here; use create_graph=False, or detach() its gradient")

    backward.register_autograd(refuse)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
        for argument, needed in list(zip(arguments, ctx.needs_input_grad, strict=False))[1:]:
            if needed:
                raise ValueError(f"{argument}: no gradient by it is computed, got a tensor that requires one; detach() it")
        ctx.save_for_backward(*keep(inputs, output))

    def differentiate(
        ctx: Any, by_outputs: list[torch.Tensor | None]
    ) -> tuple[torch.Tensor | None, ...]:
        by_others = [by for i, by in enumerate(by_outputs) if i != value and by is not None]
        return backward(by_outputs[value], by_others, list(ctx.saved_tensors)), *[None] * (len(arguments) - 1)

    op.register_autograd(differentiate, setup_context=setup)
    return op
