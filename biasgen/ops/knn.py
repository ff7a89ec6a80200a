"""The k nearest reference rows of each query, exactly."""
from typing import Any, Protocol

import numpy as np
import torch

from biasgen import distances
from biasgen._numbers import check_memory, is_whole
from biasgen.backends._mode import exact_arithmetic, is_capturing, memory_named
from biasgen.backends._values import rooted
from biasgen.ops._dispatch import choose
from biasgen.ops._nearest import nearest
from biasgen.ops._prepared import Prepared, query_of
from biasgen.ops._streamed import Streamed, reference_of
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
        distance: "hamming" (positions that differ; integer tokens 0..65535), or of uint8 or float
            rows "sqeuclidean", "euclidean", "cosine", "cityblock" or another name that
            biasgen/distances.py lists; docs/exactness.md defines their values. None: the
            reference's own, else sqeuclidean for uint8 and floats and hamming for other integers.
        exclude_self: the query is the reference, and row i is not its own neighbour, in no view; then k <= min(M - 1, 63).
        backend: "triton", "cpu", "torch"; None: BIASGEN_BACKEND, else the first that can.
        max_memory: bytes for the temporaries of the torch backend, 256 MiB by default. The cpu backend needs M F bytes more at most.
        progress: its update(queries finished) is called now and then; of a streamed set, by the share of the rows that were searched.

    Returns:
        Neighbours of distances (N, K) float64, int64 where the distance is an integer (hamming; sums
        and maxima of uint8 rows); indices (N, K) int64;
        tie_counts (N,) int64: reference rows at the smallest distance. NumPy for a NumPy query, else on the query's device, or on
        the host where that has no float64 (MPS). stats: backend, isa, device (where it was searched), distinct (reference rows searched).
        Euclidean rows are ordered, and their ties counted, by the square.

    A TrainingSet with views: the distance to a row is the smallest over the views of the query. A streamed one is read once (twice with
    exclude_self), block by block.

    Raises:
        TypeError: neither array nor tensor. ValueError: wrong element type, shape, token, k, distance or backend; a float that is not
        finite or beyond 1e150, with its row; a search that a CUDA graph cannot capture (docs/gpu.md), while one is captured.
        torch.OutOfMemoryError: on a device; it names the size wanted and the max_memory that would do.
    """
    _check_capture(query, reference, exclude_self, backend)
    prepared = reference_of(reference, distance)
    rows = query_of(query, prepared)
    k = _checked_k(k, prepared, exclude_self)
    check_memory(max_memory)
    if exclude_self and len(rows) != prepared.n:
        raise ValueError(f"query: want the {prepared.n} rows of the reference with exclude_self, got {len(rows)}")
    chosen = _call(rows.device, prepared)
    name, module = choose("knn", **chosen, backend=backend)
    found, best, distinct, pairs = k + exclude_self, None, 0, 0
    for start, block in prepared.blocks(rows.device):
        if exclude_self:
            _check_same(rows, block, start)
        parts = []
        for part in rows.split(len(rows) if progress is None else _PROGRESS_ROWS):
            with memory_named(rows.device, bounded=name != "triton" or not block.searched.integer):
                near = nearest(module, part, block, min(found, len(block.rows)), max_memory)
            values, indices = _expand(near.values, near.rows, block, min(found, block.n))
            parts.append((values, indices + start, near.tie_counts))
            pairs += len(part) * block.n
            if progress is not None:
                progress.update(pairs // prepared.n)
        of_block = parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))
        best = of_block if best is None else _merge(best, of_block, found)
        distinct += len(block.rows)
    values, indices, tie_counts = best
    if exclude_self:
        values, indices = _without_self(values, indices)
        alone = tie_counts == 1  # nothing shares the distance of a row to itself, which is 0: count at the next one
        tie_counts -= 1
        if alone.any():
            _, torch_module = choose("range_count", **chosen, backend="torch")
            for _, block in prepared.blocks(rows.device):
                tie_counts[alone] += torch_module.range_count(rows[alone], block.searched, values[alone, 0], max_memory)
            tie_counts[alone] -= 1
    found_distances = rooted(values, prepared.distance)
    stats = {"backend": name, "isa": module.isa(), "device": str(rows.device), "distinct": distinct}
    return Neighbours(*(like(query, values) for values in (found_distances, indices, tie_counts)), stats)


def _check_capture(query: Any, reference: Any, exclude_self: bool, backend: str | None) -> None:
    """ValueError while a CUDA graph records a search which looks at numbers on the host to decide what to do next."""
    if not (isinstance(query, torch.Tensor) and is_capturing(query.device)):
        return
    prepared = getattr(reference, "prepared", None)
    whole = isinstance(prepared, Prepared) and prepared.searched.integer and prepared.views == ("identity",)
    whole = whole and query.dtype == torch.uint8 and not exclude_self
    if not whole or choose("knn", **_call(query.device, prepared), backend=backend)[0] != "triton":
        raise ValueError(
            "query: want uint8 rows, by hamming or (squared) euclidean distance to a TrainingSet of one view, without exclude_self, by the"
            " triton backend, while a CUDA graph is captured: other searches decide on the host what to do next"
        )


def _call(device: torch.device, prepared: Prepared | Streamed) -> dict[str, Any]:
    """What decides which backend searches these rows."""
    ordered_by = distances.get(prepared.distance).ordered_by
    return {"device": device, "dtype": prepared.dtype, "distance": ordered_by}


def like(query: Any, values: torch.Tensor) -> Any:
    """`values` as NumPy if the query is."""
    return values.cpu().numpy() if isinstance(query, np.ndarray) else values


def _checked_k(k: Any, prepared: Prepared | Streamed, exclude_self: bool) -> int:
    largest = min(MAX_K, prepared.n) if not exclude_self else min(MAX_K, prepared.n) - 1
    if not is_whole(k, 1) or k > largest:
        raise ValueError(f"k: want a whole number in 1..{largest} ({prepared.n} reference rows), got {k!r}")
    return int(k)


def _check_same(rows: torch.Tensor, block: Prepared, first: int) -> None:
    """ValueError unless the queries from `first` on are the rows of the block."""
    distinct = torch.empty_like(block.members)
    distinct[block.members] = torch.arange(len(block.rows), device=rows.device).repeat_interleave(block.multiplicity)
    for start in range(0, block.n, _PROGRESS_ROWS):
        at = slice(start, min(start + _PROGRESS_ROWS, block.n))
        differs = (rows[first + at.start : first + at.stop] != block.rows[distinct[at]]).any(1)
        if differs.any():
            row = first + start + int(differs.nonzero()[0])
            raise ValueError(f"query: want the rows of the reference with exclude_self, row {row} differs")


def _merge(first: tuple, second: tuple, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(values, indices, tie_counts) of two runs of rows together; the rows of `first` come before those of `second`."""
    values, indices = torch.cat([first[0], second[0]], 1), torch.cat([first[1], second[1]], 1)
    order = values.argsort(dim=1, stable=True)[:, :k]  # by (value, index): indices ascend among equal values already
    least = torch.minimum(first[0][:, 0], second[0][:, 0])
    tie_counts = sum(torch.where(part[0][:, 0] == least, part[2], 0) for part in (first, second))
    return values.gather(1, order), indices.gather(1, order), tie_counts


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
