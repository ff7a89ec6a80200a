"""The sets of a metric: checked together before any search, and pooled."""

from functools import cached_property
from typing import Any

import numpy as np
import torch

from biasgen import distances
from biasgen._numbers import is_number, is_whole
from biasgen.data.hygiene import ContentDisjoint, contents
from biasgen.data.training_set import TrainingSet
from biasgen.ops._rows import as_tensor, dtype_name, widened
from biasgen.ops._streamed import Streamed, stream
from biasgen.ops.nearest_credit import nearest_credit
from biasgen.results import Credit


def rows_of(rows: Any, name: str) -> np.ndarray | torch.Tensor:
    """The rows of an array, a tensor or a TrainingSet."""
    if isinstance(rows, ContentDisjoint):
        raise ValueError(
            f"{name}: filtered by content, which is for losses only; "
            "repeats are part of the law, nearest-neighbor statistics need them"
        )
    rows = rows.rows if hasattr(rows, "prepared") else rows
    if not isinstance(rows, np.ndarray | torch.Tensor):
        raise TypeError(
            f"{name}: want a NumPy array, a torch tensor or a TrainingSet, "
            f"got {type(rows).__name__}"
        )
    if rows.ndim < 2 or len(rows) == 0:
        raise ValueError(
            f"{name}: want at least one row, shape (rows, ...), got shape {tuple(rows.shape)}"
        )
    return rows


def check_sets(distance: str | None, **sets: Any) -> str:
    """Name of the distance that compares these sets.

    It is `distance`, else the one a TrainingSet was prepared for, else the element type's default.

    ValueError where rows differ in shape or element type, or a TrainingSet was prepared for another
    distance or other views: a set from another pipeline would look like "no bias". Sets that are
    None are left out.
    """
    sets = {name: rows for name, rows in sets.items() if rows is not None}
    first = next(iter(sets))
    reference = rows_of(sets[first], first)
    for name, candidate in sets.items():
        rows = rows_of(candidate, name)
        if tuple(rows.shape[1:]) != tuple(reference.shape[1:]):
            raise ValueError(
                f"{name}: want rows of shape {tuple(reference.shape[1:])} as in {first}, "
                f"got {tuple(rows.shape[1:])}"
            )
        if _kind(rows) != _kind(reference):
            raise ValueError(
                f"{name}: want {dtype_name(reference, first)} rows as in {first}, "
                f"got {dtype_name(rows, name)}"
            )
        prepared_for = (
            getattr(candidate, "distance", None) if hasattr(candidate, "prepared") else None
        )
        if prepared_for is not None and distance is not None and prepared_for != distance:
            raise ValueError(
                f"distance: want {prepared_for!r}, which {name} was prepared for, got {distance!r}"
            )
        distance = distance or prepared_for
    views = views_of(*sets.values())
    for name, candidate in sets.items():
        if hasattr(candidate, "prepared") and candidate.views != views:
            raise ValueError(
                f"views: want {views} of every TrainingSet, as the first has, "
                f"got {candidate.views} of {name}"
            )
    return distances.get(distance or distances.default(dtype_name(reference, first))).name


def check_settings(
    *, permutations: int = 1, alpha: float | None = None, within: float | None = None
) -> None:
    """ValueError for a setting that no test could run with."""
    if not is_whole(permutations, 1):
        raise ValueError(f"permutations: want a whole number of at least 1, got {permutations!r}")
    if alpha is not None and not 0 < alpha < 1:
        raise ValueError(f"alpha: want a share in (0, 1), got {alpha!r}")
    if within is not None and not (is_number(within) and within >= 0):
        raise ValueError(f"within: want a distance >= 0, got {within!r}")


def views_of(*sets: Any) -> tuple[str, ...]:
    """The views that these sets are searched in: those of the first TrainingSet among them."""
    return next((rows.views for rows in sets if hasattr(rows, "prepared")), ("identity",))


class Pool:
    """The rows of two sets, first's first, searched as one reference; on the device of a tensor.

    views: None: those of either set. The rows of a streamed TrainingSet stay where they are, those
    of other sets are copied.
    """

    def __init__(
        self, first: Any, second: Any, distance: str, views: tuple[str, ...] | None = None
    ) -> None:
        self._sets = first, second
        views = views or views_of(first, second)
        block_rows = [
            rows.prepared.block_rows for rows in self._sets if getattr(rows, "streamed", False)
        ]
        if block_rows:
            self.prepared = stream(
                tuple(rows_of(rows, "pool") for rows in self._sets),
                distance,
                "pool",
                views,
                min(block_rows),
            )
        else:
            self.prepared = prepared(_pooled(first, second), distance, views).prepared

    @cached_property
    def first_equal(self) -> np.ndarray:
        """(M,) int64: for each row the index of the first that equals it (a streamed set compares
        bytes, and is read once).
        """
        if isinstance(self.prepared, Streamed):
            return contents(*self.prepared.sources)
        members, offsets = to_numpy(self.prepared.members), to_numpy(self.prepared.offsets)
        first = np.empty_like(members)
        first[members] = np.repeat(members[offsets[:-1]], np.diff(offsets))
        return first


def _pooled(first: Any, second: Any) -> np.ndarray | torch.Tensor:
    parts = [rows_of(first, "first"), rows_of(second, "second")]
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    if tensors:
        return torch.cat([widened(as_tensor(part).to(tensors[0].device)) for part in parts])
    return np.concatenate(parts)


def to_numpy(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """The same numbers as a NumPy array."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values


def prepared(rows: Any, distance: str, views: tuple[str, ...] = ("identity",)) -> Any:
    """`rows` ready to be searched several times: itself, if it is a TrainingSet already."""
    return rows if hasattr(rows, "prepared") else TrainingSet(rows, distance, views)


def pool_credit(gen: Any, pool: Any, distance: str) -> Credit:
    """The credit of the pool's rows for all of `gen`, as NumPy arrays."""
    credit = nearest_credit(rows_of(gen, "gen"), pool, distance=distance)
    return Credit(to_numpy(credit.weights), to_numpy(credit.distances), to_numpy(credit.tie_counts))


def _kind(rows: np.ndarray | torch.Tensor) -> str:
    """Element type, but one for all integers but uint8: tokens, whatever they are stored in."""
    name = dtype_name(rows, "rows")
    return "tokens" if name in distances.TOKENS and name != "uint8" else name
