"""Intervals against SciPy and by simulation."""
import numpy as np
import pytest
import scipy.stats

from biasgen.statistics.intervals import binomial_log_pmf, reflected, wilson


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
