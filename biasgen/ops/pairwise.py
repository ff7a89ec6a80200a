"""The distances of all pairs of two sets: for small ones."""
from typing import Any

import numpy as np
import torch

from biasgen.backends._mode import exact_arithmetic
from biasgen.ops._dispatch import choose
from biasgen.ops._prepared import query_of
from biasgen.ops._streamed import reference_of
from biasgen.ops.knn import like


@exact_arithmetic()
def pairwise_distances(query: Any, reference: Any, *, distance: str | None = None, out: Any = None) -> Any:
    """(N, M) distances between the rows of `query` (N, ...) and of `reference` (M, ...), exact as in `knn`.

    Args:
        query, reference, distance: as in `knn`.
        out: array or tensor (N, M), of the kind and on the device of the query, that is filled and returned; float64, or int64 where
            `knn` returns int64.

    Returns NumPy for a NumPy query, else a tensor on its device. Memory: 8 N M bytes (none with `out`) and 256 MiB.

    Raises:
        As `knn`; TypeError or ValueError for an `out` of another kind, type, shape or device, or one that may not be written.
    """
    prepared = reference_of(reference, distance)
    rows = query_of(query, prepared)
    shape, dtype = (len(rows), prepared.n), torch.int64 if prepared.integer else torch.float64
    table = torch.empty(shape, dtype=dtype, device=rows.device) if out is None else _checked_out(out, query, rows.device, shape, dtype)
    _, module = choose(
        "pairwise_distances", device=rows.device, dtype=prepared.dtype, distance=prepared.distance, backend="torch"
    )
    for start, block in prepared.blocks(rows.device):
        module.pairwise_distances(rows, block, table[:, start : start + block.n])
    return like(query, table) if out is None else out


def _checked_out(out: Any, query: Any, device: torch.device, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """`out` as a tensor that shares its memory."""
    kind = np.ndarray if isinstance(query, np.ndarray) else torch.Tensor
    if not isinstance(out, kind):
        raise TypeError(f"out: want {'a NumPy array' if kind is np.ndarray else 'a torch tensor'} as the query, got {type(out).__name__}")
    name = str(dtype).removeprefix("torch.")
    if tuple(out.shape) != shape or str(out.dtype).removeprefix("torch.") != name:
        raise ValueError(f"out: want {name} of shape {shape}, got {out.dtype} of shape {tuple(out.shape)}")
    if isinstance(out, torch.Tensor):
        if out.device != device:
            raise ValueError(f"out: want a tensor on {device} as the distances, got {out.device}")
        return out.detach()
    if not out.flags.writeable or any(step < 0 for step in out.strides):
        raise ValueError("out: want an array that may be written, without negative strides")
    return torch.from_numpy(out)
