"""NN divergence: how differently generated and held-out rows are spaced from the training set."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from biasgen.metrics._nearest import compare
from biasgen.metrics._sets import rows_of
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.registry import register
from biasgen.results import Result
from biasgen.statistics.histogram import JointHistogram, integer_bins, quantile_bins
from biasgen.statistics.intervals import reflected
from biasgen.statistics.permutation import permuted_counts, upper_tail

_REDRAWS = 999
# The authors' choice: below the share of one row in any study, so that an empty bin of r costs
# up to 18 nats.
_PAPER_FLOOR = 1e-8


@register("nn_divergence")
def measure(comparison: Comparison, *, compat: str | None = None) -> Result:
    """nn_divergence of the sets of a comparison; the placebo where it has one."""
    if compat not in (None, "paper"):
        raise ValueError(f"compat: want None or 'paper', got {compat!r}")
    largest = largest_distance(comparison.train, comparison.distance)
    result = compare(comparison, partial(divergence, largest=largest, compat=compat))
    return replace(result, params=result.params | {"compat": compat})


def nn_divergence(
    *,
    gen: Any,
    train: Any,
    heldout: Any,
    placebo: Any = None,
    distance: str | None = None,
    permutations: int = 999,
    seed: int = 0,
    compat: str | None = None,
) -> Result:
    """KL divergence in nats of the nearest distances of generated from those of held-out rows.

    It compares the histograms of the distances gen -> train and heldout -> train.

    Unsigned, and zero in expectation only for a perfect sampler: it mixes the quality of samples
    with bias. Read it beside its placebo and null, and decide on train_affinity. Hamming distances
    have one bin each; others have 20 bins at the quantiles of the pooled distances.

    Args:
        gen (n, ...), train (m, ...), heldout (h, ...): arrays, tensors or a TrainingSet, of one
            shape and element type.
        placebo: rows the model never saw; the result's placebo is the same number against it.
        distance: name; None: the TrainingSet's own, else by element type.
        permutations, seed: of the null, which relabels the pooled distances at the true sizes.
        compat: None: 1/2 is added to every bin, then renormalized. "paper": shares clipped to
            [1e-8, 1], not renormalized; the null too.

    Returns:
        Result with the upper-tail p and per_sample = distances to train. params["gen_counts"] and
        params["heldout_counts"] are the two histograms where each distance has a bin. ci is an
        interval of the expectation of `value` at these sizes (so ci - null.mean is one of the
        excess): rows of both sets are redrawn and the deviations of the redrawn values from their
        own mean are put about `value`. The percentiles themselves would miss the estimate, because
        redrawing adds noise and a divergence counts noise as distance.

    Raises ValueError for sets that do not agree, before any search.
    Source: Garnier-Brun et al. 2026, arXiv:2603.03469, Fig. 4a; smoothing and null:
    docs/statistics.md.
    """
    sets = {"gen": gen, "train": train, "heldout": heldout, "placebo": placebo}
    test = {"permutations": permutations, "seed": seed}
    return measure(Comparison(**sets, distance=distance, **test), compat=compat)


def largest_distance(rows: Any, distance: str) -> int | None:
    """The number of positions L for hamming, whose distances have a bin each.

    None for a distance that is binned by quantiles.
    """
    return math.prod(rows_of(rows, "rows").shape[1:]) if distance == "hamming" else None


def bins_of(values: np.ndarray, largest: int | None) -> tuple[np.ndarray, int]:
    """(bin of each pooled distance, number of bins), largest as of largest_distance."""
    return quantile_bins(values) if largest is None else integer_bins(values, largest)


def divergence(
    pairs: list[tuple[np.ndarray, np.ndarray]],
    *,
    largest: int | None,
    permutations: int,
    seed: int,
    compat: str | None = None,
) -> Result:
    """The Result of nearest distances (gen (n,), heldout (h,)), one pair a model.

    The value is the mean over models.

    With several models row i of every gen comes from the same noise and row j of every heldout is
    the same row, so a row is relabeled (and redrawn for the interval) with all its distances at
    once: the null's variance is that of the mean, not of independent models.
    """
    n = len(pairs[0][0])
    h = len(pairs[0][1])
    histogram = JointHistogram([bins_of(np.concatenate(pair), largest) for pair in pairs])

    def mean_kl(gen: np.ndarray, heldout: np.ndarray) -> np.ndarray:
        marginals = zip(histogram.marginals(gen), histogram.marginals(heldout), strict=True)
        return np.mean([kl_divergence(p, r, compat) for p, r in marginals], axis=0)

    gen, heldout = histogram.counts(slice(0, n)), histogram.counts(slice(n, n + h))
    value = float(mean_kl(gen, heldout))
    rng = np.random.default_rng(seed)
    pooled = gen + heldout
    permuted = np.concatenate(
        [mean_kl(block, pooled - block) for block in permuted_counts(pooled, n, permutations, rng)]
    )
    null, p_value = upper_tail(value, permuted, method="labels of gen and heldout")
    redrawn = mean_kl(
        rng.multinomial(n, gen / n, size=_REDRAWS), rng.multinomial(h, heldout / h, size=_REDRAWS)
    )
    return Result(
        value,
        ci=reflected(value, redrawn),
        null=null,
        p_value=p_value,
        n_gen=n,
        n_heldout=h,
        params={
            "gen_counts": np.sum(histogram.marginals(gen), axis=0).tolist(),
            "heldout_counts": np.sum(histogram.marginals(heldout), axis=0).tolist(),
        }
        if largest is not None
        else {},
    )


def kl_divergence(
    p_counts: np.ndarray, r_counts: np.ndarray, compat: str | None = None
) -> np.ndarray:
    """KL(p || r) in nats of the shares behind two histograms (..., bins).

    compat: as in nn_divergence.
    """
    p, r = (
        _shares(np.asarray(counts, dtype=np.float64), compat) for counts in (p_counts, r_counts)
    )
    return (p * np.log(p / r)).sum(axis=-1)


def _shares(counts: np.ndarray, compat: str | None) -> np.ndarray:
    if compat == "paper":
        return np.clip(counts / counts.sum(axis=-1, keepdims=True), _PAPER_FLOOR, 1.0)
    smoothed = counts + 0.5
    return smoothed / smoothed.sum(axis=-1, keepdims=True)
