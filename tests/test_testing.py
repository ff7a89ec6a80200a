"""The comparators catch planted errors."""
import numpy as np
import pytest

from biasgen.results import TreePosterior
from biasgen.testing import assert_posterior_close


@pytest.fixture
def expected():
    marginals = np.array([[[0.25, 0.75 - 1e-30, 1e-30, 1e-44], [1.0, 0.0, 0.0, 0.0]], np.zeros((2, 4))])
    return marginals, np.array([-300.0, -np.inf]), np.array([False, True])


def posterior(expected):
    marginals, log_z, impossible = (x.copy() for x in expected)
    marginals = marginals.astype(np.float32)
    marginals[marginals < 2.0**-126] = 0
    return TreePosterior(marginals, log_z, impossible)


def test_the_right_answer_passes(expected):
    assert_posterior_close(posterior(expected), expected)
    assert_posterior_close(posterior(expected), TreePosterior(*expected))
    slightly_off = posterior(expected)
    slightly_off.marginals[0, 0] *= np.float32(1 + 5e-6)
    slightly_off.log_z[0] += 3e-5
    assert_posterior_close(slightly_off, expected)


@pytest.mark.parametrize(
    ("field", "index", "value"),
    [
        ("marginals", (0, 0, 0), 0.250006),
        ("marginals", (0, 0, 0), np.nan),
        ("marginals", (0, 0, 2), 1.0001e-30),
        ("marginals", (0, 0, 2), 0.0),
        ("marginals", (0, 0, 3), 1e-44),
        ("marginals", (0, 1, 1), 1e-37),
        ("marginals", (1, 0, 0), 0.25),
        ("log_z", (0,), -300.00005),
        ("log_z", (0,), np.nan),
        ("log_z", (1,), -1e300),
        ("log_z", (1,), np.nan),
        ("impossible", (0,), True),
        ("impossible", (1,), False),
    ],
)
def test_a_planted_error_is_caught(expected, field, index, value):
    wrong = posterior(expected)
    getattr(wrong, field)[index] = value
    with pytest.raises(AssertionError, match=field):
        assert_posterior_close(wrong, expected)


@pytest.mark.parametrize("field", ["marginals", "log_z", "impossible"])
def test_a_wrong_type_or_shape_is_caught(expected, field):
    right = posterior(expected)
    values = {name: getattr(right, name) for name in ("marginals", "log_z", "impossible")}
    with pytest.raises(AssertionError, match=field):
        assert_posterior_close(TreePosterior(**values | {field: values[field].astype(np.float16)}), expected)
    with pytest.raises(AssertionError, match=field):
        assert_posterior_close(TreePosterior(**values | {field: values[field][:1]}), expected)
