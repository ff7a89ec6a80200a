"""Bootstrap by cluster: rows that belong together (noise of one image, tokens of one sequence) are redrawn together."""
import numpy as np

from biasgen.statistics.intervals import reflected

_BLOCK_ENTRIES = 1 << 21     # draws held at once: 16 MiB each of draws, counts and weights


def cluster_sums(values: np.ndarray, clusters: np.ndarray | None) -> np.ndarray:
    """(C, K) float64 sums of `values` (N,) or (N, K) over the rows of each cluster, in ascending order of the ids.

    clusters (N,): integer ids; None: every row is its own. Sums instead of means, because a cluster counts by what it holds.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"values: want finite (N,) or (N, K) with N >= 1, got shape {values.shape}")
    values = values.reshape(len(values), -1)
    if clusters is None:
        return values
    clusters = np.asarray(clusters)
    if clusters.shape != (len(values),) or clusters.dtype.kind not in "iu":
        raise ValueError(f"clusters: want ({len(values)},) integer ids, got {clusters.dtype} {clusters.shape}")
    ids, cluster_of_row = np.unique(clusters, return_inverse=True)
    return np.stack([np.bincount(cluster_of_row, column, minlength=len(ids)) for column in values.T], axis=1)


def redrawn_sums(sums: np.ndarray | list[np.ndarray], redraws: int, rng: np.random.Generator) -> np.ndarray:
    """(redraws, K) totals of `sums` (C, K) over C clusters drawn with replacement.

    The K columns of a cluster go together, so what columns share (checkpoints on the same rows, numerator and denominator) stays shared.
    A list holds one such array a model: as many models are drawn with replacement, and the clusters of each draw within it. The draws
    of S models spread (S - 1) / S of the variance between models: with two models, half of it. Memory: 48 MiB, or one redraw if that is
    more. Source: Efron 1979; Davison & Hinkley 1997, section 3.8.
    """
    if isinstance(sums, list):
        models = rng.integers(0, len(sums), size=(redraws, len(sums)))
        totals = np.zeros((redraws, sums[0].shape[1]))
        for model, own in enumerate(sums):
            times = (models == model).sum(axis=1)
            np.add.at(totals, np.repeat(np.arange(redraws), times), redrawn_sums(own, int(times.sum()), rng))
        return totals
    C = len(sums)
    step = max(1, _BLOCK_ENTRIES // C)
    blocks = [np.empty((0, sums.shape[1]))]
    for start in range(0, redraws, step):
        b = min(step, redraws - start)
        drawn = rng.integers(0, C, size=(b, C)) + C * np.arange(b)[:, None]     # a bincount is 5 times quicker than rng.multinomial
        weights = np.bincount(drawn.ravel(), minlength=b * C).reshape(b, C)
        blocks.append(weights.astype(np.float64) @ sums)
    return np.concatenate(blocks)


def ratio(
    numerator: np.ndarray, denominator: np.ndarray, *, clusters: np.ndarray | None = None, redraws: int = 999, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """(sum(numerator) / sum(denominator), its 95 % interval) with clusters of rows redrawn.

    Args:
        numerator, denominator (N,): one entry a row; denominators >= 0 that are not all 0. Ones give a mean.
        clusters (N,): integer ids of what was drawn independently, e.g. the image behind each noised row; None: every row.
        redraws, seed: of the bootstrap.

    The deviations of the redrawn ratios from their own mean are put about the estimate (intervals.reflected). Redraws whose denominators
    are all 0 say nothing and are left out. Raises ValueError for other shapes and for fewer than 2 clusters, which have no spread.
    """
    numerator, denominator = (np.asarray(values, dtype=np.float64) for values in (numerator, denominator))
    if denominator.ndim != 1 or numerator.shape != denominator.shape:
        raise ValueError(f"numerator, denominator: want one shape (N,), got {numerator.shape} and {denominator.shape}")
    if not (denominator >= 0).all() or not denominator.any():
        raise ValueError("denominator: want numbers >= 0 that are not all 0")
    sums = cluster_sums(np.stack([numerator, denominator], axis=1), clusters)
    if len(sums) < 2:
        raise ValueError("clusters: want at least 2 (with one there is no spread to measure), got 1")
    value = float(numerator.sum() / denominator.sum())
    redrawn = redrawn_sums(sums, redraws, np.random.default_rng(seed))
    redrawn = redrawn[redrawn[:, 1] > 0]
    return value, reflected(value, redrawn[:, 0] / redrawn[:, 1])
