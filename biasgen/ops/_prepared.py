"""The reference side of a search, prepared once: distinct rows, how often each occurs, and where."""
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from biasgen import distances
from biasgen.ops._rows import as_bytes, dtype_name


@dataclass(frozen=True, eq=False)
class Prepared:
    """M rows as U distinct ones.

    rows (U, F) uint8: the distinct rows in order of first appearance. multiplicity (U,) int64. members (M,) int64: original indices,
    those of distinct row u ascending in members[offsets[u] : offsets[u + 1]]; offsets (U + 1,). distance: its name. shape: of one row.
    largest: the largest value in rows. packed: what backends keep, by bits a value; derived from rows, never saved.
    """

    rows: torch.Tensor
    multiplicity: torch.Tensor
    members: torch.Tensor
    offsets: torch.Tensor
    distance: str
    shape: tuple[int, ...]
    largest: int
    packed: dict[int, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of rows in full, M."""
        return len(self.members)


def prepare(rows: Any, distance: str | None = None, name: str = "reference") -> Prepared:
    """Find the distinct rows of (M, ...), by sorting: O(M log M). distance None: the default of the element type.

    Errors: see biasgen.ops._rows.as_bytes; ValueError for an unknown distance. They begin with `name`.
    """
    distance = distances.get(distances.default(dtype_name(rows, name)) if distance is None else distance).name
    flat = as_bytes(rows, name, distance)
    first, members, multiplicity = _groups(flat.cpu().numpy())
    device = flat.device
    offsets = np.concatenate(([0], np.cumsum(multiplicity)))
    return Prepared(
        rows=flat[torch.from_numpy(first).to(device)],
        multiplicity=torch.from_numpy(multiplicity).to(device),
        members=torch.from_numpy(members).to(device),
        offsets=torch.from_numpy(offsets).to(device),
        distance=distance,
        shape=tuple(rows.shape[1:]),
        largest=int(flat.max()),
    )


def reference_of(reference: Any, distance: str | None) -> Prepared:
    """What `reference` was prepared as (anything with `.prepared`), or the preparation of an array or tensor.

    ValueError when `distance` is not the one that it was prepared for.
    """
    if not hasattr(reference, "prepared"):
        return prepare(reference, distance)
    prepared = reference.prepared
    if distance is not None and distances.get(distance).name != prepared.distance:
        raise ValueError(f"distance: want {prepared.distance!r}, which the reference was prepared for, got {distance!r}")
    return prepared


def query_of(query: Any, prepared: Prepared) -> torch.Tensor:
    """`query` (N, ...) as uint8 (N, F) beside the prepared rows. ValueError when shapes or devices differ."""
    rows = as_bytes(query, "query", prepared.distance)
    if tuple(query.shape[1:]) != prepared.shape:
        raise ValueError(f"query: want rows of shape {prepared.shape} as in the reference, got {tuple(query.shape[1:])}")
    device = prepared.rows.device
    if isinstance(query, torch.Tensor) and query.device != device:
        raise ValueError(f"query: want a tensor on {device} as the reference, got {query.device}")
    return rows.to(device)


def _groups(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First index, members and multiplicity of the distinct rows of (M, F) uint8, in order of first appearance."""
    keys = rows.view(np.dtype((np.void, rows.shape[1])))[:, 0]  # compared as strings of bytes
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.concatenate(([True], keys[order[1:]] != keys[order[:-1]])))
    group = np.argsort(order[starts])  # a group's first index is its smallest: the sort is stable
    counts = np.diff(np.append(starts, len(rows)))
    multiplicity = counts[group]
    target = np.repeat(starts[group], multiplicity)  # where each group begins in `order`, then one step a member
    begin = np.repeat(np.cumsum(multiplicity) - multiplicity, multiplicity)
    members = order[target + np.arange(len(rows)) - begin]
    return order[starts][group], members, multiplicity
