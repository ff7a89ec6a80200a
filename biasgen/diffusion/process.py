"""Forward and reverse process on batches, and the space that they work in."""
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from biasgen.diffusion.schedule import Level, Schedule
from biasgen.ops._rows import as_tensor, widened


def one_hot(tokens: torch.Tensor | np.ndarray, Q: int, name: str = "tokens") -> torch.Tensor:
    """(B, L) integer tokens -> (B, L, Q) float32 one-hot rows; ValueError, beginning with `name`, for a symbol outside 0..Q-1."""
    index = as_tensor(tokens).long()
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= Q):
        raise ValueError(f"{name}: want symbols 0..{Q - 1}, got {int(index.min())}..{int(index.max())}")
    return torch.nn.functional.one_hot(index, Q).float()


def model_space(rows: Any, encode: Callable | None = None, *, Q: int | None = None, name: str = "rows") -> torch.Tensor:
    """Rows as the model sees them: the space in which noise is added.

    Args:
        rows: (M, ...) array or tensor, or anything with `.rows` (a TrainingSet).
        encode: takes the rows as a tensor and returns floats, one row for each; e.g. lambda x: x / 127.5 - 1, or an autoencoder. None:
            floats as they are, integers other than uint8 (tokens) one-hot.
        Q: symbols of tokens. None: one more than the largest that occurs.

    Returns:
        (M, ...) floats; tokens (M, L) become (M, L, Q) float32.

    Raises:
        TypeError: neither array nor tensor. ValueError: no rows; a TrainingSet with views; uint8 rows without `encode` (their range is
        the model's affair); a symbol outside 0..Q-1; an `encode` that returns no floats or another number of rows.
    """
    rows = plain_rows(rows, name)
    if encode is not None:
        with torch.no_grad():
            encoded = as_tensor(encode(rows))
        if not encoded.is_floating_point() or encoded.shape[:1] != rows.shape[:1]:
            raise ValueError(f"encode: want floats of shape ({len(rows)}, ...), got {encoded.dtype} of shape {tuple(encoded.shape)}")
        return encoded
    if rows.is_floating_point():
        return rows
    if rows.dtype in (torch.uint8, torch.bool):
        raise ValueError(f"{name}: {rows.dtype} rows want encode=, which maps them to the model's range: e.g. lambda x: x / 127.5 - 1")
    rows = widened(rows)
    return one_hot(rows, int(rows.max()) + 1 if Q is None else Q, name)


def plain_rows(rows: Any, name: str) -> torch.Tensor:
    """Rows (M, ...) of an array, a tensor or a set, with the errors of model_space."""
    if getattr(rows, "views", ("identity",)) != ("identity",):
        raise ValueError(f"{name}: want a set without views, got {rows.views}: add the mirror images as rows")
    rows = getattr(rows, "rows", rows)
    if not isinstance(rows, np.ndarray | torch.Tensor):
        raise TypeError(f"{name}: want a NumPy array, a torch tensor or an object with `.rows`, got {type(rows).__name__}")
    rows = as_tensor(rows)
    if not rows.numel():
        raise ValueError(f"{name}: want at least one row, got shape {tuple(rows.shape)}")
    return rows


def forward_process(x0: torch.Tensor, level: Level, noise: torch.Tensor) -> torch.Tensor:
    """x_t = scale * x_0 + sigma * noise, float32; x0 and noise (B, ...), level scalar or one a row."""
    return per_row(level.scale, x0) * x0 + per_row(level.sigma, x0) * noise


def reverse_step(x_t: torch.Tensor, x0_hat: torch.Tensor, schedule: Schedule, t: int, s: int, noise: torch.Tensor | None) -> torch.Tensor:
    """One step of the reverse process from t to s < t: the Gaussian posterior of x_s given x_t and x_0 = x0_hat.

    Shapes (B, ...). At s = 0 the answer is x0_hat itself and noise is not read.
    """
    c0, ct, std = schedule.posterior(t, s)
    if s == 0:
        return x0_hat
    return c0 * x0_hat + ct * x_t + std * noise


def as_double(values: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """The same numbers in float64."""
    return values.double() if isinstance(values, torch.Tensor) else values.astype(np.float64)


def per_row(value: float | np.ndarray, like: torch.Tensor | np.ndarray) -> torch.Tensor | np.ndarray | float:
    """`value`, a float64 scalar or (B,), ready to multiply the rows of `like` (B, ...): in their type, on their device."""
    if np.asarray(value).ndim == 0:     # torch.compile cannot read np.ndim
        return float(value)
    value = np.asarray(value).reshape(-1, *[1] * (like.ndim - 1))
    return value.astype(like.dtype) if isinstance(like, np.ndarray) else torch.as_tensor(value, dtype=like.dtype, device=like.device)
