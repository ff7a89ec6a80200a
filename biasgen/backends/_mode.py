"""What the caller's process has set must not change an answer."""
import os
import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from functools import cache
from typing import Any

import torch

_PROCESS = os.getpid()
_GRAIN = 1 << 15  # elements that torch gives to one thread: this many a thread reach all of them
_WANTED = re.compile(r"Tried to allocate ([\d.]+ \w+)")  # in torch's words
# The smallest denormal, by its bits: where denormals are flushed, a comparison takes it for zero.
_SMALLEST = struct.unpack("=d", struct.pack("=Q", 1))[0]
_CPU = torch.device("cpu")


@contextmanager
def exact_arithmetic(elements: int = 1, device: torch.device = _CPU) -> Iterator[None]:
    """No autocast, no gradient, and denormals kept, also in torch's own threads; restored on exit.
    Serves as a decorator, too.

    elements: of the largest tensor worked on, which lies on `device`; on the CPU torch starts its
    threads beyond 32768. torch.set_flush_denormal holds for the calling thread and for those that
    torch starts while it is set, which stay that way: where one is found, the work is done by the
    calling thread alone. So it is in a child that was forked: torch's threads have stayed with the
    parent, and it would wait for them forever. Nothing is read from a device, nor are the threads
    looked at for work on one.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):  # entering it costs as much as a small search
                stack.enter_context(torch.autocast(kind, enabled=False))
        threads, forked = torch.get_num_threads(), os.getpid() != _PROCESS
        if forked:
            torch.set_num_threads(1)
        zero_here = _SMALLEST == 0.0
        everywhere = min(elements, threads * _GRAIN) if device.type == "cpu" else 0
        flushed = zero_here or (everywhere > _GRAIN and _some_thread_flushes(everywhere))
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


def _some_thread_flushes(elements: int) -> bool:
    """Whether one of the threads among which torch divides so many elements does."""
    smallest = torch.full((1,), _SMALLEST, dtype=torch.float64, device="cpu")
    return not bool((smallest.expand(elements) != 0).all())


def is_capturing(device: torch.device) -> bool:
    """Whether work on `device` is being recorded into a CUDA graph: then nothing may be read back, timed, or made for later calls."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def used_here(value: Any) -> None:
    """Says that the current stream reads the tensors in `value`: one, or a dataclass of them.

    For what is kept between calls, which work on another stream may have made: when it is dropped,
    torch's allocator gives its memory to nobody before this stream has come so far.
    """
    if is_dataclass(value):
        for part in vars(value).values():
            used_here(part)
    elif isinstance(value, torch.Tensor) and value.is_cuda:
        value.record_stream(torch.cuda.current_stream(value.device))


@contextmanager
def memory_named(device: torch.device, bounded: bool = True) -> Iterator[None]:
    """Where a CUDA device runs out of memory, says how much was wanted and the max_memory that would do. bounded: whether one would."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        wanted = _WANTED.search(str(error))
        room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        advice = f"max_memory={max(1, room // 2)} would do" if bounded else "the search of integers needs that; no max_memory changes it"
        raise torch.OutOfMemoryError(
            f"max_memory: wanted {wanted[1] if wanted else 'more'} on {device}, which has room for {room} bytes: {advice}"
        ) from error


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
