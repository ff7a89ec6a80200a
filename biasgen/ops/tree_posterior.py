"""Exact posterior of the leaves of a complete tree, by belief propagation."""

from typing import Any

import numpy as np
import torch

from biasgen.backends._mode import exact_arithmetic, is_capturing
from biasgen.ops import _library
from biasgen.ops._dispatch import choose
from biasgen.ops._evidence import MASKED, as_given, batch_of, checked
from biasgen.ops._rows import dtype_name
from biasgen.ops.tree import Tree, of_tensors
from biasgen.results import TreePosterior, numbers_of


def tree_posterior(
    log_field: Any,
    tree: Tree,
    *,
    tokens: Any = None,
    temperature: float = 1.0,
    levels: str | None = "leaves",
    backend: str | None = None,
) -> TreePosterior:
    """Marginals P(x_i = a | evidence) and the log-evidence, for leaves x derived from a root by
    rules that replace a symbol by s symbols.

    The posterior is proportional to P(x) exp(sum_i log_field[i, x_i]). Every marginal is right to a
    relative 1e-5 (below 2^-126 it is 0), log_z to max(1e-5, 1e-7 L) + 1e-7 |log_z|, for every
    field; with the cpu backend a sample's bits do not depend on the rest of the batch. The gradient
    of log_z by log_field is the marginals of the leaves, over T, and 0 where a token was seen;
    there is no other (see Raises).

    Args:
        log_field: (B, L, Q) or (L, Q) float32 or float64, in nats, for the L leaves and Q symbols
            of the tree; unnormalized. -inf excludes a symbol. None: the tokens are all the
            evidence.
        tree: the grammar, such as TreeGrammar.tree, or Tree.checked(...) of arrays.
        tokens: (B, L) or (L,) integers: symbols of the leaves that were seen, -1 where none was:
            there log_field says what is known. int8 (int16 where Q > 127) is taken as it lies,
            without a field.
        temperature: T > 0: every derivation of leaves from a root, with its evidence, weighs its
            probability to the power 1 / T.
        levels: None: log_z alone; "leaves"; "all": the marginals of every node; "rules": those, and
            of every rule at every inner node.
        backend: "cuda", "cpu", "torch"; None: BIASGEN_BACKEND, else the first that can. A CUDA
            graph can capture the first (docs/gpu.md).

    Returns:
        TreePosterior of marginals (B, L, Q) float32, log_z (B,) float64 in nats (the root's prior
        included) and impossible (B,) bool: evidence that the grammar forbids, with marginals 0 and
        log_z -inf. levels=None: marginals is None. "all": it is a list of depth + 1 tables,
        (B, s^d, Q) for the nodes d levels below the root, None for levels that BP_k leaves out.
        "rules": rule_marginals is a list of depth tables, (B, s^d, R_d) for the rules of that level
        in their order. Without B for evidence without it. NumPy where log_field is, or tokens alone
        are; else on its device.

    Raises:
        TypeError: evidence is neither array nor tensor. ValueError: wrong type, shape, temperature,
            levels or backend; NaN or +inf in the field; a sample whose finite fields spread over
            more than 2^30 bits, summed over the leaves. RuntimeError when marginals, or a gradient
            of log_z, are differentiated.

    Memory: the result, and about 3 L Q 128 bytes a thread.

    Source: Pearl, Probabilistic Reasoning in Intelligent Systems, 1988; the tree model of
    arXiv 2603.03469, BP_k of its appendix.
    """
    if levels not in TreePosterior.LEVELS:
        raise ValueError(
            f"levels: want {', '.join(map(repr, TreePosterior.LEVELS))}, got {levels!r}"
        )
    layout = TreePosterior.layout(tree, levels)
    if _library.wanted(tokens if log_field is None else log_field):
        evidence = [
            None if values is None else _library.as_tensor(values) for values in (log_field, tokens)
        ]
        parts = tree.rules, tree.weights, tree.level_offsets, tree.root, tree.channels
        # A gradient takes the marginals of the leaves, which None would not give.
        tables = _registered(*evidence, *parts, temperature, levels or "leaves", backend)
        found = dict(zip(layout, tables, strict=False))
    else:
        found = vars(_computed(log_field, tokens, tree, temperature, levels, backend))
    shaped = {name: _by_level(found[name], shapes) for name, (_, shapes) in layout.items()}
    return TreePosterior.of(shaped)


@exact_arithmetic()
def _computed(
    log_field: Any,
    tokens: Any,
    tree: Tree,
    temperature: float,
    levels: str | None,
    backend: str | None,
) -> TreePosterior:
    """What `levels` wants, flat, for evidence as it is given."""
    evidence, tree = checked(log_field, tokens, tree, temperature)
    device, dtype = evidence.device, dtype_name(evidence, "log_field")
    case = tree, levels
    name, module = choose("tree_posterior", device=device, dtype=dtype, backend=backend, case=case)
    if is_capturing(evidence.device) and name != "cuda":
        raise ValueError(
            f"log_field: only the cuda backend runs while a CUDA graph is captured, got {name}, "
            "which reads it on the host"
        )
    found = module.tree_posterior(batch_of(evidence), tree, levels)
    tables = {name: table for name, table in vars(found).items() if table is not None}
    given = evidence, log_field, tokens
    return TreePosterior.of({name: as_given(table, *given) for name, table in tables.items()})


def _by_level(table: Any, shapes: Any) -> Any:
    """(..., numbers) as a list of tables of these shapes, None for none; as it is for one shape."""
    if not isinstance(shapes, list):
        return table
    parts = _split(table, [numbers_of(shape) for shape in shapes])
    return [
        None if shape is None else part.reshape(*table.shape[:-1], *shape)
        for shape, part in zip(shapes, parts, strict=True)
    ]


def _split(table: Any, sizes: list[int]) -> Any:
    if isinstance(table, np.ndarray):
        return np.split(table, np.cumsum(sizes)[:-1], -1)
    return table.split(sizes, -1)


def _run(
    log_field: torch.Tensor | None,
    tokens: torch.Tensor | None,
    rules: torch.Tensor,
    weights: torch.Tensor,
    level_offsets: list[int],
    root: torch.Tensor,
    channels: torch.Tensor,
    temperature: float,
    levels: str,
    backend: str | None,
) -> list[torch.Tensor]:
    """The tables of TreePosterior.flat, in its order."""
    tree = of_tensors(rules, weights, level_offsets, root, channels)
    found = _computed(log_field, tokens, tree, temperature, levels, backend)
    return [getattr(found, name) for name in TreePosterior.layout(tree, levels)]


def _shapes(
    log_field: torch.Tensor | None,
    tokens: torch.Tensor | None,
    rules: torch.Tensor,
    weights: torch.Tensor,
    level_offsets: list[int],
    root: torch.Tensor,
    channels: torch.Tensor,
    temperature: float,
    levels: str,
    backend: str | None,
) -> list[torch.Tensor]:
    given = tokens if log_field is None else log_field
    batch = given.shape[: -1 if log_field is None else -2]
    tree = Tree(rules, weights, tuple(level_offsets), root, channels)
    return [
        given.new_empty((*batch, *shape), dtype=getattr(torch, dtype))
        for dtype, shape in TreePosterior.flat(tree, levels).values()
    ]


def _keep(arguments: tuple[Any, ...], outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The field, the marginals, and what a leaf's entries say to log_z: 1 / T, and nothing where a
    token stands in their place."""
    log_field, tokens, temperature = arguments[0], arguments[1], arguments[7]
    heard = log_field.new_ones((1, 1), dtype=torch.float64)
    if tokens is not None:
        heard = (tokens.long() == MASKED).double()[..., None]
    return [log_field, outputs[2], heard / temperature]


def _gradient(
    by_log_z: torch.Tensor, log_field: torch.Tensor, marginals: torch.Tensor, heard: torch.Tensor
) -> torch.Tensor:
    """By the field: the marginals of the leaves, which come last in those of all nodes."""
    leaves = marginals
    if marginals.ndim < log_field.ndim:
        L, Q = log_field.shape[-2:]
        leaves = marginals[..., -L * Q :].reshape(log_field.shape)
    return (by_log_z[..., None, None] * heard * leaves).to(log_field.dtype)


_registered = _library.register(
    "tree_posterior", _run, _shapes, value=0, keep=_keep, gradient=_gradient
)
