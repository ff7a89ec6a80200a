"""Samples with a known dose of bias: copies mixed in, U-turns from training rows; and training rows that are never repeated."""
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch

from biasgen import distances
from biasgen._numbers import is_number, is_whole
from biasgen.diffusion import Schedule, forward_process, reverse_times, reverse_trajectory, sample_tokens
from biasgen.ops import philox
from biasgen.ops._rows import as_tensor, dtype_name, widened
from biasgen.ops.empirical_denoise import float_rows


def mix_samples(unbiased: Any, copies: Any, dose: float, seed: int = 0) -> Any:
    """`unbiased` with each row replaced, with probability `dose`, by a random row of `copies`: the memorization control.

    Every row has its own coin, so P(copy) = dose + (1 - dose) c0 exactly, where c0 is the share of copies without bias. With one seed the
    rows that a small dose replaces are among those of a larger one, by the same copies.

    Args:
        unbiased (n, ...), copies (m, ...): both NumPy or both torch, of one shape and element type. copies may be a TrainingSet.
        dose: in [0, 1].

    Returns a new array or tensor as `unbiased`. Raises ValueError for sets that do not agree. Source: biasgen, docs/statistics.md.
    """
    unbiased, copies = _rows(unbiased, "unbiased"), _rows(copies, "copies")
    if isinstance(unbiased, torch.Tensor) != isinstance(copies, torch.Tensor):
        raise TypeError(f"copies: want a {type(unbiased).__name__} as unbiased, got a {type(copies).__name__}")
    if (copies.shape[1:], copies.dtype) != (unbiased.shape[1:], unbiased.dtype):
        wanted, got = (f"{rows.dtype} rows of shape {tuple(rows.shape[1:])}" for rows in (unbiased, copies))
        raise ValueError(f"copies: want {wanted} as in unbiased, got {got}")
    if not is_number(dose) or not 0 <= dose <= 1:
        raise ValueError(f"dose: want a share in [0, 1], got {dose!r}")
    rng = np.random.default_rng(seed)
    replaced = np.flatnonzero(rng.random(len(unbiased)) < dose)
    source = rng.integers(len(copies), size=len(unbiased))[replaced]
    if isinstance(unbiased, torch.Tensor):
        mixed, replaced, source = unbiased.clone(), torch.from_numpy(replaced), torch.from_numpy(source)
        mixed[replaced.to(mixed.device)] = copies[source.to(copies.device)].to(mixed.device)
        return mixed
    mixed = unbiased.copy()
    mixed[replaced] = copies[source]
    return mixed


@torch.no_grad()
def uturn(
    rows: Any,
    denoiser: Callable[..., torch.Tensor],
    schedule: Schedule,
    t0: int,
    seed: int = 0,
    *,
    Q: int | None = None,
    offset: int = 0,
    batch_size: int = 500,
) -> Any:
    """One U-turn from every row: noise to time t0, then every reverse step back to 0. The control for biased generalization.

    With the exact denoiser and rows of its law the samples have that law again, averaged over draws of the rows, however near they lie
    to their rows: at t0 = T independent, at small t0 copies. Samples from one row depend on each other: cluster by row.

    Args:
        rows (n, ...): integer tokens (n, L), noised as one-hot rows; or floats in the space in which the denoiser works. Repeat rows to
            draw several U-turns from each. May be a TrainingSet.
        denoiser: (x_t (B, ...), level) -> x0_hat of the same shape; (B, L, Q) for tokens.
        t0: start time, 1..T.
        Q: symbols of integer rows; None: 1 + the largest in rows.
        offset: row i draws the noise of sample offset + i of the list that seed fixes, whatever batch_size.

    Returns samples like rows: tokens are the arg-max of the last x0_hat. Cost: t0 evaluations of the denoiser a row.
    Raises ValueError for t0 outside 1..T, uint8 rows (tokens or pixels?), or a row that is not finite.
    Source: Sclocchi, Favero and Wyart, arXiv 2402.16991 (forward-backward experiments).
    """
    rows = _rows(rows, "rows")
    kind = dtype_name(rows, "rows")
    if not is_whole(t0, 1) or t0 > schedule.T:
        raise ValueError(f"t0: want a step in 1..{schedule.T}, got {t0!r}")
    if kind.startswith("float"):
        x0 = float_rows(rows, "rows").reshape(rows.shape)
        samples = torch.empty_like(x0)
        for first in range(0, len(x0), batch_size):
            batch, number = x0[first : first + batch_size], offset + first
            z = philox.normals(seed, n=len(batch), count=batch[0].numel(), offset=number, step=int(t0), purpose=philox.FORWARD)
            x_t = forward_process(batch, schedule.at(t0), torch.from_numpy(z).reshape(batch.shape).to(batch.device))
            times = reverse_times(int(t0), int(t0))
            samples[first : first + batch_size] = reverse_trajectory(denoiser, schedule, x_t, times, seed=seed, offset=number)
    elif kind in distances.TOKENS and kind != "uint8" and rows.ndim == 2:
        stored = as_tensor(rows)
        x0 = widened(stored)
        lowest, highest = (int(symbol) for symbol in x0.aminmax())
        Q = highest + 1 if Q is None else Q
        if not 0 <= lowest <= highest < Q:
            raise ValueError(f"rows: want symbols 0..{Q - 1}, got {lowest}..{highest}")
        samples = sample_tokens(
            denoiser,
            schedule,
            len(x0),
            shape=(x0.shape[1], Q),
            steps=int(t0),
            seed=seed,
            offset=offset,
            start=x0,
            t_start=int(t0),
            batch_size=batch_size,
            device=x0.device,
        ).to(stored.dtype)
    else:
        raise ValueError(f"rows: want floats in the denoiser's space or (n, L) non-uint8 integers, got {kind} of shape {tuple(rows.shape)}")
    return samples if isinstance(rows, torch.Tensor) else samples.numpy()


def fresh_batches(sample: Callable[..., Any], batch_size: int, *, seed: int, offset: int = 0) -> Iterator[Any]:
    """Batches of training rows that are never repeated: a model trained on them has no training set and cannot be biased towards one.

    The negative control of a whole run. Batch k is sample(batch_size, seed=seed, offset=offset + k * batch_size). Several models share one
    iterator and take batches in turn: their rows are disjoint.

    Args:
        sample: counter-based source, (n, *, seed, offset) -> rows offset..offset+n of the list that seed fixes: TreeGrammar.sample.
        offset: first row; keep it behind every row that a training or held-out set was cut from.
    """
    if not is_whole(batch_size, 1):
        raise ValueError(f"batch_size: want a whole number of at least 1, got {batch_size!r}")
    return (sample(batch_size, seed=seed, offset=first) for first in count(offset, batch_size))


def _rows(rows: Any, name: str) -> np.ndarray | torch.Tensor:
    """The rows of an array, a tensor or a TrainingSet, at least one."""
    rows = rows.rows if hasattr(rows, "prepared") else rows
    dtype_name(rows, name)
    if rows.ndim < 2 or 0 in rows.shape:
        raise ValueError(f"{name}: want at least one row, shape (rows, ...) without a zero, got shape {tuple(rows.shape)}")
    return rows
