"""Samplers whose noise is keyed by (seed, sample, step): the same rows however they are batched, and common noise for every model."""
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from biasgen._numbers import is_whole
from biasgen.diffusion.process import forward_process, one_hot, reverse_step
from biasgen.diffusion.schedule import Level, Schedule
from biasgen.ops import philox

Denoiser = Callable[[torch.Tensor, Level], torch.Tensor]
"""(x_t (B, ...), level) -> x0_hat of the same shape."""


def reverse_times(t_start: int, steps: int) -> list[int]:
    """t_start = t_0 > ... > t_steps = 0, t_i = round(t_start (steps - i) / steps)."""
    if not is_whole(steps, 1) or steps > t_start:
        raise ValueError(f"steps: want 1..{t_start} (the start time), got {steps}")
    return [round(t_start * (steps - i) / steps) for i in range(steps + 1)]


def reverse_trajectory(
    denoiser: Denoiser, schedule: Schedule, x: torch.Tensor, times: list[int], *, seed: int, offset: int = 0
) -> torch.Tensor:
    """Run x, (B, ...) at time times[0], down to times[-1]; row b draws the noise of sample offset + b. Returns x there (x0_hat at 0)."""
    for t, s in pairwise(times):
        noise = _normals(x, seed, offset, step=t, purpose=philox.REVERSE) if s > 0 else None
        x = reverse_step(x, denoiser(x, schedule.at(t)), schedule, t, s, noise)
    return x


@torch.no_grad()
def sample_tokens(
    denoiser: Denoiser,
    schedule: Schedule,
    n: int,
    *,
    shape: tuple[int, int],
    steps: int = 50,
    seed: int = 0,
    offset: int = 0,
    start: np.ndarray | torch.Tensor | None = None,
    t_start: int | None = None,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Token sequences from a denoiser of one-hot rows: (n, L) int64, the arg-max of the last x0_hat.

    Args:
        denoiser: (x_t (B, L, Q), level) -> probabilities (B, L, Q).
        n: samples; they are number offset..offset+n of the list that (denoiser, seed) fixes, whatever batch_size.
        shape: (L, Q).
        steps: reverse steps.
        start: (n, L) tokens to noise to time t_start instead of starting from pure noise at T: a U-turn.
        batch_size: rows a batch; 500 stays in cache on a CPU (measured 1.5x over one batch of 4000).
    """
    if (start is None) != (t_start is None):
        raise ValueError("start, t_start: want both or neither")
    times = reverse_times(schedule.T if t_start is None else t_start, steps)
    level = schedule.at(times[0])
    spread = math.hypot(level.scale, level.sigma)   # of x_T for data of variance 1, as is customary: 1 where the schedule is VP
    out = torch.empty((n, shape[0]), dtype=torch.int64, device=device)
    for first in range(0, n, batch_size):
        rows = slice(first, min(first + batch_size, n))
        like = torch.empty((rows.stop - first, *shape), device=device)
        if start is None:
            x = spread * _normals(like, seed, offset + first, step=0, purpose=philox.START)
        else:
            noise = _normals(like, seed, offset + first, step=times[0], purpose=philox.FORWARD)
            x = forward_process(one_hot(start[rows], shape[1]).to(device), level, noise)
        out[rows] = reverse_trajectory(denoiser, schedule, x, times, seed=seed, offset=offset + first).argmax(-1)
    return out


def _normals(like: torch.Tensor, seed: int, offset: int, *, step: int, purpose: int) -> torch.Tensor:
    z = philox.normals(seed, n=like.shape[0], count=like[0].numel(), offset=offset, step=step, purpose=purpose)
    return torch.from_numpy(z).reshape(like.shape).to(like.device)
