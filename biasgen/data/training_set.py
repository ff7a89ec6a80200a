"""What a model was trained on: rows prepared once, searched often."""
from typing import Any

from biasgen.ops._prepared import Prepared, prepare
from biasgen.ops.knn import knn
from biasgen.results import Neighbours


class TrainingSet:
    """Rows of a training set with their distance. Every `reference=` and `train=` takes one in place of an array.

    Args:
        rows: (M, ...) array or tensor; kept as it is, not copied. Do not change it afterwards: the search has its own copy.
        distance: "hamming" or "sqeuclidean"; None: sqeuclidean for uint8, hamming for other integer types.

    Raises:
        TypeError: neither array nor tensor. ValueError: wrong element type, shape, token or distance.

    Memory: the distinct rows at one byte an element, about the same again packed for the cpu backend, 24 bytes a row.
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

    def __len__(self) -> int:
        return self.prepared.n

    def __repr__(self) -> str:
        return f"TrainingSet({len(self)} rows of shape {self.prepared.shape}, {self.distinct} distinct, {self.distance})"

    def knn(self, query: Any, k: int = 1, **options: Any) -> Neighbours:
        """The k nearest rows of each query; see biasgen.knn for `options`, errors and the result."""
        return knn(query, self, k, **options)
