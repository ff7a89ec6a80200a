"""The nearest distinct rows of prepared ones over all views of the query, and the pairs that tie for the smallest value."""
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType

import torch

from biasgen.ops._prepared import Prepared

_PAIRS = 1 << 22  # (query, nearest row) pairs held at a time: 32 MiB


@dataclass(frozen=True, eq=False)
class Nearest:
    """values (N, k), distances before a root, and distinct rows (N, k) int64, by (value, row), each row once; tie_counts (N,): rows, with
    multiplicity, at the smallest value in any view; tie_rows (V, N): distinct rows that each view has at it."""

    values: torch.Tensor
    rows: torch.Tensor
    tie_counts: torch.Tensor
    tie_rows: torch.Tensor


def nearest(module: ModuleType, query: torch.Tensor, prepared: Prepared, k: int, max_memory: int | None = None) -> Nearest:
    """The k nearest distinct rows of query rows (N, F), k <= U, found by the backend `module`.

    Each view is searched by itself: a row among the k nearest by the smallest value over views is among the k nearest of the view that has
    this value, for whatever is before it there is before it by the smallest value, too.
    """
    searched = as_is(prepared)
    found = [module.knn(view, searched, k, max_memory) for view in prepared.seen(query)]
    if len(found) == 1:
        values, rows, tie_rows, tie_counts = found[0]
        return Nearest(values, rows, tie_counts, tie_rows[None])
    values, rows = _each_row_once(*(torch.cat([part[i] for part in found], 1) for i in (0, 1)), k)
    at_least = torch.stack([part[0][:, 0] == values[:, 0] for part in found])
    tie_rows, tie_counts = (torch.where(at_least, torch.stack([part[i] for part in found]), 0) for i in (2, 3))
    tie_counts = tie_counts.amax(0)  # right where one view has the smallest value
    several = (at_least.sum(0) > 1).nonzero()[:, 0]
    if len(several):
        tie_counts[several] = 0
        for queries, tied in ties(module, query[several], prepared, values[several, 0], tie_rows[:, several]):
            tie_counts.index_add_(0, several[queries], prepared.multiplicity[tied])
    return Nearest(values, rows, tie_counts, tie_rows)


def ties(
    module: ModuleType, query: torch.Tensor, prepared: Prepared, smallest: torch.Tensor, tie_rows: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (queries, distinct rows) of the pairs that have the query's smallest value (N,) in any view, each pair once, ascending.

    tie_rows (V, N): as in Nearest. Takes about 8 _PAIRS bytes a tensor.
    """
    searched = as_is(prepared)
    for part in _parts(tie_rows.sum(0)):
        pairs = []
        for view, counts in zip(prepared.seen(query[part]), tie_rows[:, part], strict=True):
            there = counts.nonzero()[:, 0]
            if not len(there):
                continue
            offsets = torch.nn.functional.pad(counts[there].cumsum(0), (1, 0))
            rows = module.rows_within(view[there], searched, smallest[part][there], offsets)
            pairs.append((there.repeat_interleave(counts[there]), rows))
        queries, rows = pairs[0]
        if len(pairs) > 1:
            keys = torch.cat([queries * len(prepared.rows) + rows for queries, rows in pairs]).unique()
            queries, rows = keys // len(prepared.rows), keys % len(prepared.rows)
        yield queries + part.start, rows


def as_is(prepared: Prepared) -> Prepared:
    """The rows as backends search them: before a root, in one view."""
    return replace(prepared.searched, views=("identity",))


def _each_row_once(values: torch.Tensor, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k smallest by (value, row) of (N, V k), each row at its smallest value."""
    order = values.argsort(dim=1, stable=True)
    order = order.gather(1, rows.gather(1, order).argsort(dim=1, stable=True))
    values, rows = values.gather(1, order), rows.gather(1, order)  # by (row, value)
    last = torch.inf if values.is_floating_point() else torch.iinfo(torch.int64).max
    values[:, 1:] = torch.where(rows[:, 1:] == rows[:, :-1], last, values[:, 1:])
    order = values.argsort(dim=1, stable=True)[:, :k]
    return values.gather(1, order), rows.gather(1, order)


def _parts(sizes: torch.Tensor) -> list[slice]:
    """Cut 0..len(sizes) in runs of about _PAIRS in total, at least one element each."""
    run = (sizes.cumsum(0) // _PAIRS).cpu()
    ends = [*((run[1:] != run[:-1]).nonzero()[:, 0] + 1).tolist(), len(sizes)]
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True) if end > start]
