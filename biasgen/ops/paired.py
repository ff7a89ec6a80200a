"""The distance of row i of one set to row i of another."""
from typing import Any

from biasgen import distances
from biasgen.backends._mode import exact_arithmetic
from biasgen.ops._dispatch import choose
from biasgen.ops._rows import as_rows, dtype_name
from biasgen.ops.knn import like


@exact_arithmetic()
def paired_distances(a: Any, b: Any, *, distance: str | None = None) -> Any:
    """(N,) distances between the rows of `a` (N, ...) and the same rows of `b` (N, ...), exact as in `knn`.

    Args:
        a, b: arrays or tensors of one shape, such as two models' samples of the same noise; floats may differ in type.
        distance: as in `knn`. None: by the element type of `a`.

    Returns float64, int64 where `knn` does; NumPy for a NumPy `a`, else a tensor on its device. Memory: 256 MiB beside the rows.

    Raises:
        TypeError: neither array nor tensor. ValueError: wrong element type, shape, device, token, number or distance.
    """
    distance = distances.get(distances.default(dtype_name(a, "a")) if distance is None else distance).name
    first, second = as_rows(a, "a", distance), as_rows(b, "b", distance)
    if tuple(b.shape) != tuple(a.shape):
        raise ValueError(f"b: want the shape {tuple(a.shape)} of a, got {tuple(b.shape)}")
    if second.device != first.device:
        raise ValueError(f"b: want rows on {first.device} as a, got {second.device}")
    if first.is_floating_point() != second.is_floating_point():
        raise ValueError(f"b: want {'floats' if first.is_floating_point() else 'uint8'} as a, got {dtype_name(b, 'b')}")
    dtype = dtype_name(first, "a")
    case = {"device": first.device, "dtype": dtype, "distance": distance}
    _, module = choose("paired_distances", **case, backend="torch")
    return like(a, module.paired_distances(first, second, distance))
