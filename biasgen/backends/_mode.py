"""What the caller's process has set must not change an answer."""
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

_GRAIN = 1 << 15  # elements that torch gives to one thread: this many a thread reach all of them


@contextmanager
def exact_arithmetic(elements: int = 1) -> Iterator[None]:
    """No autocast, no gradient, and denormals kept, also in torch's own threads; restored on exit. Serves as a decorator, too.

    elements: of the largest tensor worked on; torch starts its threads beyond 32768. torch.set_flush_denormal holds for the calling thread
    and for those that torch starts while it is set, which stay that way: where one is found, the work is done by the calling thread alone.
    """
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        threads = torch.get_num_threads()
        denormal = torch.full((1,), 5e-324, dtype=torch.float64)
        zero_here = bool(denormal == 0)
        if not zero_here and bool((denormal.expand(min(elements, threads * _GRAIN)) != 0).all()):
            yield
            return
        try:
            torch.set_num_threads(1)
            torch.set_flush_denormal(False)
            yield
        finally:
            torch.set_flush_denormal(zero_here)
            torch.set_num_threads(threads)


def searched_on(device: torch.device) -> torch.device:
    """Where rows on `device` are searched, and answers lie: there, or on the host where it has no float64, such as "mps"."""
    return device if has_float64(device.type) else torch.device("cpu")


@cache
def has_float64(device_type: str) -> bool:
    """Whether devices of this type compute in float64."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device_type)
    except (TypeError, RuntimeError):
        return False
    return True
