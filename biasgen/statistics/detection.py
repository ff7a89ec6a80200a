"""Decisions over a sequence of evaluations."""
from collections.abc import Sequence


def first_of_two(p_values: Sequence[float], threshold: float) -> int | None:
    """Index of the first of two consecutive evaluations whose p is below `threshold`, or None.

    p_values: one p an evaluation; NaN (no evaluation) is not below. threshold: in (0, 1), already divided by the number of looks and of
    statistics watched. Asking for two in a row removes single outliers of a training run; it only lowers the rate of false alarms.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: want a number in (0, 1), got {threshold!r}")
    for i in range(len(p_values) - 1):
        if p_values[i] < threshold and p_values[i + 1] < threshold:
            return i
    return None
