"""Redrawn clusters against explicit redrawing, closed-form variances and the coverage of the ratio's interval."""
import numpy as np
import pytest

from biasgen.statistics import bootstrap
from biasgen.statistics.bootstrap import cluster_sums, ratio, redrawn_sums
from biasgen.statistics.intervals import Z95


def test_cluster_sums_by_hand():
    values = np.array([[1.0, 10], [2, 20], [3, 30], [4, 40]])
    clusters = np.array([7, -1, 7, 3])
    assert np.array_equal(cluster_sums(values, clusters), [[2, 20], [4, 40], [4, 40]])     # -1, 3, 7
    assert np.array_equal(cluster_sums(values[:, 0], clusters), [[2], [4], [4]])
    assert np.array_equal(cluster_sums(values[:, 0], None), values[:, :1])
    assert cluster_sums(np.array([True, False]), None).dtype == np.float64


@pytest.mark.parametrize(
    ("name", "values", "clusters"),
    [
        ("values", np.zeros((2, 2, 2)), None),
        ("values", np.zeros(0), None),
        ("values", np.array([1.0, np.nan]), None),
        ("clusters", np.zeros(3), np.zeros(2, dtype=int)),
        ("clusters", np.zeros(3), np.zeros(3)),
    ],
)
def test_cluster_sums_checks(name, values, clusters):
    with pytest.raises(ValueError, match=f"^{name}: "):
        cluster_sums(values, clusters)


def test_redrawn_sums_are_sums_over_drawn_clusters(monkeypatch):
    monkeypatch.setattr(bootstrap, "_BLOCK_ENTRIES", 9)
    totals = redrawn_sums(np.array([[1.0, 1], [100, 1], [10_000, 1]]), 500, np.random.default_rng(0))
    assert totals.shape == (500, 2)
    assert np.array_equal(totals[:, 1], np.full(500, 3)), "three clusters are drawn each time"
    drawn = np.stack([totals[:, 0] // 100**k % 100 for k in range(3)], axis=1)
    assert np.array_equal(drawn.sum(axis=1), np.full(500, 3))
    shares = [np.mean((drawn == counts).all(axis=1)) for counts in ([3, 0, 0], [1, 1, 1], [0, 2, 1])]
    np.testing.assert_allclose(shares, [1 / 27, 6 / 27, 3 / 27], atol=4 * np.sqrt(0.2 * 0.8 / 500))


def test_redrawn_sums_have_the_bootstrap_variance_and_keep_columns_together():
    rng = np.random.default_rng(0)
    sums = rng.standard_normal((40, 2)) * [1, 5]
    totals = redrawn_sums(sums, 40_000, rng)
    np.testing.assert_allclose(np.cov(totals.T), 40 * np.cov(sums.T, bias=True), rtol=0.04, atol=2)
    same = redrawn_sums(np.repeat(sums[:, :1], 2, axis=1), 50, rng)
    assert np.array_equal(same[:, 0], same[:, 1])


def test_no_redraws():
    assert redrawn_sums(np.ones((4, 3)), 0, np.random.default_rng(0)).shape == (0, 3)


def test_models_are_redrawn_too():
    rng = np.random.default_rng(1)
    models = [rng.standard_normal((30, 1)) + 4 * model for model in range(3)]
    totals = redrawn_sums(models, 40_000, np.random.default_rng(2))[:, 0]
    sums = np.array([own.sum() for own in models])
    within = np.mean([30 * own.var() for own in models])
    assert totals.mean() == pytest.approx(sums.sum(), abs=4 * totals.std() / 200)
    assert totals.var() == pytest.approx(3 * (sums.var() + within), rel=0.04)
    equal = redrawn_sums([np.ones((5, 1))] * 3, 10, np.random.default_rng(0))
    assert np.array_equal(equal, np.full((10, 1), 15))


def test_ratio_is_a_ratio_of_sums():
    value, (low, high) = ratio(np.array([1.0, 3, 8]), np.array([1.0, 1, 2]))
    assert value == 3
    assert low < 3 < high
    assert ratio(np.array([2.0, 4, 6]), np.array([1.0, 2, 3])) == (2, (2, 2))     # each row has the ratio: nothing spreads


def test_repeated_noise_of_one_image_is_not_new_data():
    rng = np.random.default_rng(4)
    images = rng.standard_normal(200)
    ones = np.ones(2000)
    once = np.ptp(ratio(images, ones[:200])[1])
    assert once == pytest.approx(2 * Z95 * images.std() / np.sqrt(200), rel=0.1)
    repeated = {"numerator": np.repeat(images, 10), "denominator": ones}
    assert np.ptp(ratio(**repeated, clusters=np.repeat(np.arange(200), 10))[1]) == pytest.approx(once, rel=1e-9)
    assert np.ptp(ratio(**repeated)[1]) == pytest.approx(once / np.sqrt(10), rel=0.1)


def test_interval_of_a_ratio_covers():
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(400):
        denominator = rng.exponential(size=60)
        low, high = ratio(denominator * (2 + rng.standard_normal(60)), denominator, redraws=199, seed=seed)[1]
        covered += low <= 2 <= high
    assert 0.90 <= covered / 400 <= 0.98


def test_redraws_without_a_denominator_are_left_out():
    value, (low, high) = ratio(np.array([1.0, 0, 0]), np.array([1.0, 0, 0]))
    assert (value, low, high) == (1, 1, 1)


def test_seed_fixes_the_interval():
    rows = np.random.default_rng(0).random((2, 50))
    assert ratio(*rows, seed=3) == ratio(*rows, seed=3)
    assert ratio(*rows, seed=3) != ratio(*rows, seed=4)


@pytest.mark.parametrize(
    ("name", "numerator", "denominator", "clusters"),
    [
        ("numerator, denominator", [1.0, 2.0], [1.0], None),
        ("numerator, denominator", [[1.0, 2.0]], [[1.0, 2.0]], None),
        ("denominator", [1.0, 2.0], [0.0, 0.0], None),
        ("denominator", [1.0, 2.0], [1.0, -1.0], None),
        ("denominator", [1.0, 2.0], [1.0, np.nan], None),
        ("values", [1.0, np.nan], [1.0, 1.0], None),
        ("clusters", [1.0, 2.0], [1.0, 1.0], np.array([5, 5])),
    ],
)
def test_ratio_checks(name, numerator, denominator, clusters):
    with pytest.raises(ValueError, match=f"^{name}: "):
        ratio(np.array(numerator), np.array(denominator), clusters=clusters)
