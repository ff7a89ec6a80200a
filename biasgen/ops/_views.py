"""Views: the forms in which a model met each training row. The value of a view is that between the query in this form and the row."""
from typing import Any

import torch

VIEWS = ("identity", "hflip")
_CHANNELS = (1, 3, 4)  # a last axis as short as this, behind a first one longer than all of them, holds channels: (H, W, C)


def checked_views(views: Any, shape: tuple[int, ...]) -> tuple[str, ...]:
    """`views` for rows of `shape`, as a tuple in the order of VIEWS.

    ValueError unless they are some of VIEWS, each once, with "identity", or for hflip of rows with one axis.
    """
    named = tuple(views) if isinstance(views, list | tuple) else ()
    if "identity" not in named or len(set(named)) != len(named) or not set(named) <= set(VIEWS):
        raise ValueError(f"views: want some of {VIEWS}, each once, with 'identity', got {views!r}")
    if "hflip" in named and len(shape) < 2:
        raise ValueError(f"views: want rows (H, W), (C, H, W) or (H, W, C) for 'hflip', got rows of shape {shape}")
    return tuple(view for view in VIEWS if view in named)


def seen(rows: torch.Tensor, shape: tuple[int, ...], views: tuple[str, ...]) -> list[torch.Tensor]:
    """Rows (N, F), which are (N, *shape), in each of the views; contiguous (N, F) each."""
    return [rows if view == "identity" else rows.reshape(-1, *shape).flip(_width(shape)).reshape(rows.shape) for view in views]


def _width(shape: tuple[int, ...]) -> int:
    """The axis of columns: the last, or the one before where the last looks like channels."""
    return -2 if len(shape) == 3 and shape[-1] in _CHANNELS and shape[0] > max(_CHANNELS) else -1
