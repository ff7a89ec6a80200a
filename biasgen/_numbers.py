"""What counts as a number in an argument: True and False never do. Standard library only."""
import math
from numbers import Integral, Real
from typing import Any


def is_whole(value: Any, least: int | None = None) -> bool:
    """Is it a whole number, of Python or NumPy, of at least `least`?"""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and (least is None or value >= least)


def is_number(value: Any) -> bool:
    """Is it a real number, of Python or NumPy, and not NaN?"""
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def check_memory(max_memory: Any) -> None:
    """ValueError unless `max_memory` is None or a positive number of bytes."""
    if max_memory is not None and not is_whole(max_memory, 1):
        raise ValueError(f"max_memory: want a positive number of bytes, got {max_memory!r}")
