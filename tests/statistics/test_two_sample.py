"""Two samples: SciPy's numbers, small cases enumerated, intervals and sizes by simulation, models relabeled together."""
import math
import warnings
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from biasgen.statistics import two_sample
from biasgen.statistics.two_sample import auc, kolmogorov_smirnov, wasserstein

TESTS = (auc, wasserstein, kolmogorov_smirnov)


@pytest.fixture(autouse=True, scope="module")
def _few_redraws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_sample, "_REDRAWS", 99)
        yield


def by_definition(test, first, second):
    if test is auc:
        return float((first[:, None] < second).mean() + (first[:, None] == second).mean() / 2)
    if test is wasserstein:
        return scipy.stats.wasserstein_distance(first, second)
    with warnings.catch_warnings(action="ignore"):     # about its p on a few rows
        return scipy.stats.ks_2samp(first, second, method="asymp").statistic


def integers(n, top, seed):
    return np.random.default_rng(seed).integers(0, top, n)


@settings(max_examples=60, deadline=None)
@given(
    first=st.lists(st.integers(0, 12), min_size=1, max_size=20),
    second=st.lists(st.integers(0, 12), min_size=1, max_size=20),
    scale=st.sampled_from([1, 0.37, 1 / 3]),
)
def test_values_are_scipys(first, second, scale):
    pair = (np.array(first) * scale, np.array(second) * scale)
    for test in TESTS:
        result = test([pair], permutations=1, seed=0)
        assert result.value == pytest.approx(by_definition(test, *pair), abs=1e-12)
        assert (result.n_gen, result.n_heldout) == (len(first), len(second))


@pytest.mark.parametrize("top", [4, 10**9], ids=["ties", "continuous"])
def test_z_is_that_of_mann_whitney(top):
    first, second = integers(300, top, 1), integers(200, top + top // 4, 2)
    scipys = scipy.stats.mannwhitneyu(first, second, method="asymptotic", use_continuity=False)
    result = auc([(first, second)], permutations=999, seed=0)
    assert result.value == pytest.approx(1 - scipys.statistic / 60_000, rel=1e-12)
    assert 2 * scipy.stats.norm.sf(abs(result.params["z_u"])) == pytest.approx(scipys.pvalue, rel=1e-9)
    assert result.params["z_u"] < 0     # first is the smaller
    assert result.heldout == 0.5


def test_equal_values_say_nothing():
    same = np.full(5, 3)
    result = auc([(same, same)], permutations=9, seed=0)
    assert (result.value, result.p_value, result.params["z_u"]) == (0.5, 1.0, 0.0)
    for test in (wasserstein, kolmogorov_smirnov):
        assert (test([(same, same)], permutations=9, seed=0).value, test([(same, same)], permutations=9, seed=0).p_value) == (0.0, 1.0)


@pytest.mark.parametrize("rows_a_class", [0, 10**9], ids=["classes", "labels"])
@pytest.mark.parametrize("test", TESTS)
def test_null_enumerated(monkeypatch, test, rows_a_class):
    monkeypatch.setattr(two_sample, "_ROWS_A_CLASS", rows_a_class)
    first, second = np.array([0.0, 0.0, 1.0, 4.0]), np.array([1.0, 5.0, 2.0])
    pooled = np.concatenate([first, second])
    exact = []
    for chosen in combinations(range(7), 4):
        mask = np.isin(np.arange(7), chosen)
        exact.append(by_definition(test, pooled[mask], pooled[~mask]))
    result = test([(first, second)], permutations=4000, seed=0)
    assert result.null.mean == pytest.approx(np.mean(exact), rel=0.02)
    assert result.p_value == pytest.approx(np.mean(np.array(exact) >= result.value - 1e-12), abs=0.03)
    assert result.null.q95 == pytest.approx(np.quantile(exact, 0.95, method="inverted_cdf"), rel=0.2)


def test_null_mean_of_auc_is_exact():
    result = auc([(integers(40, 9, 1), integers(70, 9, 2))], permutations=1, seed=0)
    assert result.null.mean == 0.5


@pytest.mark.parametrize("test", TESTS)
def test_models_are_averaged_and_relabeled_together(test):
    pair = (integers(200, 30, 1), integers(150, 28, 2))
    other = (integers(200, 30, 3), integers(150, 30, 4))
    one = test([pair], permutations=199, seed=5)
    twice = test([pair, pair], permutations=199, seed=5)
    assert twice.value == pytest.approx(one.value)
    assert twice.ci == pytest.approx(one.ci)
    assert twice.null.q95 == pytest.approx(one.null.q95)
    both = test([pair, other], permutations=999, seed=5)
    assert both.value == pytest.approx(np.mean([by_definition(test, *p) for p in (pair, other)]))
    if test is auc:     # independent models: the deviation shrinks by the square root of two
        ratio = (both.null.q95 - 0.5) / (one.null.q95 - 0.5)
        assert 0.55 < ratio < 0.87


def test_delong_interval_of_one_model():
    first, second = integers(60, 20, 1), integers(80, 22, 2)
    of_first = [(a < second).mean() + (a == second).mean() / 2 for a in first]
    of_second = [(first < b).mean() + (first == b).mean() / 2 for b in second]
    spread = 1.959964 * math.sqrt(np.var(of_first, ddof=1) / 60 + np.var(of_second, ddof=1) / 80)
    value = np.mean(of_first)
    assert auc([(first, second)], permutations=1, seed=0).ci == pytest.approx((value - spread, value + spread), abs=1e-6)


def test_one_row_has_no_variance_to_measure():
    assert auc([(np.array([1]), np.array([0, 2, 5]))], permutations=9, seed=0).ci == (0.0, 1.0)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_intervals_cover_the_expectation(monkeypatch, shift):
    monkeypatch.setattr(two_sample, "_REDRAWS", 199)
    rng = np.random.default_rng(3)
    draw = lambda: (rng.normal(size=150), rng.normal(shift, 1, 200))     # noqa: E731
    for test in TESTS:
        expectation = np.mean([by_definition(test, *draw()) for _ in range(2000)])
        cover = 0
        for _ in range(100):
            result = test([draw()], permutations=1, seed=0)
            low, high = result.ci
            assert low <= result.value <= high     # the percentiles of redrawn distances would often miss it
            cover += low <= expectation <= high
        assert cover >= 87, test     # 95 % of 100; below 87 has probability 1e-3


def test_size_and_power():
    rejected = dict.fromkeys(TESTS, 0)
    rng = np.random.default_rng(4)
    for _ in range(200):
        pair = (rng.poisson(5, 100), rng.poisson(5, 300))
        for test in TESTS:
            rejected[test] += test([pair], permutations=99, seed=int(rng.integers(2**32))).p_value <= 0.05
    assert max(rejected.values()) <= 20, rejected     # 5 % of 200; above 20 has probability 1e-3
    nearer, farther = (rng.poisson(3, 100), rng.poisson(5, 300)), (rng.poisson(7, 100), rng.poisson(5, 300))
    assert [test([nearer], permutations=99, seed=0).p_value for test in TESTS] == [0.01] * 3
    assert auc([farther], permutations=99, seed=0).p_value == 1.0     # signed; the others are not
    assert [test([farther], permutations=99, seed=0).p_value for test in TESTS[1:]] == [0.01] * 2


def test_an_affine_scale_of_the_values():
    pair = (integers(100, 50, 1), integers(90, 60, 2))
    moved = tuple(values * 4 + 7 for values in pair)
    for test in TESTS:
        one, other = (test([p], permutations=99, seed=1) for p in (pair, moved))
        factor = 4 if test is wasserstein else 1
        assert other.value == pytest.approx(factor * one.value)
        assert other.ci == pytest.approx((factor * one.ci[0], factor * one.ci[1]))
        assert other.p_value == one.p_value
