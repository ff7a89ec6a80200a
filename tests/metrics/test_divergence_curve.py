"""The divergence over checkpoints: each point is nn_divergence, redraws are shared, and their spread is the sampling spread."""
import numpy as np
import pytest

from biasgen.metrics import divergence_curve as module
from biasgen.metrics.divergence_curve import divergence_curve
from biasgen.metrics.nn_divergence import divergence, kl_divergence


def draws(n: int, seed: int, top: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, n)


@pytest.mark.parametrize("largest", [8, None])
@pytest.mark.parametrize("models", [1, 2])
def test_curve_is_the_metric(largest, models):
    checkpoints = [[(draws(80, 10 * c + k), draws(120, 5 + k, 8)) for k in range(models)] for c in range(3)]
    curve, redrawn = divergence_curve(checkpoints, largest=largest, redraws=20)
    values = [divergence(pairs, largest=largest, permutations=1, seed=0).value for pairs in checkpoints]
    assert curve == pytest.approx(values, rel=1e-12)
    assert redrawn.shape == (20, 3)


def test_a_redraw_by_hand(monkeypatch):
    gen, heldout = draws(6, 1, 4), draws(5, 2, 4)
    pulled = [np.array([[1, 0, 2, 0, 2, 1]]), np.array([[0, 3, 0, 1, 1]])]
    monkeypatch.setattr(module, "redrawn_sums", lambda sums, redraws, rng: pulled[len(sums) == 5] @ sums)
    _, redrawn = divergence_curve([[(gen, heldout)]], largest=3, redraws=1)
    rows = [np.repeat(values, weights[0]) for values, weights in zip((gen, heldout), pulled, strict=True)]
    assert redrawn.item() == pytest.approx(kl_divergence(*(np.bincount(r, minlength=4) for r in rows)), rel=1e-12)


def test_redraws_are_shared_by_checkpoints_and_models(monkeypatch):
    pair, other = (draws(80, 1), draws(60, 2)), (draws(80, 3), draws(60, 4))
    _, redrawn = divergence_curve([[pair], [other], [pair]], largest=8, redraws=50)
    assert np.array_equal(redrawn[:, 0], redrawn[:, 2])
    assert not np.array_equal(redrawn[:, 0], redrawn[:, 1])
    _, twice = divergence_curve([[pair, pair], [pair, other]], largest=8, redraws=50)
    np.testing.assert_allclose(twice[:, 0], redrawn[:, 0], rtol=1e-12)
    np.testing.assert_allclose(twice[:, 1], (redrawn[:, 0] + redrawn[:, 1]) / 2, rtol=1e-12)
    monkeypatch.setattr(module, "_ENTRIES", 1)     # one histogram a block
    _, blocks = divergence_curve([[pair], [other], [pair]], largest=8, redraws=50)
    np.testing.assert_allclose(blocks, redrawn, rtol=1e-12)


def test_gen_and_heldout_are_redrawn_apart():
    same = draws(200, 1)
    _, redrawn = divergence_curve([[(same, same)]], largest=8, redraws=50)
    assert redrawn.mean() > 0.01     # the same rows for both would leave 0


def test_spread_is_that_of_fresh_samples():
    rng = np.random.default_rng(5)
    law, other = np.array([0.1, 0.3, 0.4, 0.2]), np.array([0.25, 0.35, 0.25, 0.15])
    draw = lambda p, n: np.repeat(np.arange(4), rng.multinomial(n, p))     # noqa: E731
    fresh = [kl_divergence(rng.multinomial(400, other), rng.multinomial(900, law)) for _ in range(2000)]
    _, redrawn = divergence_curve([[(draw(other, 400), draw(law, 900))] for _ in range(20)], largest=3, redraws=400)
    assert redrawn.std(axis=0).mean() == pytest.approx(np.std(fresh), rel=0.1)


def test_a_draw_is_fixed_by_its_seed():
    checkpoints = [[(draws(50, 1), draws(40, 2))]]
    one, same, other = (divergence_curve(checkpoints, largest=8, redraws=9, seed=s)[1] for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    "checkpoints",
    [[], [[(draws(5, 1), draws(4, 1))], [(draws(6, 1), draws(4, 1))]], [[(draws(5, 1), draws(4, 1))], [(draws(5, 1), draws(4, 1))] * 2]],
)
def test_unequal_checkpoints_are_refused(checkpoints):
    with pytest.raises(ValueError, match=r"^checkpoints: want one number of models, gen rows and held-out rows in all, got \["):
        divergence_curve(checkpoints, largest=8)
