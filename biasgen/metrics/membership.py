"""Membership: can the rows of the training set be told from held-out rows by their denoising loss?"""
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch

from biasgen.metrics._sets import check_settings, rows_of, to_numpy
from biasgen.results import Membership, Result
from biasgen.statistics import two_sample
from biasgen.statistics.intervals import wilson
from biasgen.statistics.permutation import random_labels, upper_tail


def membership(
    loss: Callable[[Any, float], Any],
    *,
    train: Any,
    heldout: Any,
    t: float | Sequence[float],
    fpr: float = 1e-3,
    permutations: int = 999,
    seed: int = 0,
) -> Membership:
    """How well the loss of single rows tells training rows from held-out rows: on average, and for the few that it tells surely.

    Args:
        loss: loss(rows, t) -> (N,) loss of each row at noise level t, averaged over its repeats of the noise; repeats are not new rows.
        train (m, ...), heldout (h, ...): arrays, tensors or a TrainingSet, as `loss` takes them.
        t: noise level, or several: a row's loss is its mean over them.
        fpr: share of held-out rows that may be mistaken for training rows, at least 1 / h.
        permutations, seed: of both nulls, which relabel the losses at the true sizes.

    Returns:
        Membership(auc, tpr). auc: P(training loss < held-out loss) + P(=) / 2, see statistics.two_sample.auc. tpr: share of training rows
        below the largest held-out loss that at most a share `fpr` of held-out rows lie below; heldout is that share and
        params["threshold"] that loss. Without ties the null mean is (k + 1) / (h + 1), k = floor(fpr h): a little above fpr. The interval
        is Wilson's, given the threshold.

    Raises ValueError for settings that cannot be tested or losses that are not finite numbers, one a row.
    Source: Carlini et al. 2022, arXiv:2112.03570 (low false-positive rates); Carlini et al. 2023, arXiv:2301.13188 (diffusion losses).
    """
    check_settings(permutations=permutations)
    if not callable(loss):
        raise TypeError(f"loss: want a function of (rows, t), got {type(loss).__name__}")
    levels = [t] if isinstance(t, Real) else list(t)
    if not levels:
        raise ValueError("t: want at least one noise level, got none")
    train, heldout = rows_of(train, "train"), rows_of(heldout, "heldout")
    m, h = len(train), len(heldout)
    if not 1 / h <= fpr < 1:
        raise ValueError(f"fpr: want a share in [1 / {h}, 1), the smallest that {h} held-out rows can show, got {fpr!r}")
    losses = np.concatenate([_losses(loss, train, levels, "train"), _losses(loss, heldout, levels, "heldout")])
    params = {"t": levels, "permutations": permutations, "seed": seed}
    auc = two_sample.auc([(losses[:m], losses[m:])], permutations=permutations, seed=seed)
    return Membership(
        auc=replace(auc, n_gen=None, n_train=m, params=auc.params | params),
        tpr=_true_positives(losses, m, fpr, permutations, seed, params),
    )


def _true_positives(losses: np.ndarray, m: int, fpr: float, permutations: int, seed: int, params: dict[str, Any]) -> Result:
    """The Result of losses (m + h,), training rows first."""
    h = len(losses) - m
    allowed = int(fpr * h * (1 + 1e-12))     # .001 * 3000 is 3, less a rounding
    order = np.argsort(losses, kind="stable")
    ordered = losses[order]
    first_equal = np.searchsorted(ordered, ordered, side="left")

    def told(heldout: np.ndarray) -> tuple[int, int, int]:
        """(training rows, held-out rows) below the threshold, and its place, for labels (m + h,) in the order of the losses."""
        places = np.flatnonzero(heldout)[: allowed + 1]
        threshold = first_equal[places[-1]]
        mistaken = np.searchsorted(places, threshold)
        return threshold - mistaken, mistaken, threshold

    count, mistaken, threshold = (int(number) for number in told(order >= m))
    rng = np.random.default_rng(seed)
    permuted = np.array([told(~row)[0] for block in random_labels(m + h, m, permutations, rng) for row in block]) / m
    null, p_value = upper_tail(count / m, permuted, method="labels of train and heldout")
    return Result(
        count / m,
        ci=wilson(count, m),
        null=null,
        p_value=p_value,
        heldout=mistaken / h,
        n_train=m,
        n_heldout=h,
        params=params | {"fpr": fpr, "threshold": float(ordered[threshold])},
    )


def _losses(loss: Callable[[Any, float], Any], rows: Any, levels: list[float], name: str) -> np.ndarray:
    """(N,) loss of each row, the mean over `levels`."""
    found = []
    for t in levels:
        with torch.no_grad():
            values = np.asarray(to_numpy(loss(rows, t)), dtype=np.float64)
        if values.shape != (len(rows),):
            raise ValueError(f"loss: want shape ({len(rows)},), one number a row of {name}, got {values.shape} at t = {t}")
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"loss: want finite numbers, got {values[row]} for row {row} of {name} at t = {t}")
        found.append(values)
    return np.mean(found, axis=0)
