"""The most probable derivation of a complete tree, given evidence."""

from typing import Any

import numpy as np
import torch

from biasgen.backends._mode import exact_arithmetic
from biasgen.ops._dispatch import choose
from biasgen.ops._evidence import as_given, batch_of, checked
from biasgen.ops._rows import dtype_name
from biasgen.ops.tree import Tree


@exact_arithmetic()
def tree_map(
    log_field: Any, tree: Tree, *, tokens: Any = None, backend: str | None = None
) -> tuple[np.ndarray | torch.Tensor, np.ndarray | torch.Tensor]:
    """The leaves of the derivation (root and rules) with the largest P(derivation) exp(sum_i log_field[i, x_i]): maximum a posteriori.

    Where the grammar is unambiguous this is the most probable string; else a string's other derivations are not added. Among derivations
    whose probabilities are equal the one with the lowest root wins, then the rule that comes first, from the root down.

    Args: as for tree_posterior.
    Returns: (tokens (B, L) int8, int16 where Q > 127, -1 where the grammar forbids the evidence; log_p (B,) float64, the logarithm of that
        largest value, nats, -inf there), detached. Without B for evidence without it. NumPy where log_field is, or tokens alone are; else
        on its device.
    Raises: TypeError, ValueError as tree_posterior.
    Source: Viterbi, IEEE Trans. Inf. Theory 13, 1967, on a tree.
    """
    evidence, tree = checked(log_field, tokens, tree)
    dtype = dtype_name(evidence, "log_field")
    case = tree, "leaves"
    _, module = choose(
        "tree_map", device=evidence.device, dtype=dtype, backend=backend, case=case
    )
    strings, log_p = module.tree_map(batch_of(evidence), tree)
    given = evidence, log_field, tokens
    return as_given(strings, *given), as_given(log_p, *given)
