"""Benjamini-Hochberg against SciPy, and its false discovery rate by simulation."""
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from biasgen.statistics.false_discovery import q_values


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.5, 1.0])))
def test_q_is_scipys_and_monotone(p):
    q = q_values(p)
    np.testing.assert_allclose(q, scipy.stats.false_discovery_control(p), rtol=1e-14)
    order = np.argsort(p)
    assert (np.diff(q[order]) >= 0).all()
    assert (q >= p).all()


def test_by_hand():
    q = q_values(np.array([0.04, 0.01, 0.9, 0.03]))
    assert q == pytest.approx([0.16 / 3, 0.04, 0.9, 0.16 / 3])     # .03 * 4 / 2 is above .04 * 4 / 3
    assert len(q_values(np.array([]))) == 0


def test_false_discovery_rate_is_kept():
    rng = np.random.default_rng(0)
    p = rng.random((400, 100))
    p[:, :20] = scipy.stats.norm.sf(rng.standard_normal((400, 20)) + 3.5)
    reported = np.apply_along_axis(q_values, 1, p) <= 0.1
    false = reported[:, 20:].sum(axis=1) / np.maximum(1, reported.sum(axis=1))
    assert 0.065 <= false.mean() <= 0.095     # .1 * 80 / 100, three standard errors
    assert reported[:, :20].mean() > 0.7


@pytest.mark.parametrize("p", [[0.5, 1.1], [-0.1], [np.nan, 0.5], [[0.5]], 0.5])
def test_p_is_checked(p):
    with pytest.raises(ValueError, match=r"^p: want \(N,\) numbers in \[0, 1\]"):
        q_values(p)
