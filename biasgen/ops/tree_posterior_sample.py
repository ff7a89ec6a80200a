"""Strings drawn from the exact posterior of a complete tree."""
from typing import Any

import numpy as np
import torch

from biasgen.backends._mode import exact_arithmetic
from biasgen.ops import philox
from biasgen.ops._dispatch import choose
from biasgen.ops._rows import dtype_name
from biasgen.ops.tree_posterior import checked


@exact_arithmetic()
def tree_posterior_sample(
    log_field: Any, rules: Any, weights: Any, n: int, *, level_offsets: Any = None, root: Any = None, seed: int = 0,
    backend: str | None = None,
) -> np.ndarray | torch.Tensor:
    """n independent strings from each posterior P(x) exp(sum_i log_field[i, x_i]), whole strings: not leaf by leaf.

    String k of row b draws the numbers of sample b, step k, purpose POSTERIOR (ops/philox.py): 0 for the root, 1 + i for node i in level
    order, by inverse distribution function over the symbols or rules in their order. So a string depends on its row, seed, b and k alone;
    backends agree but where a number lies within rounding (1e-5) of a step.

    Args: log_field, rules, weights, level_offsets, root, backend as for tree_posterior. n: strings a row. seed: in [0, 2**64).
    Returns: (B, n, L) int8 (int16 where Q > 127), (n, L) for an (L, Q) field; -1 where the grammar forbids the evidence. NumPy for a NumPy field, else on the
        field's device.
    Raises: TypeError, ValueError as tree_posterior; ValueError for n < 0.
    """
    if n < 0:
        raise ValueError(f"n: want a number of strings >= 0, got {n}")
    philox.check(seed, n=n)
    field, *grammar = checked(log_field, rules, weights, level_offsets, root)
    batched = field if field.ndim == 3 else field[None]
    dtype = dtype_name(field, "log_field")
    _, module = choose("tree_posterior_sample", device=field.device.type, dtype=dtype, backend=backend, case=(*grammar, "leaves"))

    def numbers(start: int, stop: int) -> torch.Tensor:
        """(stop - start, n, L) float64: those of rows start..stop."""
        rows, length = stop - start, field.shape[-2]
        drawn = [philox.uniforms(seed, n=rows, count=length, offset=start, step=k, purpose=philox.POSTERIOR) for k in range(n)]
        return torch.from_numpy(np.stack(drawn, 1) if n else np.empty((rows, 0, length))).to(field.device)

    strings = module.tree_posterior_sample(batched, *grammar, n, seed, numbers)
    strings = strings if field.ndim == 3 else strings[0]
    return strings.numpy() if isinstance(log_field, np.ndarray) else strings
