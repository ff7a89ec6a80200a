"""What the caller's process has set must not change an answer."""
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_PROCESS = os.getpid()
_GRAIN = 1 << 15  # elements that torch gives to one thread: this many a thread reach all of them


@contextmanager
def exact_arithmetic(elements: int = 1) -> Iterator[None]:
    """No autocast, no gradient, and denormals kept, also in torch's own threads; restored on exit. Serves as a decorator, too.

    elements: of the largest tensor worked on; torch starts its threads beyond 32768. torch.set_flush_denormal holds for the calling thread
    and for those that torch starts while it is set, which stay that way: where one is found, the work is done by the calling thread alone.
    So it is in a child that was forked: torch's threads have stayed with the parent, and it would wait for them forever.
    """
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        threads, forked = torch.get_num_threads(), os.getpid() != _PROCESS
        if forked:
            torch.set_num_threads(1)
        denormal = torch.full((1,), 5e-324, dtype=torch.float64)
        zero_here = bool(denormal == 0)
        flushed = zero_here or not bool((denormal.expand(min(elements, threads * _GRAIN)) != 0).all())
        try:
            if flushed:
                torch.set_num_threads(1)
                torch.set_flush_denormal(False)
            yield
        finally:
            if flushed:
                torch.set_flush_denormal(zero_here)
            if flushed or forked:
                torch.set_num_threads(threads)
