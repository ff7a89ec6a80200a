"""NN divergence over the checkpoints of a training, its rows redrawn jointly: what a turning point is found from."""
from collections.abc import Iterator

import numpy as np

from biasgen.metrics.nn_divergence import bins_of, kl_divergence
from biasgen.statistics.bootstrap import redrawn_sums

_ENTRIES = 1 << 23     # rows times bins held at once: 64 MiB

Binned = list[tuple[np.ndarray, int]]     # for each checkpoint and model: bin of each row, number of bins


def divergence_curve(
    checkpoints: list[list[tuple[np.ndarray, np.ndarray]]], *, largest: int | None, redraws: int = 999, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(curve (C,), redrawn (R, C)) of the NN divergence in nats at C checkpoints, for statistics.turning_point.lowest.

    Args:
        checkpoints: for each the pairs that nn_divergence.divergence takes, nearest distances (gen (n,), heldout (h,)), one pair a model;
            row i of every gen of every checkpoint comes from the same noise, row j of every heldout is the same row.
        largest: as divergence takes it.
        redraws, seed: of the bootstrap. A redraw takes n of the generated and h of the held-out row ids with replacement, the same for
            all checkpoints and models: their differences are far more precise than their values.

    The bins stay as they are at each checkpoint. Redrawn divergences lie above the curve, since redrawing adds noise to noise.
    Raises ValueError where numbers of rows or models differ. Memory: 64 MiB of histograms' rows beside statistics.bootstrap's.
    """
    sizes = {(len(pairs), len(gen), len(heldout)) for pairs in checkpoints for gen, heldout in pairs}
    if len(sizes) != 1:
        raise ValueError(f"checkpoints: want one number of models, gen rows and held-out rows in all, got {sorted(sizes)}")
    models, n, _ = sizes.pop()
    binned = [bins_of(np.concatenate(pair), largest) for pairs in checkpoints for pair in pairs]
    gen, heldout = ([(codes[rows], bins) for codes, bins in binned] for rows in (slice(0, n), slice(n, None)))
    of_gen, of_heldout = np.random.SeedSequence(seed).spawn(2)

    def over_checkpoints(gen_counts: Iterator[np.ndarray], heldout_counts: Iterator[np.ndarray]) -> np.ndarray:
        kl = np.array([kl_divergence(p, r) for p, r in zip(gen_counts, heldout_counts, strict=True)])
        return kl.reshape(len(checkpoints), models, -1).mean(axis=1).T

    curve = over_checkpoints(_histograms(gen), _histograms(heldout))[0]
    return curve, over_checkpoints(_redrawn(gen, redraws, of_gen), _redrawn(heldout, redraws, of_heldout))


def _histograms(binned: Binned) -> Iterator[np.ndarray]:
    return (np.bincount(codes, minlength=bins) for codes, bins in binned)


def _redrawn(binned: Binned, redraws: int, seed: np.random.SeedSequence) -> Iterator[np.ndarray]:
    """For each entry of `binned` its histograms (R, bins), of the same redrawn rows for all."""
    rows, most_bins = len(binned[0][0]), max(bins for _, bins in binned)
    step = max(1, _ENTRIES // (rows * most_bins))
    for start in range(0, len(binned), step):
        one_hot = [codes[:, None] == np.arange(bins) for codes, bins in binned[start : start + step]]
        sums = np.concatenate(one_hot, axis=1).astype(np.float64)
        ends = np.cumsum([part.shape[1] for part in one_hot])[:-1]
        yield from np.split(redrawn_sums(sums, redraws, np.random.default_rng(seed)), ends, axis=1)     # one seed: the same rows
