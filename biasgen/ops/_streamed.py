"""A reference larger than memory: its rows are prepared a block at a time, whenever they are searched."""
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from biasgen import distances
from biasgen._numbers import check_memory
from biasgen.ops._prepared import Prepared, distance_of, of_rows, prepare
from biasgen.ops._rows import as_rows, dtype_name
from biasgen.ops._stream import blocks
from biasgen.ops._upload import Cuda, uploaded
from biasgen.ops._views import checked_views

# How often a search holds the bytes of the rows at most. Whole: converted, distinct, packed for the cpu backend, and float rows once more
# while they are sorted. Block by block: two more, which are read meanwhile, and what the allocator keeps of the last.
_WHOLE, _BLOCKWISE = 4, 8


@dataclass(frozen=True, eq=False)
class Streamed:
    """M rows that are read and prepared in blocks: what Prepared says of its rows, without holding them.

    sources: (m, ...) arrays, tensors or memory maps of one shape, whose rows follow each other; element: the type that they are searched
    in; block_rows: rows of a block. Equal rows of different blocks are searched twice; nothing else differs.
    """

    sources: tuple[Any, ...]
    distance: str
    views: tuple[str, ...]
    element: torch.dtype
    block_rows: int

    @property
    def n(self) -> int:
        """Number of rows, M."""
        return sum(len(rows) for rows in self.sources)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.sources[0].shape[1:])

    @property
    def integer(self) -> bool:
        """Whether distances to these rows are integers."""
        return not self.element.is_floating_point and distances.get(self.distance).integer

    @property
    def dtype(self) -> str:
        """Name of `element`, as backends declare it."""
        return str(self.element).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        rows = self.sources[0]
        return rows.device if isinstance(rows, torch.Tensor) else torch.device("cpu")

    def serves(self, device: torch.device) -> bool:
        """Whether queries on `device` can be searched for: there, or from the host on a GPU."""
        return device == self.device or (self.device.type, device.type) == ("cpu", "cuda")

    def blocks(self, device: torch.device) -> Iterator[tuple[int, Prepared]]:
        """Yield (index of the first row, Prepared on the device of the query) of consecutive runs of the rows."""
        if device == self.device:
            return self._prepared()
        return uploaded(self._prepared(), self.block_rows, math.prod(self.shape) * self.element.itemsize, Cuda(device))

    def _prepared(self) -> Iterator[tuple[int, Prepared]]:
        for start, flat in _checked(self.sources, "rows", self.distance, self.block_rows):
            yield start, of_rows(flat.to(self.element), self.distance, self.shape, self.views, shared=True)


def prepare_within(
    max_memory: int | None, rows: Any, distance: str | None, name: str, views: Any = ("identity",)
) -> Prepared | Streamed:
    """The preparation of rows (M, ...), whole where it and its search fit into max_memory bytes, else in blocks that do.

    max_memory None: no limit, but for a memory map the machine's memory. The rows of a streamed set are checked here, in one pass.
    Errors: as prepare; ValueError for a max_memory that is no positive number or does not hold one row.
    """
    check_memory(max_memory)
    if max_memory is None and isinstance(rows, np.memmap):
        max_memory = _machine_memory()
    distance = distance_of(rows, distance, name)
    if max_memory is None or rows.ndim < 2 or 0 in rows.shape or len(rows) * _row_bytes(rows) * _WHOLE <= max_memory:
        return prepare(rows, distance, name, views)
    block_rows = max_memory // (_BLOCKWISE * _row_bytes(rows))
    if not block_rows:
        raise ValueError(f"max_memory: want at least {_BLOCKWISE * _row_bytes(rows)} bytes, which a row takes, got {max_memory}")
    return stream((rows,), distance, name, views, block_rows)


def stream(sources: tuple[Any, ...], distance: str, name: str, views: Any, block_rows: int) -> Streamed:
    """The rows of all sources, checked: in one pass, unless they are bytes. Errors: as prepare."""
    views = checked_views(views, tuple(sources[0].shape[1:]))
    checked = _checked(sources, name, distance, block_rows)
    bytes_only = {dtype_name(rows, name) for rows in sources} == {"uint8"}
    elements = {next(checked)[1].dtype} if bytes_only else {flat.dtype for _, flat in checked}
    return Streamed(sources, distance, views, max(elements, key=lambda dtype: dtype.itemsize), block_rows)


def reference_of(reference: Any, distance: str | None) -> Prepared | Streamed:
    """What `reference` was prepared as (anything with `.prepared`), or the preparation of an array or tensor.

    ValueError when `distance` is not the one that it was prepared for.
    """
    if not hasattr(reference, "prepared"):
        return prepare_within(None, reference, distance, "reference")
    prepared = reference.prepared
    if distance is not None and distances.get(distance).name != prepared.distance:
        raise ValueError(f"distance: want {prepared.distance!r}, which the reference was prepared for, got {distance!r}")
    return prepared


def _checked(sources: tuple[Any, ...], name: str, distance: str, block_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (index of the first row, rows (m, F) as as_rows gives them) of each block."""
    start = 0
    for rows in sources:
        for block in blocks(rows, block_rows * rows[:1].nbytes):
            yield start, as_rows(block, name, distance, start)
            start += len(block)


def _row_bytes(rows: Any) -> int:
    """Bytes of a row as it is, or as float32 where a narrower float becomes that."""
    size = rows.dtype.itemsize
    return rows[:1].nbytes // size * (max(size, 4) if "float" in str(rows.dtype) else size)


def _machine_memory() -> int:
    """Bytes; more than any set has where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62
