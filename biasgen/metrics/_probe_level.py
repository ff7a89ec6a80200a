"""One noise level of the alignment probe: everything that does not depend on the denoiser, computed once."""
from collections.abc import Sequence

import numpy as np
import torch

from biasgen.diffusion import Level
from biasgen.diffusion.sampler import Denoiser

Halves = tuple[torch.Tensor, torch.Tensor]
"""Indices of the pool rows that play train and heldout, equally many."""

_BATCH = 500                # probe rows a forward; as the sampler's
_VANISHES = 1e-12           # of |x_0|^2: up to it the two empirical denoisers agree to rounding and their difference has no direction


class ProbeLevel:
    """The probe rows x_t at one level, and E_T - E_H there for the true halves of the pool and for the relabeled ones.

    Args:
        x0, x_t (N, ...): clean and noised probe rows, float32. level: theirs. pool (M, D) float64: rows of train, then of heldout.
        labels: see labelings. The terms of all splits are summed.

    x_t, level, norms (1 + P,): sums of |E_T - E_H|^2; norm (N,): the true one's row by row. vanishes: no row tells the two apart.
    Memory kept: 4 N D (P + 3) bytes; while preparing also 16 N M. Time: 2 P N M D flops a split and P N M exponentials.
    """

    def __init__(
        self, x0: torch.Tensor, x_t: torch.Tensor, level: Level, pool: torch.Tensor, labels: Sequence[Sequence[Halves]]
    ) -> None:
        self.x_t, self.level = x_t, level
        self._center = pool.mean(0)     # differences do not feel it, and rounding shrinks with the rows
        rows = pool - self._center
        noised = x_t.flatten(1).double() - level.scale * self._center
        log_weights = level.scale / level.sigma**2 * (rows @ noised.T - level.scale / 2 * rows.square().sum(1, keepdim=True))     # (M, N)
        N, D = noised.shape
        self._deltas = torch.empty(len(labels) - 1, N * D, device=x_t.device)
        self.norms, self._middles = np.empty(len(labels)), np.empty(len(labels))
        for i, splits in enumerate(labels):
            terms = [_difference(log_weights, rows, *halves) for halves in splits]
            delta, middle, norm = (sum(parts) for parts in zip(*terms, strict=True))
            self.norms[i], self._middles[i] = float(norm.sum()), float(middle.sum())
            if i == 0:
                self._delta, self._middle, self.norm = delta, middle, norm.cpu().numpy()
            else:
                self._deltas[i - 1] = delta.flatten()
        self.vanishes = bool(self.norms[0] <= _VANISHES * len(labels[0]) * float(x0.double().square().sum()))

    def numerators(self, denoiser: Denoiser, twin: Denoiser | None) -> tuple[np.ndarray, np.ndarray]:
        """Of the alignment: (N,) row by row for the true halves, (P,) sums for the relabeled ones; float64."""
        found = self._denoised(denoiser, "denoiser")
        factor, middle, middles = 2, self._middle, self._middles[1:]
        if twin is None:
            found = found - self._center
        else:       # the mean of both models' alignment: the middle between the halves cancels
            found, factor, middle, middles = found - self._denoised(twin, "twin"), 1, 0, 0
        true = (found * self._delta).sum(1) - middle
        relabeled = torch.mv(self._deltas, found.flatten().float()).double().cpu().numpy() - middles
        return factor * true.cpu().numpy(), factor * relabeled

    def _denoised(self, denoiser: Denoiser, name: str) -> torch.Tensor:
        """(N, D) float64 x0 predictions."""
        batches = []
        for x_t in self.x_t.split(_BATCH):
            x0_hat = denoiser(x_t, self.level)
            if not isinstance(x0_hat, torch.Tensor):
                raise TypeError(f"{name}: want a tensor x0_hat from (x_t, level), got {type(x0_hat).__name__}")
            if x0_hat.shape != x_t.shape:
                raise ValueError(f"{name}: want x0_hat of the shape of x_t {tuple(x_t.shape)}, got {tuple(x0_hat.shape)}")
            batches.append(x0_hat.detach().to(x_t.device).double().flatten(1))
        found = torch.cat(batches)
        if not found.isfinite().all():
            row = int((~found.isfinite().all(1)).nonzero()[0])
            raise ValueError(f"{name}: want finite x0_hat, got NaN or infinity for probe row {row} at t = {self.level.t}")
        return found


def _difference(log_weights: torch.Tensor, rows: torch.Tensor, train: torch.Tensor, heldout: torch.Tensor) -> Halves:
    """(E_T - E_H (N, D), <(E_T + E_H)/2, E_T - E_H> (N,), |E_T - E_H|^2 (N,)): exact empirical denoisers of the two halves."""
    means = [torch.softmax(log_weights[half], 0).T @ rows[half] for half in (train, heldout)]
    delta = means[0] - means[1]
    return delta, ((means[0] + means[1]) * delta).sum(1) / 2, delta.square().sum(1)


def labelings(m: int, h: int, splits: int, permutations: int, seed: int, device: torch.device) -> list[list[Halves]]:
    """The true halves of every split, then `permutations` relabelings of the pool, each with the same splits."""
    rng = np.random.default_rng(seed)
    size = min(m, h)
    splits = 1 if m == h else splits       # all rows of both: every split would be the same
    true = [(rng.permutation(m)[:size], m + rng.permutation(h)[:size]) for _ in range(splits)]
    orders = [np.arange(m + h), *(rng.permutation(m + h) for _ in range(permutations))]
    return [[tuple(torch.from_numpy(order[half]).to(device) for half in halves) for halves in true] for order in orders]
