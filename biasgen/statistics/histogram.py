"""Histograms of per-row numbers whose rows can be relabeled or redrawn, also for several numbers a row at once."""
import numpy as np


def integer_bins(values: np.ndarray, largest: int) -> tuple[np.ndarray, int]:
    """(bin of each value, number of bins): one bin for each of 0..largest."""
    return values.astype(np.int64), largest + 1


def quantile_bins(values: np.ndarray, bins: int = 20) -> tuple[np.ndarray, int]:
    """(bin of each value, number of bins) with edges at the quantiles k / bins of `values`.

    Equal values share a bin, so heavy ties leave fewer bins. The bins see the pooled values only, never the labels: a permutation test
    on them stays exact.
    """
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    edges = edges[edges < values.max()]     # an edge at the maximum would close an empty last bin
    return np.searchsorted(edges, values, side="left"), len(edges) + 1


class JointHistogram:
    """Rows counted by the tuple of their bins, one bin for each of the row's numbers.

    The tuples that occur are the cells. What happens to a row (relabeled, redrawn) happens to all its numbers together, so the
    dependence between them is kept.
    """

    def __init__(self, binned: list[tuple[np.ndarray, int]]) -> None:
        """binned: for each number (bin of each row (N,), number of bins)."""
        self._bins = [bins for _, bins in binned]
        cells, self._cell_of_row = np.unique(np.ravel_multi_index([code for code, _ in binned], self._bins), return_inverse=True)
        self._groups = []     # for each number: cells in the order of their bin, where each bin starts, which bins those are
        for column in np.unravel_index(cells, self._bins):
            order = np.argsort(column, kind="stable")
            occupied, starts = np.unique(column[order], return_index=True)
            self._groups.append((order, starts, occupied))
        self.n_cells = len(cells)

    def counts(self, rows: slice) -> np.ndarray:
        """(C,) rows in each cell."""
        return np.bincount(self._cell_of_row[rows], minlength=self.n_cells)

    def marginals(self, counts: np.ndarray) -> list[np.ndarray]:
        """For each number its histogram (..., bins), from cell counts (..., C)."""
        histograms = []
        for (order, starts, occupied), bins in zip(self._groups, self._bins, strict=True):
            histogram = np.zeros((*counts.shape[:-1], bins), dtype=np.int64)
            histogram[..., occupied] = np.add.reduceat(counts[..., order], starts, axis=-1)
            histograms.append(histogram)
        return histograms
