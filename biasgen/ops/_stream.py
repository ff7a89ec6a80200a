"""Rows in blocks: a memory-mapped set is read ahead by one block, so that disk and arithmetic overlap in bounded memory."""
import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np


def blocks(rows: Any, block_bytes: int) -> Iterator[Any]:
    """Consecutive runs of the rows of (N, ...), of about `block_bytes` and at least one row each.

    Arrays and tensors in memory give views. A memory-mapped array gives copies in C order, which a thread reads one block ahead: three
    blocks exist at most. What the read raises is raised where its block was due. A loop that is left early waits for the read under way.
    """
    step = max(1, block_bytes // max(1, rows[:1].nbytes))
    starts = range(0, len(rows), step)
    if not isinstance(rows, np.memmap) or not starts:
        yield from (rows[start : start + step] for start in starts)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="biasgen-read") as reader:
        ahead = reader.submit(_read, rows, 0, step)
        for start in starts[1:]:
            block, ahead = ahead.result(), reader.submit(_read, rows, start, step)
            yield block
        yield ahead.result()


def _read(rows: np.memmap, start: int, step: int) -> np.ndarray:
    source = rows[start : start + step]
    if not source.nbytes:
        return np.array(source, order="C")
    memory = mmap.mmap(-1, source.nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # goes back when freed, which the heap may keep
    block = np.frombuffer(memory, source.dtype).reshape(source.shape)
    block[...] = source
    return block
