"""Bins and joint histograms against direct counting."""
import numpy as np

from biasgen.statistics.histogram import JointHistogram, integer_bins, quantile_bins


def test_quantile_bins_are_even_without_ties():
    code, bins = quantile_bins(np.random.default_rng(0).permutation(2000) / 7)
    assert bins == 20
    assert np.array_equal(np.bincount(code), np.full(20, 100))


def test_quantile_bins_keep_equal_values_together_and_drop_empty_bins():
    values = np.array([0.0] * 50 + [1.0] * 40 + [2.0] * 2 + [3.0] * 8)     # the quantiles .95 and below are 0, 1, 3: 2 joins 3
    code, bins = quantile_bins(values)
    assert bins == 3
    assert [set(code[values == value]) for value in (0, 1, 2, 3)] == [{0}, {1}, {2}, {2}]


def test_quantile_bins_of_one_value():
    code, bins = quantile_bins(np.full(30, 3))
    assert bins == 1
    assert not code.any()


def test_quantile_bins_do_not_depend_on_row_order():
    values = np.random.default_rng(3).integers(0, 60, 500)
    order = np.random.default_rng(4).permutation(500)
    assert np.array_equal(quantile_bins(values)[0][order], quantile_bins(values[order])[0])


def test_marginals_of_joint_counts_are_the_plain_histograms():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, 300), rng.integers(0, 9, 300)
    joint = JointHistogram([integer_bins(a, 6), integer_bins(b, 8)])
    for rows in (slice(0, 100), slice(100, 300), slice(0, 300)):
        counts = joint.counts(rows)
        ha, hb = joint.marginals(np.stack([counts, 2 * counts]))
        assert np.array_equal(ha[0], np.bincount(a[rows], minlength=7))
        assert np.array_equal(hb[1], 2 * np.bincount(b[rows], minlength=9))


def test_cells_keep_the_pairs():
    a = np.array([0, 0, 1, 1, 1])
    joint = JointHistogram([integer_bins(a, 1), integer_bins(1 - a, 1)])
    assert joint.n_cells == 2     # (0, 1) and (1, 0); a product of marginals would have four
    assert np.array_equal(joint.counts(slice(0, 5)), [2, 3])
