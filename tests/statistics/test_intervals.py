"""Intervals and tails against SciPy and by simulation."""
import numpy as np
import pytest
import scipy.stats

from biasgen.statistics.intervals import binomial_log_pmf, reflected, student_upper_tail, wilson


@pytest.mark.parametrize(("count", "n"), [(0, 50), (1, 50), (17, 40), (50, 50), (130, 20_000)])
def test_wilson_is_scipys(count, n):
    expected = scipy.stats.binomtest(count, n).proportion_ci(0.95, method="wilson")
    assert wilson(count, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (30, 0.1), (50_000, 0.0107)])
def test_binomial_is_scipys(n, p):
    log_pmf = binomial_log_pmf(n, p)
    np.testing.assert_allclose(np.exp(log_pmf), scipy.stats.binom.pmf(np.arange(n + 1), n, p), rtol=1e-8, atol=1e-300)
    assert np.exp(log_pmf).sum() == pytest.approx(1, abs=1e-9)


def test_reflected_uses_the_spread_only():
    resampled = np.random.default_rng(0).exponential(size=4000)
    low, high = reflected(2.0, resampled)
    assert reflected(2.0, resampled + 5) == pytest.approx((low, high))
    assert 2.0 - low > high - 2.0     # redrawn values reach far up, so the truth may lie far down


@pytest.mark.parametrize("degrees", [0.5, 1, 1.5, 2, 3, 7, 19.3, 100, 199.9, 200.1, 998, 10_000, 1_000_000])
def test_student_is_scipys(degrees):
    for t in (1e-3, 0.1, 0.5, 1, 1.5, 1.7, 2, 3, 5, 10, 30, 1e4):
        for signed in (t, -t):
            assert student_upper_tail(signed, degrees) == pytest.approx(scipy.stats.t.sf(signed, degrees), rel=1e-10, abs=1e-290)


@pytest.mark.parametrize("t", [0.0, 1e-9, 0.3, 7.0, 1e8])
def test_student_closed_forms(t):
    assert student_upper_tail(t, 1) == pytest.approx(np.arctan2(1, t) / np.pi, rel=1e-13)     # SciPy has .5 at 1e-9
    assert student_upper_tail(t, 2) == pytest.approx(1 / (2 + t**2 + t * np.sqrt(2 + t**2)), rel=1e-12)


def test_student_limits_and_checks():
    assert student_upper_tail(np.inf, 3) == 0
    assert student_upper_tail(-np.inf, 3) == 1
    assert student_upper_tail(0.0, 3) == 0.5
    with pytest.raises(ValueError, match=r"^t: "):
        student_upper_tail(np.nan, 3)
    for degrees in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"^degrees: "):
            student_upper_tail(1.0, degrees)
