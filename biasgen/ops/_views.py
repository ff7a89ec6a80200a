"""Views: the forms in which a model met each training row. The value of a view is that between the query in this form and the row."""
from typing import Any

import torch

VIEWS = ("identity", "hflip")
_CHANNELS = (1, 3, 4)  # a last axis as short as this, behind a first one longer than all of them, holds channels, not columns


def checked_views(views: Any, shape: tuple[int, ...]) -> tuple[str, ...]:
    """`views` for rows of `shape`, as a tuple in the order of VIEWS.

    ValueError unless they are some of VIEWS, each once, with "identity"; hflip reverses the last axis of (H, W) and (C, H, W) rows, and
    refuses what has one axis or looks like (H, W, C).
    """
    named = tuple(views) if isinstance(views, list | tuple) else ()
    if "identity" not in named or len(set(named)) != len(named) or not set(named) <= set(VIEWS):
        raise ValueError(f"views: want some of {VIEWS}, each once, with 'identity', got {views!r}")
    if "hflip" in named and (len(shape) < 2 or (len(shape) == 3 and shape[-1] in _CHANNELS and shape[0] > max(_CHANNELS))):
        raise ValueError(f"views: want rows (H, W) or (C, H, W) for 'hflip', which reverses the last axis, got rows of shape {shape}")
    return tuple(view for view in VIEWS if view in named)


def seen(rows: torch.Tensor, shape: tuple[int, ...], views: tuple[str, ...]) -> list[torch.Tensor]:
    """Rows (N, F), which are (N, *shape), in each of the views; contiguous (N, F) each."""
    return [rows if view == "identity" else rows.reshape(-1, *shape).flip(-1).reshape(rows.shape) for view in views]
