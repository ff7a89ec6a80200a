"""Forward and reverse process on batches."""
import numpy as np
import torch

from biasgen.diffusion.schedule import Level, Schedule


def one_hot(tokens: torch.Tensor | np.ndarray, Q: int) -> torch.Tensor:
    """(B, L) integer tokens -> (B, L, Q) float32 one-hot rows; ValueError for a symbol outside 0..Q-1."""
    index = torch.as_tensor(tokens).long()
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= Q):
        raise ValueError(f"tokens: want symbols 0..{Q - 1}, got {int(index.min())}..{int(index.max())}")
    return torch.nn.functional.one_hot(index, Q).float()


def forward_process(x0: torch.Tensor, level: Level, noise: torch.Tensor) -> torch.Tensor:
    """x_t = scale * x_0 + sigma * noise, float32; x0 and noise (B, ...), level scalar or one a row."""
    return _per_row(level.scale, x0) * x0 + _per_row(level.sigma, x0) * noise


def reverse_step(x_t: torch.Tensor, x0_hat: torch.Tensor, schedule: Schedule, t: int, s: int, noise: torch.Tensor | None) -> torch.Tensor:
    """One step of the reverse process from t to s < t: the Gaussian posterior of x_s given x_t and x_0 = x0_hat.

    Shapes (B, ...). At s = 0 the answer is x0_hat itself and noise is not read.
    """
    c0, ct, std = schedule.posterior(t, s)
    if s == 0:
        return x0_hat
    return c0 * x0_hat + ct * x_t + std * noise


def _per_row(value: float | np.ndarray, like: torch.Tensor) -> torch.Tensor | float:
    if np.ndim(value) == 0:
        return float(value)
    return torch.as_tensor(np.asarray(value), dtype=like.dtype, device=like.device).reshape(-1, *[1] * (like.ndim - 1))
