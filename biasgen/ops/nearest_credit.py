"""How often each reference row is somebody's nearest, ties shared."""
from typing import Any

import numpy as np
import torch

from biasgen import distances
from biasgen._numbers import is_number
from biasgen.backends._mode import exact_arithmetic
from biasgen.backends._values import rooted
from biasgen.ops._dispatch import choose
from biasgen.ops._nearest import nearest, ties
from biasgen.ops._prepared import query_of
from biasgen.ops._streamed import reference_of
from biasgen.ops.knn import like
from biasgen.results import Credit


@exact_arithmetic()
def nearest_credit(
    query: Any, reference: Any, *, distance: str | None = None, within: float | None = None, backend: str | None = None
) -> Credit:
    """weights[j] = sum over queries of 1 / tie_count where reference row j is among the query's nearest.

    Rows count in full: equal rows tie with each other. The sum runs in the order of the queries, so its bits depend on nothing else.
    A streamed TrainingSet is read twice.

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
    if within is not None and (not is_number(within)):
        raise ValueError(f"within: want a distance or None, got {within!r}")
    ordered_by = distances.get(prepared.distance).ordered_by
    case = {"device": rows.device, "dtype": prepared.dtype, "distance": ordered_by}
    _, module = choose("knn", **case, backend=backend)
    smallest, tie_counts, reached = None, None, []
    for _, block in prepared.blocks(rows.device):
        near = nearest(module, rows, block, 1)
        values = near.values[:, 0]
        if smallest is None:
            smallest, tie_counts = values, near.tie_counts
        else:
            least = torch.minimum(smallest, values)
            tie_counts = tie_counts * (smallest == least) + near.tie_counts * (values == least)
            smallest = least
        queries = (values == smallest).nonzero()[:, 0]
        reached.append((queries, values[queries], near.tie_rows[:, queries]))
    found = rooted(smallest, prepared.distance)

    inside = torch.ones_like(found, dtype=torch.bool) if within is None else found <= within
    weights = torch.empty(prepared.n, dtype=torch.float64, device="cpu")
    for (start, block), (queries, values, tie_rows) in zip(prepared.blocks(rows.device), reached, strict=True):
        giving = (values == smallest[queries]) & inside[queries]  # a later block may have come nearer
        queries, tie_rows = queries[giving], tie_rows[:, giving]
        shares = np.zeros(len(block.rows))
        for pair_queries, pair_rows in ties(module, rows[queries], block, smallest[queries], tie_rows):
            credit = 1.0 / tie_counts[queries[pair_queries]].double()
            np.add.at(shares, pair_rows.cpu().numpy(), credit.cpu().numpy())  # one after the other, unlike an atomic or pairwise sum
        weights[start + block.members.cpu()] = torch.from_numpy(shares).repeat_interleave(block.multiplicity.cpu())
    return Credit(*(like(query, values) for values in (weights.to(rows.device), found, tie_counts)))
