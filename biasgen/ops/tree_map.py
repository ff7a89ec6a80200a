"""The most probable derivation of a complete tree, given evidence."""
from typing import Any

import numpy as np
import torch

from biasgen.backends._mode import exact_arithmetic
from biasgen.ops._dispatch import choose
from biasgen.ops._rows import dtype_name
from biasgen.ops._trees import as_given, batch_of, checked


@exact_arithmetic()
def tree_map(
    log_field: Any, rules: Any, weights: Any, *, level_offsets: Any = None, root: Any = None, tokens: Any = None, channels: Any = None,
    backend: str | None = None,
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
    evidence, tree = checked(log_field, tokens, rules, weights, level_offsets, root, channels, 1.0)
    dtype = dtype_name(evidence, "log_field")
    _, module = choose(
        "tree_map", device=evidence.device, dtype=dtype, backend=backend, case=(tree, "leaves")
    )
    return tuple(as_given(module.tree_map(batch_of(evidence), tree), evidence, log_field, tokens))
