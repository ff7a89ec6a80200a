"""Permutation nulls: subsets and their sums by hand and by moments, the tolerance of >=, exact enumeration of a small case."""
from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from biasgen.statistics import permutation
from biasgen.statistics.permutation import permuted_counts, random_labels, subset_sums, upper_tail


@pytest.mark.parametrize("method_ratio", [0, 10**9], ids=["marginals", "count"])
def test_subset_sums_have_the_law_of_random_subsets(monkeypatch, method_ratio):
    monkeypatch.setattr(permutation, "_SWAPS_A_DRAW", method_ratio)
    weights = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 2.5, -1.0])
    sums = subset_sums(weights, 3, 20_000, np.random.default_rng(1))
    exact = [sum(subset) for subset in combinations(weights, 3)]
    values, shares = np.unique(exact, return_counts=True)
    seen = np.array([(sums == value).mean() for value in values])
    assert seen.sum() == pytest.approx(1)
    np.testing.assert_allclose(seen, shares / len(exact), atol=0.015)     # four standard errors of a share at 20 000


def test_subset_sums_of_everything_and_of_nothing():
    weights = np.array([0.25, 0.5, 4.0])
    rng = np.random.default_rng(0)
    assert np.array_equal(subset_sums(weights, 3, 5, rng), np.full(5, 4.75))
    assert np.array_equal(subset_sums(weights, 0, 5, rng), np.zeros(5))


def test_blocks_cover_all_permutations(monkeypatch):
    monkeypatch.setattr(permutation, "_BLOCK_ENTRIES", 9)
    blocks = list(permuted_counts(np.array([3, 2, 4]), 5, 10, np.random.default_rng(0)))
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    assert all((block.sum(1) == 5).all() for block in blocks)


def test_mean_of_the_permutations_is_the_share_of_labels():
    rng = np.random.default_rng(2)
    weights = rng.multinomial(4000, np.ones(6000) / 6000) / 4000
    sums = subset_sums(weights, 2000, 999, rng)
    assert abs(sums.mean() - 1 / 3) < 4 * sums.std() / np.sqrt(999)


def test_equal_up_to_rounding_counts_as_reached():
    value = 0.1 + 0.2
    null, p = upper_tail(value, np.array([0.3, 0.3, 0.0]), method="m")     # 0.3 < 0.1 + 0.2 in floating point
    assert p == 3 / 4
    assert null.method == "m, 3 permutations"
    assert null.mean == pytest.approx(0.2)


def test_p_is_never_zero_and_the_known_mean_is_kept():
    null, p = upper_tail(2.0, np.zeros(99), mean=0.5, method="m")
    assert (p, null.mean, null.q95) == (0.01, 0.5, 0.0)


@pytest.mark.parametrize("size", [0, 1, 3, 5, 6])
@pytest.mark.parametrize("rate_error", [0, -20_000, 20_000], ids=["rate", "too low", "too high"])
def test_random_labels_are_uniform_subsets_at_any_rate_of_the_coin(monkeypatch, size, rate_error):
    monkeypatch.setattr(permutation, "round", lambda x: max(0, round(x) + rate_error), raising=False)
    blocks = list(random_labels(6, size, 20_000, np.random.default_rng(3)))
    labels = np.concatenate(blocks)
    assert labels.shape == (20_000, 6)
    assert labels.dtype == bool
    assert (labels.sum(axis=1) == size).all()
    seen = np.bincount(labels @ (1 << np.arange(6)), minlength=64)
    subsets = [sum(1 << i for i in subset) for subset in combinations(range(6), size)]
    np.testing.assert_allclose(seen[subsets] / 20_000, 1 / len(subsets), atol=4.5 * np.sqrt(1 / len(subsets) / 20_000))


def test_random_labels_come_in_blocks(monkeypatch):
    monkeypatch.setattr(permutation, "_BLOCK_ENTRIES", 30)
    assert [block.shape for block in random_labels(8, 3, 10, np.random.default_rng(0))] == [(3, 8)] * 3 + [(1, 8)]
    assert [block.shape for block in random_labels(50, 20, 2, np.random.default_rng(0))] == [(1, 50)] * 2


def test_random_labels_sum_as_subset_sums_do():
    weights = np.random.default_rng(0).exponential(size=3000)
    by_label = np.concatenate([block @ weights for block in random_labels(3000, 1000, 2000, np.random.default_rng(1))])
    by_class = subset_sums(weights, 1000, 2000, np.random.default_rng(2))
    assert scipy.stats.ks_2samp(by_label, by_class).pvalue > 1e-3


@pytest.mark.parametrize("size", [-1, 7])
def test_random_labels_checks(size):
    with pytest.raises(ValueError, match=r"^size: want 0 \.\. 6"):
        next(random_labels(6, size, 1, np.random.default_rng(0)))
