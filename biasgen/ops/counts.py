"""How many reference rows lie within a radius of each query, and how all distances are distributed."""
from typing import Any

import numpy as np
import torch

from biasgen._numbers import is_number, is_whole
from biasgen.backends._mode import exact_arithmetic
from biasgen.ops._dispatch import choose
from biasgen.ops._prepared import Prepared, query_of
from biasgen.ops._streamed import Streamed, reference_of
from biasgen.ops.knn import like


@exact_arithmetic()
def range_count(query: Any, reference: Any, radius: float, *, distance: str | None = None) -> Any:
    """(N,) int64: rows of `reference` (M, ...), counted in full, at distance <= radius of each row of `query` (N, ...).

    Args:
        query, reference, distance: as in `knn`; the distances are its to the bit.
        radius: a number.

    Returns NumPy for a NumPy query, else a tensor on its device. Memory: 256 MiB beside the rows.

    Raises:
        As `knn`; ValueError when `radius` is not a number.
    """
    if not is_number(radius):
        raise ValueError(f"radius: want a distance, got {radius!r}")
    prepared = reference_of(reference, distance)
    rows = query_of(query, prepared)
    limits = torch.full((len(rows),), float(radius), dtype=torch.float64, device=rows.device)
    module = _module("range_count", rows, prepared)
    return like(query, sum(module.range_count(rows, block, limits) for _, block in prepared.blocks(rows.device)))


@exact_arithmetic()
def distance_histogram(query: Any, reference: Any, bins: Any, *, distance: str | None = None) -> Any:
    """(B,) int64: pairs of a row of `query` (N, ...) and a row of `reference` (M, ...), counted in full, by their distance.

    Args:
        query, reference, distance: as in `knn`; the distances are its to the bit.
        bins: (B + 1,) ascending edges; all bins are half open but the last, which holds its upper edge (as numpy.histogram has them).
            Or a whole number B where distances are integers: one bin for each of 0 .. B - 1. Pairs outside are not counted.

    Returns NumPy for a NumPy query, else a tensor on its device. Memory: 256 MiB beside the rows.

    Raises:
        As `knn`; ValueError for other bins.
    """
    prepared = reference_of(reference, distance)
    rows = query_of(query, prepared)
    edges = torch.from_numpy(_edges(bins, prepared)).to(rows.device)
    module = _module("distance_histogram", rows, prepared)
    return like(query, sum(module.distance_histogram(rows, block, edges) for _, block in prepared.blocks(rows.device)))


def _edges(bins: Any, prepared: Prepared | Streamed) -> np.ndarray:
    if is_whole(bins):
        if bins < 1 or not prepared.integer:
            raise ValueError(f"bins: want edges, or for integer distances a number of bins of at least 1, got {bins!r}")
        return np.append(np.arange(int(bins), dtype=np.float64), bins - 0.5)  # the last bin is closed and must not hold B
    edges = bins.detach().cpu().numpy() if isinstance(bins, torch.Tensor) else np.asarray(bins)
    if edges.dtype.kind not in "iuf" or edges.ndim != 1 or len(edges) < 2 or not (edges[1:] > edges[:-1]).all():
        raise ValueError(f"bins: want at least two ascending edges, got {bins!r}")
    return edges.astype(np.float64)


def _module(op: str, rows: torch.Tensor, prepared: Prepared | Streamed) -> Any:
    everywhere = rows.device.type == "cpu" or len(prepared.views) > 1  # only the torch backend has both ops there
    backend = "torch" if everywhere else None
    case = {"device": rows.device, "dtype": prepared.dtype, "distance": prepared.distance}
    return choose(op, **case, backend=backend)[1]
