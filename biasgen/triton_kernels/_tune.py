"""Chooses the shape of a block on the device that runs it, from a short list; answers do not depend on it."""
from collections.abc import Callable

import torch
from triton.testing import do_bench

from biasgen.triton_kernels._tile import Slices, Tile

_QUERIES, _ROWS = 16_384, 65_536  # of the slice that is timed: a few milliseconds
_chosen: dict[tuple, Tile] = {}


Launch = Callable[[Slices, Slices, Tile], object]


def tile_for(key: tuple, tiles: tuple[Tile, ...], query: Slices, reference: Slices, launch: Launch) -> Tile:
    """The tile with which launch(query, reference, tile) took least time, tried once in a process for each key and device.

    The first of `tiles` on the CPU (the interpreter), for less work than a trial takes, and, where none was timed before, while a graph is
    captured.
    """
    device = query.high.device
    small = len(query) < _QUERIES or len(reference) < _ROWS
    if len(tiles) == 1 or small or device.type != "cuda":
        return tiles[0]
    key = (device.index, *key)
    if key not in _chosen:
        if torch.cuda.is_current_stream_capturing():
            return tiles[0]
        few, rows = query[:_QUERIES], reference[:_ROWS]
        _chosen[key] = min(tiles, key=lambda tile: do_bench(lambda: launch(few, rows, tile), warmup=10, rep=50))
    return _chosen[key]
