"""The distance of row i of one set to row i of another."""
from typing import Any

import torch

from biasgen import distances
from biasgen.ops._rows import as_bytes, dtype_name
from biasgen.ops.knn import like

_BLOCK_ENTRIES = 1 << 22     # entries compared at once: 16 MiB of int32


def paired_distances(a: Any, b: Any, *, distance: str | None = None) -> Any:
    """(N,) int64 distances between the rows of `a` (N, ...) and the same rows of `b` (N, ...), exact.

    Args:
        a, b: arrays or tensors of one shape, such as two models' samples of the same noise.
        distance: "hamming" (positions that differ; integer tokens 0..255) or "sqeuclidean" (uint8). None: by the element type of `a`.

    Returns NumPy for a NumPy `a`, else a tensor on its device. Memory: 48 MiB beside the rows as bytes.

    Raises:
        TypeError: neither array nor tensor. ValueError: wrong element type, shape, device, token or distance.
    """
    distance = distances.get(distances.default(dtype_name(a, "a")) if distance is None else distance).name
    first, second = as_bytes(a, "a", distance), as_bytes(b, "b", distance)
    if tuple(b.shape) != tuple(a.shape):
        raise ValueError(f"b: want the shape {tuple(a.shape)} of a, got {tuple(b.shape)}")
    if second.device != first.device:
        raise ValueError(f"b: want rows on {first.device} as a, got {second.device}")
    block = max(1, _BLOCK_ENTRIES // first.shape[1])
    parts = []
    for x, y in zip(first.split(block), second.split(block), strict=True):
        parts.append((x != y).sum(1) if distance == "hamming" else (x.int() - y.int()).square_().sum(1))
    return like(a, torch.cat(parts))
