"""The tree U-Net: a small denoiser whose structure is the data's tree, and the average of its weights."""
import copy
import math

import torch
from torch import nn


class TreeUNet(nn.Module):
    """Logits of x_0 from noised one-hot rows: (B, 2**depth, q) and t (B,) or a number -> (B, 2**depth, q).

    Down: neighbouring positions are merged, level by level; up: each node is split again, reading the skip of its children. One set of
    weights a level, shared over positions; the embedding of t is added at every level.
    """

    def __init__(self, q: int = 6, depth: int = 4, width: int = 48) -> None:
        super().__init__()
        d = width
        self.depth = depth
        self.embed = nn.Linear(q, d)
        self.time = nn.Sequential(nn.Linear(_TIME_FEATURES, d), nn.GELU(), nn.Linear(d, d))
        self.merge = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(2 * d), nn.Linear(2 * d, 2 * d), nn.GELU(), nn.Linear(2 * d, d)) for _ in range(depth)
        )
        self.split = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(3 * d), nn.Linear(3 * d, 3 * d), nn.GELU(), nn.Linear(3 * d, 2 * d)) for _ in range(depth)
        )
        self.head = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, q))

    def forward(self, x: torch.Tensor, t: torch.Tensor | int) -> torch.Tensor:
        time = self.time(_time_features(t, x.device))[:, None]
        h = self.embed(x) + time
        skips = []
        for merge in self.merge:
            skips.append(h)
            h = merge(h.reshape(h.shape[0], h.shape[1] // 2, -1)) + time
        for split, skip in zip(self.split, reversed(skips), strict=True):
            pair = torch.cat([h, skip.reshape(h.shape[0], h.shape[1], -1)], -1)
            h = skip + split(pair).reshape(skip.shape) + time
        return self.head(h)


_TIME_FEATURES = 64


def _time_features(t: torch.Tensor | int, device: torch.device) -> torch.Tensor:
    """(B or 1, 64): cos and sin of t times 32 frequencies from 1 to 1e-4 in geometric steps."""
    half = _TIME_FEATURES // 2
    frequency = torch.exp(-math.log(1e4) / half * torch.arange(half, device=device))
    angle = torch.as_tensor(t, device=device).reshape(-1, 1).float() * frequency
    return torch.cat([angle.cos(), angle.sin()], -1)


class AveragedModel:
    """Exponential moving average of a model's weights: .module is the averaged copy, in eval mode."""

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay, self._steps = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Call after each optimizer step. Warmed up: the decay is min(decay, (1 + s) / (10 + s)) at step s."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), 1 - decay)
