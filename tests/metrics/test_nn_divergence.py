"""NN divergence: the authors' golden value, SciPy's entropy, exact permutation of a small case, interval by simulation."""
from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from biasgen.metrics.nn_divergence import divergence, kl_divergence, nn_divergence


def uniform(n: int, seed: int, length: int = 8, q: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, q, (n, length)).astype(np.int8)


def test_golden_value_of_the_authors_formula():
    assert kl_divergence([2, 2, 0, 0], [1, 1, 2, 0], "paper") == pytest.approx(0.6931470032846, abs=1e-13)


def test_default_is_the_entropy_of_smoothed_histograms():
    p, r = np.array([5, 0, 2, 40]), np.array([1, 9, 0, 300])
    assert kl_divergence(p, r) == pytest.approx(scipy.stats.entropy(p + 0.5, r + 0.5), rel=1e-14)
    assert kl_divergence(p, p) == 0


@pytest.mark.parametrize("compat", [None, "paper"])
def test_whole_call_is_its_definition(compat):
    gen, train, heldout = uniform(200, 1), uniform(50, 2), uniform(300, 3)
    d_gen, d_heldout = ((x[:, None] != train[None]).sum(-1).min(1) for x in (gen, heldout))
    p, r = (np.bincount(d, minlength=9) for d in (d_gen, d_heldout))
    result = nn_divergence(gen=gen, train=train, heldout=heldout, compat=compat)
    if compat is None:
        expected = scipy.stats.entropy(p + 0.5, r + 0.5)
    else:
        p, r = np.clip(p / p.sum(), 1e-8, 1), np.clip(r / r.sum(), 1e-8, 1)
        expected = (p * np.log(p / r)).sum()
    assert result.value == pytest.approx(expected, rel=1e-12)
    assert np.array_equal(result.per_sample, d_gen)
    assert (result.n_gen, result.n_train, result.n_heldout) == (200, 50, 300)


def test_null_enumerated():
    gen, heldout = np.array([0, 0, 1]), np.array([1, 1, 2, 0])
    pooled = np.concatenate([gen, heldout])
    exact = []
    for chosen in combinations(range(7), 3):
        mask = np.isin(np.arange(7), chosen)
        exact.append(float(kl_divergence(np.bincount(pooled[mask], minlength=3), np.bincount(pooled[~mask], minlength=3))))
    result = divergence([(gen, heldout)], largest=2, permutations=5000, seed=0)
    assert result.null.mean == pytest.approx(np.mean(exact), rel=0.05)
    assert result.p_value == pytest.approx(np.mean(np.array(exact) >= result.value - 1e-12), abs=0.03)


def test_two_models_with_the_same_rows_are_one_model():
    gen, heldout = uniform(100, 1, 1, 6)[:, 0], uniform(300, 2, 1, 5)[:, 0]
    one = divergence([(gen, heldout)], largest=6, permutations=199, seed=5)
    two = divergence([(gen, heldout)] * 2, largest=6, permutations=199, seed=5)
    assert (two.value, two.null, two.p_value, two.ci) == (one.value, one.null, one.p_value, one.ci)


def test_independent_models_halve_the_variance_of_the_null_mean():
    pairs = [(uniform(2000, 4 * i, 1, 6)[:, 0], uniform(2000, 4 * i + 1, 1, 6)[:, 0]) for i in range(2)]
    one = divergence(pairs[:1], largest=6, permutations=999, seed=5)
    two = divergence(pairs, largest=6, permutations=999, seed=5)
    ratio = (one.null.q95 - one.null.mean) / (two.null.q95 - two.null.mean)
    assert 1.2 < ratio < 1.8     # sqrt(2), less the skewness of the single one


def test_placebo_is_the_same_number_elsewhere():
    gen, train, other, heldout = (uniform(80, seed) for seed in range(4))
    result = nn_divergence(gen=gen, train=train, heldout=heldout, placebo=other)
    assert result.placebo == nn_divergence(gen=gen, train=other, heldout=heldout).value


def test_quantile_bins_for_other_distances():
    rng = np.random.default_rng(0)
    draw = lambda n, top: rng.integers(0, top, (n, 12), dtype=np.uint8)     # noqa: E731
    same = nn_divergence(gen=draw(300, 200), train=draw(50, 200), heldout=draw(300, 200))
    darker = nn_divergence(gen=draw(300, 120), train=draw(50, 200), heldout=draw(300, 200))
    assert same.params["distance"] == "sqeuclidean"
    assert same.p_value > 0.01
    assert darker.p_value == 0.001


@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_interval_covers_the_expectation(shift):
    law = np.array([0.1, 0.3, 0.4, 0.2])
    other = law + shift * np.array([0.3, 0.2, -0.3, -0.2])
    rng = np.random.default_rng(7)
    distances = lambda p, n: np.repeat(np.arange(4), rng.multinomial(n, p))     # noqa: E731
    expectation = np.mean([kl_divergence(*(rng.multinomial(400, p) for p in (other, law))) for _ in range(4000)])
    cover = 0
    for _ in range(100):
        result = divergence([(distances(other, 400), distances(law, 400))], largest=3, permutations=1, seed=0)
        assert result.ci[0] <= result.value <= result.ci[1]
        cover += result.ci[0] <= expectation <= result.ci[1]
    assert cover >= 87     # 95 % of 100; below 87 has probability 1e-3


def test_compat_is_checked():
    with pytest.raises(ValueError, match=r"^compat: want None or 'paper', got 'authors'"):
        nn_divergence(gen=uniform(2, 0), train=uniform(2, 1), heldout=uniform(2, 2), compat="authors")
