"""What a model was trained on: rows prepared once, searched often, kept in one file."""
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from biasgen.data.hygiene import describe
from biasgen.data.row_file import alike, read_rows, write_rows
from biasgen.ops._prepared import Prepared, distance_of
from biasgen.ops._rows import as_rows
from biasgen.ops._stream import blocks
from biasgen.ops._streamed import Streamed, prepare_within
from biasgen.ops._views import checked_views
from biasgen.ops.knn import knn
from biasgen.results import Neighbours

_BLOCK_BYTES = 1 << 24     # of rows written together


class TrainingSet:
    """Rows of a training set with their distance. Every `reference=` and `train=` takes one in place of an array.

    Args:
        rows: (M, ...) array or tensor; kept as it is, not copied. Do not change it afterwards: the search has its own copy, unless it is
            streamed.
        distance: name; None: hamming for integer types other than uint8, else sqeuclidean.
        views: ("identity", "hflip") for a model trained with random horizontal flips of rows (H, W), (C, H, W) or (H, W, C): the distance
            of a query to a row is the smaller of those of the query and of its mirror image. Every row counts once.
        max_memory: bytes that the rows may take while they are searched. A set that does not fit, with its copies, is streamed: read and
            prepared in blocks at every search, with the same answers to the bit. None: no limit, but for a memory-mapped array the
            machine's memory, so that maps of up to a quarter of it are prepared whole.

    Raises:
        TypeError: neither array nor tensor. ValueError: wrong element type, shape, token, distance, views or max_memory.

    Memory: the distinct rows, about the same again packed for the cpu backend, 24 bytes a row; memory-mapped rows too are copied, unless
    they are streamed.
    """

    def __init__(
        self, rows: Any, distance: str | None = None, views: Sequence[str] = ("identity",), max_memory: int | None = None
    ) -> None:
        self.prepared: Prepared | Streamed = prepare_within(max_memory, rows, distance, "rows", views)
        self.rows = rows

    @property
    def distance(self) -> str:
        """Name of the distance that every search uses."""
        return self.prepared.distance

    @property
    def views(self) -> tuple[str, ...]:
        """Forms in which the model met each row."""
        return self.prepared.views

    @property
    def streamed(self) -> bool:
        """Whether the rows are read in blocks at every search."""
        return isinstance(self.prepared, Streamed)

    @property
    def distinct(self) -> int:
        """Number of distinct rows; of a streamed set, of rows of different bytes (-0.0 is not 0.0), for which it is read once."""
        return self.description["distinct"] if self.streamed else len(self.prepared.rows)

    @cached_property
    def description(self) -> dict[str, Any]:
        """data.hygiene.describe of the rows, read once, in blocks; a file holds it."""
        return describe(self.rows)

    @property
    def low(self) -> int | float:
        """Smallest value."""
        return self.description["low"]

    @property
    def high(self) -> int | float:
        """Largest value."""
        return self.description["high"]

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return self.description["mean"]

    def __len__(self) -> int:
        return self.prepared.n

    def __repr__(self) -> str:
        held = "streamed" if self.streamed else f"{self.distinct} distinct"
        views = "" if self.views == ("identity",) else f", views {self.views}"
        return f"TrainingSet({len(self)} rows of shape {self.prepared.shape}, {held}, {self.distance}{views})"

    def knn(self, query: Any, k: int = 1, **options: Any) -> Neighbours:
        """The k nearest rows of each query; see biasgen.knn for `options`, errors and the result."""
        return knn(query, self, k, **options)

    def save(self, path: str | Path) -> None:
        """Write rows, distance, views and description to a file whose name ends in .biasgen (layout: data.row_file), whole or not at all.

        The rows are read once, in blocks of 16 MiB.
        """
        self.description = write_rows(path, blocks(self.rows, _BLOCK_BYTES), self.distance, self.views)

    @classmethod
    def load(cls, path: str | Path, name: str = "path", max_memory: int | None = None) -> "TrainingSet":
        """The set that save wrote, its rows memory-mapped and read-only; do not change the file while it is used.

        Every byte is checked, in blocks. ValueError, beginning with `name`, for a file that is missing, cut off, corrupted or of a later
        version.
        """
        rows, header = read_rows(path, name)
        loaded = cls(rows, header["distance"], header["views"], max_memory)
        loaded.description = header["description"]
        return loaded

    @classmethod
    def from_blocks(
        cls,
        parts: Iterable[Any],
        path: str | Path,
        distance: str | None = None,
        views: Sequence[str] = ("identity",),
        max_memory: int | None = None,
    ) -> "TrainingSet":
        """load of the file `path`, to which the rows are written as they come: a set that is never in memory.

        Args:
            parts: iterable of blocks (n, ...), arrays or tensors of one type and shape. Memory: one block.
            path: name that ends in .biasgen; the file appears when it is whole.
            distance, views, max_memory: as of the class.

        Raises:
            As the class; the first block, or the first row of all, that does not fit is named, and no file is left.
        """
        parts = alike(parts, "parts")
        first = next(parts)
        distance = distance_of(first, distance, "parts")
        views = checked_views(views, tuple(first.shape[1:]))
        write_rows(path, _checked(chain([first], parts), distance), distance, views)
        return cls.load(path, max_memory=max_memory)


def _checked(parts: Iterable[Any], distance: str) -> Iterator[Any]:
    """The blocks, each after its rows were found to be what `distance` takes."""
    start = 0
    for block in parts:
        as_rows(block, "parts", distance, start)
        yield block
        start += len(block)
