"""Strings drawn from the exact posterior of a complete tree."""

from typing import Any

import numpy as np
import torch

from biasgen._numbers import is_whole
from biasgen.backends._mode import exact_arithmetic
from biasgen.ops import philox
from biasgen.ops._dispatch import choose
from biasgen.ops._evidence import as_given, batch_of, checked
from biasgen.ops._rows import dtype_name
from biasgen.ops.tree import Tree


@exact_arithmetic()
def tree_posterior_sample(
    log_field: Any,
    tree: Tree,
    n: int,
    *,
    tokens: Any = None,
    temperature: float = 1.0,
    seed: int = 0,
    backend: str | None = None,
) -> np.ndarray | torch.Tensor:
    """n independent strings from each posterior P(x) exp(sum_i log_field[i, x_i]), whole strings: not leaf by leaf.

    String k of row b draws the numbers of sample b, step k, purpose POSTERIOR (ops/philox.py): 0
    for the root, then, level by level, one for each node that is expanded (for BP_k, whose nodes of
    level k hang on the root, first one for each of these), by inverse distribution function over
    the symbols or rules in their order. So a string depends on its row, seed, b and k alone;
    backends agree but where a number lies within rounding (1e-5) of a step.

    Args: log_field, tree, tokens, temperature, backend as for tree_posterior. n: strings a row.
        seed: in [0, 2**64).
    Returns: (B, n, L) int8 (int16 where Q > 127), (n, L) for evidence without B; -1 where the
        grammar forbids the evidence. NumPy where log_field is, or tokens alone are; else on its
        device.
    Raises: TypeError, ValueError as tree_posterior; ValueError for n < 0."""
    if not is_whole(n, 0):
        raise ValueError(f"n: want a number of strings >= 0, got {n}")
    philox.check(seed, n=n)
    evidence, tree = checked(log_field, tokens, tree, temperature)
    dtype = dtype_name(evidence, "log_field")
    _, module = choose(
        "tree_posterior_sample",
        device=evidence.device,
        dtype=dtype,
        backend=backend,
        case=(tree, "leaves"),
    )

    def numbers(start: int, stop: int) -> torch.Tensor:
        """(stop - start, n, draws) float64: those of rows start..stop."""
        rows = stop - start
        drawn = [
            philox.uniforms(
                seed, n=rows, count=tree.draws, offset=start, step=k, purpose=philox.POSTERIOR
            )
            for k in range(n)
        ]
        return torch.from_numpy(np.stack(drawn, 1) if n else np.empty((rows, 0, tree.draws))).to(
            evidence.device
        )

    strings = module.tree_posterior_sample(batch_of(evidence), tree, n, seed, numbers)
    return as_given(strings, evidence, log_field, tokens)
