"""Chooses the shape of a block on the device that runs it, from a short list.

Answers do not depend on it.
"""
from collections.abc import Callable
from statistics import median

import torch

from biasgen.triton_kernels._tile import Slices, Tile

_QUERIES, _ROWS = 16_384, 65_536  # of the slice that is timed: a few milliseconds
_LAUNCHES = 5
_chosen: dict[tuple, Tile] = {}


Launch = Callable[[Slices, Slices, Tile], object]


def tile_for(
    key: tuple, tiles: tuple[Tile, ...], query: Slices, reference: Slices, launch: Launch
) -> Tile:
    """The tile with which launch(query, reference, tile) took least time, tried once in a process
    for each key and device, on the device of the query.

    The first of `tiles` on the CPU (the interpreter), for less work than a trial takes, and, where
    none was timed before, while a graph is captured.
    """
    device = query.high.device
    small = len(query) < _QUERIES or len(reference) < _ROWS
    if len(tiles) == 1 or small or device.type != "cuda":
        return tiles[0]
    key = (device.index, *key)
    if key not in _chosen:
        with torch.cuda.device(device):
            if torch.cuda.is_current_stream_capturing():
                return tiles[0]
            few, rows = query[:_QUERIES], reference[:_ROWS]

            def milliseconds(tile: Tile) -> float:
                return _milliseconds(lambda: launch(few, rows, tile))

            _chosen[key] = min(tiles, key=milliseconds)
    return _chosen[key]


def _milliseconds(work: Callable[[], object]) -> float:
    """Of work on the current device, after a first time that compiles.

    Nothing is cleared from the cache between launches, as triton.testing.do_bench does with 256 MB
    of its own: rows that fit there stay there in a search, too.
    """
    work()
    times = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(_LAUNCHES)]
    for begin, end in times:
        begin.record()
        work()
        end.record()
    torch.cuda.current_stream().synchronize()
    return median(begin.elapsed_time(end) for begin, end in times)
