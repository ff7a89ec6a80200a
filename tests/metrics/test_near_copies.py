"""Near-copies and exact copies: thresholds by hand, the expected share of a grammar whose law is written down."""
import numpy as np
import pytest
import scipy.stats

from biasgen.metrics.exact_copies import exact_copies, expected_exact_copies
from biasgen.metrics.near_affinity import near_threshold
from biasgen.metrics.near_copies import near_copies


def rows(*texts: str) -> np.ndarray:
    return np.array([[int(c) for c in text] for text in texts], dtype=np.int8)


@pytest.mark.parametrize(
    ("distances", "alpha", "v"),
    [
        ([3, 1, 2, 2], 0.25, 1),
        ([3, 1, 2, 2], 0.74, 1),
        ([3, 1, 2, 2], 0.75, 2),
        ([3, 1, 2, 2], 0.24, None),
        ([0, 0, 0, 5], 0.5, None),
        ([2] * 99 + [1], 0.01, 1),
        ([0.5, 0.25, 0.75, 1.0], 0.5, 0.5),
    ],
)
def test_threshold(distances, alpha, v):
    assert near_threshold(np.array(distances), alpha) == v


def test_shares_by_hand():
    train, heldout = rows("0000"), rows("0001", "0011", "0111", "1111")
    result = near_copies(
        gen=rows("0000", "0001", "0010", "1111"), train=train, heldout=heldout, placebo=rows("1111"), alpha=0.25, permutations=19
    )
    assert result.params["threshold"] == 1
    assert (result.value, result.heldout, result.placebo) == (3 / 4, 1 / 4, 1 / 4)
    assert list(result.per_sample) == [0, 1, 1, 4]
    assert result.ci == pytest.approx((0.3006, 0.9544), abs=1e-3)     # Wilson, 3 of 4


def test_without_a_threshold_nothing_counts():
    result = near_copies(gen=rows("0000", "0001"), train=rows("0000"), heldout=rows("0000", "1111"))
    assert result.params["threshold"] is None
    assert (result.value, result.heldout, result.p_value) == (0.0, 0.0, 1.0)


def test_copies_have_a_small_p():
    rng = np.random.default_rng(0)
    draw = lambda n: rng.integers(0, 4, (n, 12)).astype(np.int8)     # noqa: E731
    train, heldout, other = draw(500), draw(500), draw(500)
    biased = near_copies(gen=np.concatenate([train[:25], draw(475)]), train=train, heldout=heldout, placebo=other, alpha=0.05)
    unbiased = near_copies(gen=draw(500), train=train, heldout=heldout, placebo=other, alpha=0.05)
    assert biased.p_value == 0.001
    assert biased.value > 0.05 > biased.placebo
    assert unbiased.p_value > 0.02
    assert 0 < biased.heldout <= 0.05


@pytest.mark.parametrize("alpha", [0, 1, 1.5])
def test_alpha_is_checked(alpha):
    with pytest.raises(ValueError, match=r"^alpha: want a share in \(0, 1\)"):
        near_copies(gen=rows("0"), train=rows("0"), heldout=rows("1"), alpha=alpha)


class Coin:
    """Rows of independent tokens, P(1) = .9."""

    def log_prob(self, tokens):
        return np.where(tokens == 1, np.log(0.9), np.log(0.1)).sum(1)


def test_expected_exact_copies_counts_distinct_rows():
    assert expected_exact_copies(Coin(), rows("11", "11", "10")) == pytest.approx(0.81 + 0.09)


def test_exact_copies_has_the_binomial_tail():
    gen = rows("11", "11", "00", "10", "01")
    result = exact_copies(gen=gen, train=rows("11", "10"), expected=0.3)
    assert result.value == 3 / 5
    assert result.null.mean == 0.3
    assert result.p_value == pytest.approx(scipy.stats.binom.sf(2, 5, 0.3))
    assert result.null.q95 == scipy.stats.binom.ppf(0.95, 5, 0.3) / 5
    assert exact_copies(gen=rows("00"), train=rows("11"), expected=0.3).p_value == pytest.approx(1)


@pytest.mark.parametrize("expected", [0, 1, float("nan")])
def test_expected_is_checked(expected):
    with pytest.raises(ValueError, match=r"^expected: "):
        exact_copies(gen=rows("0"), train=rows("0"), expected=expected)
