"""The k nearest reference rows of each query, exactly."""
from numbers import Integral
from typing import Any, Protocol

import numpy as np
import torch

from biasgen.backends._mode import exact_arithmetic
from biasgen.backends._values import rooted
from biasgen.ops._dispatch import choose
from biasgen.ops._prepared import Prepared, query_of, reference_of
from biasgen.results import Neighbours

MAX_K = 64  # neighbours are kept in a sorted array a query: insertion costs O(k)
_CANDIDATES = 1 << 20  # (distinct row, member) pairs sorted at a time when rows occur more than once: 8 MiB a temporary
_PROGRESS_ROWS = 4096  # queries between two updates of a progress bar


class Bar(Protocol):
    """What shows progress, such as biasgen._progress.Progress."""

    def update(self, done: int) -> None:
        """`done` queries are finished."""


@exact_arithmetic()
def knn(
    query: Any,
    reference: Any,
    k: int = 1,
    *,
    distance: str | None = None,
    exclude_self: bool = False,
    backend: str | None = None,
    max_memory: int | None = None,
    progress: Bar | None = None,
) -> Neighbours:
    """The k smallest by (distance, index) of every query, equal to the bit on every backend, instruction set and number of threads.

    Args:
        query: (N, ...) array or tensor.
        reference: (M, ...) of the same trailing shape, or anything with `.prepared` (a TrainingSet), which is not prepared again.
        k: neighbours, 1 <= k <= min(M, 64).
        distance: "hamming" (positions that differ; integer tokens 0..255), or of uint8 or float rows "sqeuclidean", "euclidean",
            "cosine", "correlation", "cityblock"; docs/exactness.md defines their values. None: the reference's own, else sqeuclidean
            for uint8 and floats and hamming for other integer types.
        exclude_self: the query is the reference, and row i is not its own neighbour; then k <= min(M - 1, 63).
        backend: "triton", "cpu", "torch"; None: BIASGEN_BACKEND, else the first that can.
        max_memory: bytes for the temporaries of the torch backend, 256 MiB by default. The cpu backend needs M F bytes more at most.
        progress: its update(queries finished) is called now and then.

    Returns:
        Neighbours of distances (N, K) float64, int64 for hamming and for sqeuclidean and cityblock of uint8 rows; indices (N, K) int64;
        tie_counts (N,) int64: reference rows at the smallest distance. NumPy for a NumPy query, else on the query's device. stats:
        backend, isa, distinct (reference rows searched). Euclidean rows are ordered, and their ties counted, by the square.

    Raises:
        TypeError: neither array nor tensor. ValueError: wrong element type, shape, token, k, distance or backend; a float that is not
        finite or beyond 1e150, with its row.
    """
    prepared = reference_of(reference, distance)
    rows = query_of(query, prepared)
    k = _checked_k(k, prepared, exclude_self)
    if max_memory is not None and (not isinstance(max_memory, Integral) or max_memory < 1):
        raise ValueError(f"max_memory: want a positive number of bytes, got {max_memory!r}")
    if exclude_self:
        _check_same(rows, prepared)
    searched = prepared.searched
    chosen = {"device": rows.device.type, "dtype": prepared.dtype, "distance": searched.distance, "backend": backend}
    name, module = choose("knn", **chosen)
    found = k + exclude_self
    parts, done = [], 0
    for part in rows.split(len(rows) if progress is None else _PROGRESS_ROWS):
        parts.append(module.knn(part, searched, min(found, len(prepared.rows)), max_memory))
        done += len(part)
        if progress is not None:
            progress.update(done)
    values, distinct, _, tie_counts = (torch.cat(column) for column in zip(*parts, strict=True))
    values, indices = _expand(values, distinct, prepared, found)
    if exclude_self:
        values, indices = _without_self(values, indices)
        alone = tie_counts == 1  # nothing shares the distance of a row to itself, which is 0: count at the next one
        tie_counts -= 1
        if alone.any():
            _, torch_module = choose("range_count", **(chosen | {"backend": "torch"}))
            tie_counts[alone] = torch_module.range_count(rows[alone], searched, values[alone, 0], max_memory) - 1
    distances = rooted(values, prepared.distance)
    stats = {"backend": name, "isa": module.isa(), "distinct": len(prepared.rows)}
    return Neighbours(*(like(query, values) for values in (distances, indices, tie_counts)), stats)


def like(query: Any, values: torch.Tensor) -> Any:
    """`values` as NumPy if the query is."""
    return values.cpu().numpy() if isinstance(query, np.ndarray) else values


def _checked_k(k: Any, prepared: Prepared, exclude_self: bool) -> int:
    largest = min(MAX_K, prepared.n) if not exclude_self else min(MAX_K, prepared.n) - 1
    if not isinstance(k, Integral) or isinstance(k, bool) or not 1 <= k <= largest:
        raise ValueError(f"k: want a whole number in 1..{largest} ({prepared.n} reference rows), got {k!r}")
    return int(k)


def _check_same(rows: torch.Tensor, prepared: Prepared) -> None:
    """ValueError unless the queries are the reference, row by row."""
    if len(rows) != prepared.n:
        raise ValueError(f"query: want the {prepared.n} rows of the reference with exclude_self, got {len(rows)}")
    distinct = torch.empty_like(prepared.members)
    distinct[prepared.members] = torch.arange(len(prepared.rows), device=rows.device).repeat_interleave(prepared.multiplicity)
    for start in range(0, len(rows), _PROGRESS_ROWS):
        at = slice(start, start + _PROGRESS_ROWS)
        differs = (rows[at] != prepared.rows[distinct[at]]).any(1)
        if differs.any():
            raise ValueError(f"query: want the rows of the reference with exclude_self, row {start + int(differs.nonzero()[0])} differs")


def _without_self(values: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, k) of (N, k + 1): without index n in row n, or without the last where more than k others are at distance 0 before it."""
    kept = indices != torch.arange(len(indices), device=indices.device)[:, None]
    kept[:, -1] &= ~kept.all(1)
    return values[kept].reshape(len(values), -1), indices[kept].reshape(len(values), -1)


def _expand(values: torch.Tensor, distinct: torch.Tensor, prepared: Prepared, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest of all rows from the nearest distinct ones.

    Distinct rows are ordered by their first index, so each of the k nearest rows belongs to one of the k nearest distinct rows.
    """
    if k == 1 or len(prepared.rows) == prepared.n:
        return values, prepared.members[prepared.offsets[distinct]]
    block = max(1, _CANDIDATES // (k * k))
    parts = [_expand_block(*pair, prepared, k) for pair in zip(values.split(block), distinct.split(block), strict=True)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _expand_block(values: torch.Tensor, distinct: torch.Tensor, prepared: Prepared, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Up to k members of each distinct row, sorted by (value, index)."""
    member = torch.arange(k, device=distinct.device)
    present = member < prepared.multiplicity[distinct][..., None]  # (n, K, k)
    at = (prepared.offsets[distinct][..., None] + member).clamp(max=prepared.n - 1)
    indices = torch.where(present, prepared.members[at], prepared.n).flatten(1)
    last = torch.inf if values.is_floating_point() else torch.iinfo(torch.int64).max
    spread = torch.where(present, values[..., None], last).flatten(1)
    by_index = indices.argsort(dim=1)  # the lesser key first, then a stable sort by the greater one
    order = by_index.gather(1, spread.gather(1, by_index).argsort(dim=1, stable=True)[:, :k])
    return spread.gather(1, order), indices.gather(1, order)
