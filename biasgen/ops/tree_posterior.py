"""Exact posterior of the leaves of a complete tree, by belief propagation."""
from typing import Any

import numpy as np
import torch

from biasgen.backends._mode import exact_arithmetic, is_capturing
from biasgen.ops import _library
from biasgen.ops._dispatch import choose
from biasgen.ops._rows import dtype_name
from biasgen.ops._trees import MASKED, Tree, as_array, as_given, batch_of, checked, level_sizes
from biasgen.results import TreePosterior

OUTPUTS = (None, "leaves", "all", "rules")


def tree_posterior(
    log_field: Any, rules: Any, weights: Any, level_offsets: Any = None, root: Any = None, *, tokens: Any = None, channels: Any = None,
    temperature: float = 1.0, levels: str | None = "leaves", backend: str | None = None,
) -> TreePosterior:
    """Marginals P(x_i = a | evidence) and the log-evidence, for leaves x derived from a root by rules that replace a symbol by s symbols.

    The posterior is proportional to P(x) exp(sum_i log_field[i, x_i]). Every marginal is right to a relative 1e-5 (below 2^-126 it is
    0), log_z to max(1e-5, 1e-7 L) + 1e-7 |log_z|, for every field; with the cpu backend a sample's bits do not depend on the rest of the
    batch. The gradient of log_z by log_field is the marginals of the leaves, over T, and 0 where a token was seen; there is no other (see
    Raises).

    Args:
        log_field: (B, L, Q) or (L, Q) float32 or float64, in nats, L = s, s^2, ... leaves, at most 4096, Q <= 256 symbols; unnormalized.
            -inf excludes a symbol. None: the tokens are all the evidence.
        rules: (R, 1 + s) integers (parent, children), s = 2, 3 or 4, symbols 0 .. Q - 1, none twice in a level. Several parents may have
            the same children.
        weights: (R,) probabilities; those of each parent sum to 1 in each level.
        level_offsets: (depth + 1,) integers: rules level_offsets[d] .. level_offsets[d + 1] - 1 are those of the nodes d levels below the
            root; an empty block stands for that of the level above. None: all rules at every level.
        root: (Q,) probabilities of the root's symbol, which sum to 1. None: uniform.
        tokens: (B, L) or (L,) integers: symbols of the leaves that were seen, -1 where none was: there log_field says what is known. int8
            (int16 where Q > 127) is taken as it lies, without a field.
        channels: (s^k, Q, Q) probabilities, k >= 1, of each node of level k given the root: hangs these nodes on the root, without the
            levels between (TreeGrammar.factorized). None: the whole tree.
        temperature: T > 0: every derivation of leaves from a root, with its evidence, weighs its probability to the power 1 / T.
        levels: None: log_z alone; "leaves"; "all": the marginals of every node; "rules": those, and of every rule at every inner node.
        backend: "cuda", "cpu", "torch"; None: BIASGEN_BACKEND, else the first that can. A CUDA graph can capture the first (docs/gpu.md).

    Returns:
        TreePosterior of marginals (B, L, Q) float32, log_z (B,) float64 in nats (the root's prior included) and impossible (B,) bool:
        evidence that the grammar forbids, with marginals 0 and log_z -inf. levels=None: marginals is None. "all": it is a list of
        depth + 1 tables, (B, s^d, Q) for the nodes d levels below the root, None for levels that `channels` left out. "rules":
        rule_marginals is a list of depth tables, (B, s^d, R_d) for the rules of that level in their order. Without B for evidence without
        it. NumPy where log_field is, or tokens alone are; else on its device.

    Raises:
        TypeError: evidence is neither array nor tensor. ValueError: wrong type, shape, rules, weights, offsets, root, channels,
            temperature, levels or backend; NaN or +inf in the field; a sample whose finite fields spread over more than 2^30 bits, summed
            over the leaves. With a tensor that requires a gradient: ValueError for rules, weights, root or channels; RuntimeError when
            marginals, or a gradient of log_z, are differentiated.

    Memory: the result, and about 3 L Q 128 bytes a thread.

    Source: Pearl, Probabilistic Reasoning in Intelligent Systems, 1988; the tree model of arXiv 2603.03469, BP_k of its appendix.
    """
    if levels not in OUTPUTS:
        raise ValueError(f"levels: want {', '.join(map(repr, OUTPUTS))}, got {levels!r}")
    given, grammar = tokens if log_field is None else log_field, (rules, weights, level_offsets, root, channels)
    if _library.wanted(given, *grammar):
        arguments = _tensors(log_field, tokens, *grammar)
        # A gradient takes the marginals of the leaves, which None would not give.
        found = _registered(*arguments, temperature, levels or "leaves", backend)
        rules, _, level_offsets, _, channels = arguments[2:]
    else:
        found, tree = _computed(log_field, tokens, *grammar, temperature, levels, backend)
        rules, _, level_offsets, _, channels = tree
    marginals, log_z, impossible, ruled = found
    if levels is None:
        return TreePosterior(None, log_z, impossible)
    if levels == "leaves":
        return TreePosterior(marginals, log_z, impossible)
    nodes, counts = level_sizes(rules, level_offsets, channels, given.shape[-1 if log_field is None else -2])
    tables = [table if n else None for n, table in zip(nodes, _split(marginals, nodes, -2), strict=True)]
    return TreePosterior(tables, log_z, impossible, _rule_tables(ruled, nodes[:-1], counts) if levels == "rules" else None)


@exact_arithmetic()
def _computed(
    log_field: Any, tokens: Any, rules: Any, weights: Any, level_offsets: Any, root: Any, channels: Any, temperature: float,
    levels: str | None, backend: str | None,
) -> tuple[list[Any], Tree]:
    """Marginals of what `levels` wants in one table, log_z, impossible, marginals of rules in one table; and the grammar."""
    evidence, tree = checked(log_field, tokens, rules, weights, level_offsets, root, channels, temperature)
    name, module = choose(
        "tree_posterior", device=evidence.device, dtype=dtype_name(evidence, "log_field"), backend=backend, case=(tree, levels)
    )
    if is_capturing(evidence.device) and name != "cuda":
        raise ValueError(f"log_field: only the cuda backend runs while a CUDA graph is captured, got {name}, which reads it on the host")
    return as_given(module.tree_posterior(batch_of(evidence), tree, levels), evidence, log_field, tokens), tree


def _rule_tables(ruled: Any, nodes: list[int], counts: list[int]) -> list[Any]:
    """(..., of all nodes, level by level, the rules) as one table a level; None for levels without rules of their own."""
    parts = _split(ruled, [n * count for n, count in zip(nodes, counts, strict=True)], -1)
    shapes = zip(nodes, counts, parts, strict=True)
    return [part.reshape(*ruled.shape[:-1], n, count) if count else None for n, count, part in shapes]


def _split(values: Any, sizes: list[int], axis: int) -> Any:
    return np.split(values, np.cumsum(sizes)[:-1], axis) if isinstance(values, np.ndarray) else values.split(sizes, axis)


def _tensors(
    log_field: Any, tokens: Any, rules: Any, weights: Any, level_offsets: Any, root: Any, channels: Any
) -> tuple[torch.Tensor | list[int] | None, ...]:
    """The same arguments as _run takes and checks them: tensors; offsets as numbers, which fix shapes where no value can be read."""
    if level_offsets is not None and not torch.compiler.is_compiling():
        offsets = as_array(level_offsets)
        if offsets.ndim != 1 or offsets.dtype.kind not in "iu":
            raise ValueError(f"level_offsets: want (depth + 1,) integers, got {offsets.dtype} of shape {offsets.shape}")
        level_offsets = offsets.tolist()
    evidence, (rules, weights, root, channels) = (
        [None if values is None else _library.as_tensor(values) for values in part]
        for part in ((log_field, tokens), (rules, weights, root, channels))
    )
    return *evidence, rules, weights, level_offsets, root, channels


def _run(
    log_field: torch.Tensor | None,
    tokens: torch.Tensor | None,
    rules: torch.Tensor,
    weights: torch.Tensor,
    level_offsets: list[int] | None,
    root: torch.Tensor | None,
    channels: torch.Tensor | None,
    temperature: float,
    levels: str,
    backend: str | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    found, _ = _computed(log_field, tokens, rules, weights, level_offsets, root, channels, temperature, levels, backend)
    marginals, log_z, impossible, ruled = found
    return marginals, log_z, impossible, ruled if ruled.numel() else ruled.clone()     # where empty it is a part of something else


def _shapes(
    log_field: torch.Tensor | None, tokens: torch.Tensor | None, rules: torch.Tensor, weights: torch.Tensor,
    level_offsets: list[int] | None, root: torch.Tensor | None, channels: torch.Tensor | None, temperature: float, levels: str,
    backend: str | None,
) -> _library.Tensors:
    if log_field is not None:
        like, (*batch, L, Q) = log_field, log_field.shape
    elif root is None:
        raise ValueError("root: want it given beside tokens alone where torch.compile reads the call, got None")
    else:
        like, (*batch, L), Q = tokens, tokens.shape, root.shape[0]
    nodes, counts = level_sizes(rules, level_offsets, channels, L)
    ruled = sum(n * count for n, count in zip(nodes, counts, strict=False)) if levels == "rules" else 0
    shown = (*batch, L if levels == "leaves" else sum(nodes), Q)
    kinds = (shown, torch.float32), (batch, torch.float64), (batch, torch.bool), ((*batch, ruled), torch.float32)
    return tuple(like.new_empty(shape, dtype=dtype) for shape, dtype in kinds)


def _keep(arguments: tuple[Any, ...], outputs: _library.Tensors) -> _library.Tensors:
    """The field, the marginals, and what a leaf's entries say to log_z: 1 / T, nothing where a token stands in their place."""
    log_field, tokens, temperature = arguments[0], arguments[1], arguments[7]
    heard = log_field.new_ones((1, 1), dtype=torch.float64) if tokens is None else (tokens.long() == MASKED).double()[..., None]
    return log_field, outputs[0], heard / temperature


_registered = _library.register(
    "tree_posterior",
    _run,
    _shapes,
    value=1,
    keep=_keep,
    gradient=lambda by_log_z, log_field, marginals, heard: (
        by_log_z[..., None, None] * heard * marginals[..., -log_field.shape[-2] :, :]
    ).to(log_field.dtype),
)
