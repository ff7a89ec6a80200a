"""How often each reference row is somebody's nearest, ties shared."""
import math
from numbers import Real
from typing import Any

import numpy as np
import torch

from biasgen.backends._mode import exact_arithmetic
from biasgen.backends._values import rooted
from biasgen.ops._dispatch import choose
from biasgen.ops._prepared import query_of, reference_of
from biasgen.ops.knn import like
from biasgen.results import Credit

_PAIRS = 1 << 22  # (query, nearest row) pairs held at a time: 32 MiB


@exact_arithmetic()
def nearest_credit(
    query: Any, reference: Any, *, distance: str | None = None, within: float | None = None, backend: str | None = None
) -> Credit:
    """weights[j] = sum over queries of 1 / tie_count where reference row j is among the query's nearest.

    Rows count in full: equal rows tie with each other. The sum runs in the order of the queries, so its bits depend on nothing else.

    Args:
        query: (N, ...) array or tensor.
        reference: (M, ...) of the same trailing shape, or anything with `.prepared`.
        distance, backend: as in `knn`.
        within: only queries whose nearest distance is at most this give credit. None: all.

    Returns:
        Credit of weights (M,) float64, distances (N,) as those of `knn`, tie_counts (N,) int64; NumPy for a NumPy query, else tensors.

    Raises:
        As `knn`; ValueError when `within` is not a number.
    """
    prepared = reference_of(reference, distance)
    rows = query_of(query, prepared)
    if within is not None and (not isinstance(within, Real) or math.isnan(within)):
        raise ValueError(f"within: want a distance or None, got {within!r}")
    searched = prepared.searched
    _, module = choose("knn", device=rows.device.type, dtype=prepared.dtype, distance=searched.distance, backend=backend)
    values, _, tie_rows, tie_counts = module.knn(rows, searched, 1)
    values = values[:, 0]
    distances = rooted(values, prepared.distance)

    near = torch.ones_like(distances, dtype=torch.bool) if within is None else distances <= within
    chosen = near.nonzero()[:, 0]
    shares = np.zeros(len(prepared.rows))
    for part in _parts(tie_rows[chosen]):
        ids = chosen[part]
        offsets = torch.nn.functional.pad(tie_rows[ids].cumsum(0), (1, 0))
        nearest = module.rows_within(rows[ids], searched, values[ids], offsets)
        credit = (1.0 / tie_counts[ids].double()).repeat_interleave(tie_rows[ids])
        np.add.at(shares, nearest.cpu().numpy(), credit.cpu().numpy())  # one after the other, unlike an atomic or pairwise sum

    weights = torch.empty(prepared.n, dtype=torch.float64)
    weights[prepared.members.cpu()] = torch.from_numpy(shares).repeat_interleave(prepared.multiplicity.cpu())
    return Credit(*(like(query, values) for values in (weights.to(rows.device), distances, tie_counts)))


def _parts(sizes: torch.Tensor) -> list[slice]:
    """Cut 0..len(sizes) in runs of about _PAIRS in total, at least one element each."""
    run = (sizes.cumsum(0) // _PAIRS).cpu()
    ends = [*((run[1:] != run[:-1]).nonzero()[:, 0] + 1).tolist(), len(sizes)]
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True) if end > start]
