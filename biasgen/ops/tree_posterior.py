"""Exact posterior of the leaves of a complete tree, by belief propagation."""
from typing import Any

import numpy as np
import torch

from biasgen.backends._mode import exact_arithmetic, is_capturing
from biasgen.ops._dispatch import choose
from biasgen.ops._rows import dtype_name
from biasgen.ops._trees import checked
from biasgen.results import TreePosterior

OUTPUTS = (None, "leaves", "all", "rules")


@exact_arithmetic()
def tree_posterior(
    log_field: Any, rules: Any, weights: Any, level_offsets: Any = None, root: Any = None, *, tokens: Any = None, channels: Any = None,
    temperature: float = 1.0, levels: str | None = "leaves", backend: str | None = None,
) -> TreePosterior:
    """Marginals P(x_i = a | evidence) and the log-evidence, for leaves x derived from a root by rules that replace a symbol by s symbols.

    The posterior is proportional to P(x) exp(sum_i log_field[i, x_i]). Every marginal is right to a relative 1e-5 (below 2^-126 it is
    0), log_z to max(1e-5, 1e-7 L) + 1e-7 |log_z|, for every field; with the cpu backend a sample's bits do not depend on the rest of the
    batch. No gradient is recorded (that of log_z is the marginals).

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
        it. NumPy for NumPy evidence, else on its device.

    Raises:
        TypeError: evidence is neither array nor tensor. ValueError: wrong type, shape, rules, weights, offsets, root, channels,
            temperature, levels or backend; NaN or +inf in the field; a sample whose finite fields spread over more than 2^30 bits, summed
            over the leaves.

    Memory: the result, and about 3 L Q 128 bytes a thread.

    Source: Pearl, Probabilistic Reasoning in Intelligent Systems, 1988; the tree model of arXiv 2603.03469, BP_k of its appendix.
    """
    if levels not in OUTPUTS:
        raise ValueError(f"levels: want {', '.join(map(repr, OUTPUTS))}, got {levels!r}")
    evidence, tree = checked(log_field, tokens, rules, weights, level_offsets, root, channels, temperature)
    batched = evidence.ndim == (3 if evidence.dtype.is_floating_point else 2)
    name, module = choose(
        "tree_posterior", device=evidence.device.type, dtype=dtype_name(evidence, "log_field"), backend=backend, case=(tree, levels)
    )
    if is_capturing(evidence.device) and name != "cuda":
        raise ValueError(f"log_field: only the cuda backend runs while a CUDA graph is captured, got {name}, which reads it on the host")
    out = module.tree_posterior(evidence if batched else evidence[None], tree, levels)
    if isinstance(log_field if tokens is None else tokens, np.ndarray):
        out = [values.numpy() for values in out]
    marginals, log_z, impossible, ruled = (values if batched else values[0] for values in out)
    if levels is None:
        return TreePosterior(None, log_z, impossible)
    if levels == "leaves":
        return TreePosterior(marginals, log_z, impossible)
    shown = dict(zip(tree.levels, _split(marginals, [tree.arity**d for d in tree.levels], -2), strict=True))
    table = [shown.get(d) for d in range(tree.depth + 1)]
    return TreePosterior(table, log_z, impossible, _rule_tables(ruled, tree) if levels == "rules" else None)


def _rule_tables(ruled: Any, tree: Any) -> list[Any]:
    """(..., of all nodes, level by level, the rules) as one table a level; None for levels without rules of their own."""
    counts = [tree.rules_of(d).stop - tree.rules_of(d).start for d in range(tree.depth)]
    parts = _split(ruled, [tree.arity**d * counts[d] for d in range(tree.factorized, tree.depth)], -1)
    tables = [
        part.reshape(*ruled.shape[:-1], tree.arity**d, counts[d]) for d, part in zip(range(tree.factorized, tree.depth), parts, strict=False)
    ]
    return [None] * tree.factorized + tables


def _split(values: Any, sizes: list[int], axis: int) -> list[Any]:
    ends = np.cumsum(sizes)[:-1].tolist()
    return np.split(values, ends, axis) if isinstance(values, np.ndarray) else list(torch.tensor_split(values, ends, axis))
