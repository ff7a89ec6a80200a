"""Runs blocks of single-threaded native work on a pool of Python threads."""
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from biasgen import _settings


def num_threads() -> int:
    """biasgen.set_num_threads, BIASGEN_NUM_THREADS, or torch's own."""
    return _settings.num_threads() or torch.get_num_threads()


def run_blocks(work: Callable[[int, int], None], n: int, block: int, *, slow: bool = False) -> None:
    """Call work(start, stop) for every block of 0..n. With one thread, on the caller's own, unless a block is `slow`.

    The pool lives for one call: nothing survives into a forked child. Ctrl-C returns at once where a pool works: the blocks in flight come
    to their end behind it, what they write is nobody's. On the caller's thread it waits for the block.
    """
    threads = num_threads()
    starts = range(0, n, block)
    if not slow and (threads == 1 or len(starts) <= 1):
        for start in starts:
            work(start, min(start + block, n))
        return
    pool = ThreadPoolExecutor(min(threads, len(starts)), thread_name_prefix="biasgen")
    interrupted = False
    try:
        for future in [pool.submit(work, start, min(start + block, n)) for start in starts]:
            future.result()
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        pool.shutdown(wait=not interrupted, cancel_futures=True)
