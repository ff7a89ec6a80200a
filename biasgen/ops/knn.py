"""The k nearest reference rows of each query, exactly."""
from numbers import Integral
from typing import Any

import numpy as np
import torch

from biasgen.ops._dispatch import choose
from biasgen.ops._prepared import Prepared, query_of, reference_of
from biasgen.results import Neighbours

MAX_K = 64  # neighbours are kept in a sorted array a query: insertion costs O(k)
_CANDIDATES = 1 << 20  # (distinct row, member) pairs sorted at a time when rows occur more than once: 8 MiB a temporary


def knn(
    query: Any,
    reference: Any,
    k: int = 1,
    *,
    distance: str | None = None,
    backend: str | None = None,
    max_memory: int | None = None,
) -> Neighbours:
    """The k smallest by (distance, index) of every query. Integers, equal on every backend, instruction set and number of threads.

    Args:
        query: (N, ...) array or tensor.
        reference: (M, ...) of the same trailing shape, or anything with `.prepared` (a TrainingSet), which is not prepared again.
        k: neighbours, 1 <= k <= min(M, 64).
        distance: "hamming" (positions that differ; integer tokens 0..255) or "sqeuclidean" (uint8). None: the reference's own, else
            sqeuclidean for uint8 and hamming for other integer types.
        backend: "cpu", "torch"; None: BIASGEN_BACKEND, else the first that can.
        max_memory: bytes for the temporaries of the torch backend, 256 MiB by default. The cpu backend needs M F bytes more at most.

    Returns:
        Neighbours of distances (N, K) int64, indices (N, K) int64, tie_counts (N,) int64: reference rows at the smallest distance;
        NumPy for a NumPy query, else on the query's device. stats: backend, isa, distinct (reference rows searched).

    Raises:
        TypeError: neither array nor tensor. ValueError: wrong element type, shape, token, k, distance or backend.
    """
    prepared = reference_of(reference, distance)
    rows = query_of(query, prepared)
    if not isinstance(k, Integral) or isinstance(k, bool) or not 1 <= k <= min(MAX_K, prepared.n):
        raise ValueError(f"k: want a whole number in 1..{min(MAX_K, prepared.n)} ({prepared.n} reference rows), got {k!r}")
    if max_memory is not None and (not isinstance(max_memory, Integral) or max_memory < 1):
        raise ValueError(f"max_memory: want a positive number of bytes, got {max_memory!r}")
    name, module = choose("knn", device=rows.device.type, dtype="uint8", distance=prepared.distance, backend=backend)
    distances, distinct, _, tie_counts = module.knn(rows, prepared, min(int(k), len(prepared.rows)), max_memory)
    distances, indices = _expand(distances, distinct, prepared, int(k))
    stats = {"backend": name, "isa": module.isa(), "distinct": len(prepared.rows)}
    return Neighbours(*(like(query, values) for values in (distances, indices, tie_counts)), stats)


def like(query: Any, values: torch.Tensor) -> Any:
    """`values` as NumPy if the query is."""
    return values.cpu().numpy() if isinstance(query, np.ndarray) else values


def _expand(distances: torch.Tensor, distinct: torch.Tensor, prepared: Prepared, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest of all rows from the nearest distinct ones.

    Distinct rows are ordered by their first index, so each of the k nearest rows belongs to one of the k nearest distinct rows.
    """
    if k == 1 or len(prepared.rows) == prepared.n:
        return distances, prepared.members[prepared.offsets[distinct]]
    block = max(1, _CANDIDATES // (k * k))
    parts = [_expand_block(*pair, prepared, k) for pair in zip(distances.split(block), distinct.split(block), strict=True)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _expand_block(distances: torch.Tensor, distinct: torch.Tensor, prepared: Prepared, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Up to k members of each distinct row, sorted by (distance, index)."""
    member = torch.arange(k, device=distinct.device)
    present = member < prepared.multiplicity[distinct][..., None]  # (n, K, k)
    at = (prepared.offsets[distinct][..., None] + member).clamp(max=prepared.n - 1)
    indices = torch.where(present, prepared.members[at], prepared.n).flatten(1)
    spread = torch.where(present, distances[..., None], torch.iinfo(torch.int64).max).flatten(1)
    by_index = indices.argsort(dim=1)  # the lesser key first, then a stable sort by the greater one
    order = by_index.gather(1, spread.gather(1, by_index).argsort(dim=1, stable=True)[:, :k])
    return spread.gather(1, order), indices.gather(1, order)
