"""What a model was trained on: rows prepared once, searched often, kept in one file."""
from functools import cached_property
from pathlib import Path
from typing import Any

from biasgen.data.hygiene import describe
from biasgen.data.row_file import read_rows, write_rows
from biasgen.ops._prepared import Prepared, prepare
from biasgen.ops.knn import knn
from biasgen.results import Neighbours


class TrainingSet:
    """Rows of a training set with their distance. Every `reference=` and `train=` takes one in place of an array.

    Args:
        rows: (M, ...) array or tensor; kept as it is, not copied. Do not change it afterwards: the search has its own copy.
        distance: name; None: hamming for integer types other than uint8, else sqeuclidean.

    Raises:
        TypeError: neither array nor tensor. ValueError: wrong element type, shape, token or distance.

    Memory: the distinct rows, about the same again packed for the cpu backend, 24 bytes a row; memory-mapped rows too are copied.
    """

    def __init__(self, rows: Any, distance: str | None = None) -> None:
        self.prepared: Prepared = prepare(rows, distance, name="rows")
        self.rows = rows

    @property
    def distance(self) -> str:
        """Name of the distance that every search uses."""
        return self.prepared.distance

    @property
    def distinct(self) -> int:
        """Number of distinct rows."""
        return len(self.prepared.rows)

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
        return f"TrainingSet({len(self)} rows of shape {self.prepared.shape}, {self.distinct} distinct, {self.distance})"

    def knn(self, query: Any, k: int = 1, **options: Any) -> Neighbours:
        """The k nearest rows of each query; see biasgen.knn for `options`, errors and the result."""
        return knn(query, self, k, **options)

    def save(self, path: str | Path) -> None:
        """Write rows, distance and description to a file whose name ends in .biasgen (layout: data.row_file), whole or not at all."""
        write_rows(path, self.rows, self.distance, self.description)

    @classmethod
    def load(cls, path: str | Path, name: str = "path") -> "TrainingSet":
        """The set that save wrote, its rows memory-mapped and read-only; do not change the file while it is used.

        Every byte is checked. ValueError, beginning with `name`, for a file that is missing, cut off, corrupted or of a later version.
        """
        rows, header = read_rows(path, name)
        loaded = cls(rows, header["distance"])
        loaded.description = header["description"]
        return loaded
