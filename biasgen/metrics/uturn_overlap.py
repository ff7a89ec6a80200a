"""How much of a sequence survives a U-turn: noise to time t0 and back."""
from typing import Any

import numpy as np
import torch

from biasgen._numbers import is_whole
from biasgen.diffusion import Schedule, sample_tokens
from biasgen.diffusion.process import plain_rows
from biasgen.diffusion.sampler import Denoiser
from biasgen.ops._rows import widened
from biasgen.results import Result
from biasgen.statistics.bootstrap import ratio
from biasgen.trees import TreeDenoiser, trajectories

_APART = 1 << 32     # samples between two repeats of a row: more than rows in any list
_MOST_REPEATS = 1 << 16     # with which the last sample is still a number of ops/philox.py


def uturn_overlap(
    denoiser: Denoiser,
    schedule: Schedule,
    starts: Any,
    t0: int,
    *,
    Q: int | None = None,
    repeats: int = 1,
    seed: int = 0,
    offset: int = 0,
) -> Result:
    """Share of positions at which a sequence is the same after a U-turn from time t0, with every step back; mean over sequences.

    With the exact denoiser, sequences of the data and random ones alike end in the data's law (t0 large) or in a grammatical sequence
    nearby (t0 small). Two denoisers with the same seed get the same noise: compare their per_sample row by row.

    Args:
        denoiser: (x_t (B, L, Q), level) -> x0_hat of the same shape; TreeDenoiser uses all threads.
        starts (n, L): integer tokens, n >= 2; of the data, or random: rng.integers(q, size=(n, L)). Array, tensor or TrainingSet.
        t0: start time, 1..T.
        Q: symbols; None: those of the grammar of a TreeDenoiser, else 1 + the largest in starts.
        repeats: U-turns from each sequence, at most 2^16; repeat r of row i draws the noise of sample
            r 2^32 + offset + i.
        seed: of the noise, and of the bootstrap.
        offset: number of the first row in a longer list. A part of the list then gets the noise, and
            the per_sample, that it has in the whole.

    Returns Result: per_sample (n,), mean over repeats; ci, 95 %, with sequences redrawn, which repeats alone do not narrow to nothing.
    Raises ValueError for t0 outside 1..T, repeats outside 1..2^16, an offset below 0 or rows beyond
    2^32, fewer than 2 rows, rows of another length than the grammar's, symbols outside 0..Q - 1.
    Source: Sclocchi, Favero and Wyart, arXiv 2402.16991; arXiv 2603.03469, figures 5 and 11.
    """
    rows = plain_rows(starts, "starts")
    if rows.ndim != 2 or rows.dtype.is_floating_point or len(rows) < 2:
        raise ValueError(f"starts: want (n, L) integer tokens, n >= 2, got {rows.dtype} of shape {tuple(rows.shape)}")
    if not is_whole(t0, 1) or t0 > schedule.T:
        raise ValueError(f"t0: want a step in 1..{schedule.T}, got {t0}")
    if not is_whole(repeats, 1) or repeats > _MOST_REPEATS:
        raise ValueError(f"repeats: want 1..{_MOST_REPEATS}, got {repeats}")
    rows = widened(rows)
    n, L = rows.shape
    if not is_whole(offset, 0) or offset + n > _APART:
        raise ValueError(f"offset: want 0 or more, and rows up to {_APART}, got {offset}")
    on_tree = isinstance(denoiser, TreeDenoiser)
    if on_tree and denoiser.grammar.length != L:
        raise ValueError(f"starts: want (n, {denoiser.grammar.length}) tokens for this grammar, got {tuple(rows.shape)}")
    lowest, highest = (int(symbol) for symbol in rows.aminmax())
    Q = Q or (denoiser.grammar.q if on_tree else highest + 1)
    if not 0 <= lowest <= highest < Q:
        raise ValueError(f"starts: want symbols 0..{Q - 1}, got {lowest}..{highest}")
    turn: dict[str, Any] = {"steps": int(t0), "t_start": int(t0), "seed": seed, "start": rows, "device": rows.device}
    same = torch.zeros(n, dtype=torch.float64, device="cpu")
    for first in range(offset, offset + repeats * _APART, _APART):
        if on_tree:
            ends = trajectories.sample_tokens(denoiser, schedule, n, offset=first, **turn)
        else:
            ends = sample_tokens(denoiser, schedule, n, shape=(L, Q), offset=first, **turn)
        same += (ends == rows).double().mean(1).cpu()
    overlap = (same / repeats).numpy()
    value, ci = ratio(overlap, np.ones(n), seed=seed)
    params = {"t0": int(t0), "repeats": repeats, "seed": seed, "offset": offset}
    return Result(value, ci=ci, per_sample=overlap, params=params)
