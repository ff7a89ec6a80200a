"""The least loss that any network can reach on data of a grammar, and what the denoisers BP_k lose to the exact one."""
from collections.abc import Callable, Sequence

import numpy as np
import torch

from biasgen.diffusion import Schedule, forward_process, one_hot
from biasgen.ops import philox
from biasgen.results import LevelCurve, Result
from biasgen.statistics.bootstrap import redrawn_sums
from biasgen.statistics.intervals import reflected
from biasgen.trees import TreeDenoiser, TreeGrammar
from biasgen.trees.trajectories import by_rows

_REDRAWS = 999
_SMALLEST = 2.0**-126   # what is smaller, a posterior gives as 0 (docs/exactness.md)


def optimal_loss(
    grammar: TreeGrammar, schedule: Schedule, *, t: Sequence[int] | None = None, n: int = 2000, seed: int = 0, factorized: int = 0
) -> LevelCurve:
    """Cross-entropy -log p(x_0,i | x_t) of the exact denoiser, mean over the leaves, nats per token: the optimum of the training loss.

    Each sequence counts with its expectation given x_t, -sum_a p(a | x_t) log p(a | x_t): the same mean, with less noise.

    Args:
        grammar: the law of the data; schedule: the noise.
        t: (S,) steps in 1..T. None: all of them; then `mean` is the least training loss under t ~ U{1..T}.
        n: sequences, samples 0..n of the grammar's list. Each keeps its sequence and noise at every step, so curves are smooth.
        seed: of data, noise and bootstrap.
        factorized: k: the loss of BP_k on the same data instead, which no network that knows only BP_k can beat.

    Returns LevelCurve, 95 % intervals with sequences redrawn. At low noise a few sequences carry the value: take n large there.
    Cost: n S calls of the denoiser a row. Memory: 8 n S bytes. Raises ValueError for t outside 1..T, n < 2, k outside 0..depth.
    """
    return _curve(grammar, schedule, _cross_entropy, t, n, seed, factorized)


def factorization_kl(
    grammar: TreeGrammar, schedule: Schedule, factorized: int, *, t: Sequence[int] | None = None, n: int = 2000, seed: int = 0
) -> LevelCurve:
    """KL(BP_0 || BP_k), k = factorized, summed over the leaves: nats per *sequence*, at noised data. Arguments, errors as optimal_loss.

    It is L (loss of BP_k - loss of BP_0), term by term, so far less noisy than that difference. Source: arXiv 2603.03469, figure 3.
    """
    return _curve(grammar, schedule, _divergence, t, n, seed, factorized)


def _cross_entropy(exact: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    return -torch.xlogy(exact, model.clamp_min(_SMALLEST)).sum(-1).mean(-1)


def _divergence(exact: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    return (torch.xlogy(exact, exact) - torch.xlogy(exact, model.clamp_min(_SMALLEST))).sum((-1, -2))


def _curve(
    grammar: TreeGrammar, schedule: Schedule, of_tables: Callable, t: Sequence[int] | None, n: int, seed: int, factorized: int
) -> LevelCurve:
    steps = np.arange(1, schedule.T + 1) if t is None else np.atleast_1d(np.asarray(t))
    if steps.ndim != 1 or not len(steps):
        raise ValueError(f"t: want (S,) steps, got shape {steps.shape}")
    schedule.at(steps)
    if n < 2:
        raise ValueError(f"n: want at least 2 sequences, got {n}")
    exact, model = TreeDenoiser(grammar), TreeDenoiser(grammar, factorized)
    values = np.empty((n, len(steps)))

    def work(first: int, stop: int) -> None:
        x0 = one_hot(grammar.sample(stop - first, seed=seed, offset=first), grammar.q)
        # step 0 of a purpose whose steps count from 1: noise of its own, the same for every level
        z = philox.normals(seed, n=stop - first, count=x0[0].numel(), offset=first, step=0, purpose=philox.FORWARD)
        for column, step in enumerate(steps):
            level = schedule.at(int(step))
            x_t = forward_process(x0, level, torch.from_numpy(z).reshape(x0.shape))
            right = exact(x_t, level).double()
            values[first:stop, column] = of_tables(right, model(x_t, level).double() if factorized else right).numpy()

    by_rows(work, n, grammar)
    over_steps = values.mean(1)
    columns = np.concatenate([over_steps[:, None], values], 1)
    redrawn = redrawn_sums(columns, _REDRAWS, np.random.default_rng(seed)) / n
    means = columns.mean(0)
    (mean, ci), *rest = [(float(value), reflected(value, column)) for value, column in zip(means, redrawn.T, strict=True)]
    params = {"n": n, "seed": seed, "steps": len(steps), "factorized": factorized, "redraws": _REDRAWS}
    intervals = np.array([interval for _, interval in rest])
    return LevelCurve(steps, means[1:], intervals, Result(mean, ci=ci, per_sample=over_steps, params=params))
