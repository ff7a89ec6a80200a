"""The split of squared error: identities, a known bias and known variances, clusters, the cover of the intervals."""
import numpy as np
import pytest
import torch

from biasgen import loss_decomposition

BIAS, DATA, SEED = 0.3, 0.2, 0.1      # standard deviations of what is added to the exact denoiser


def models(seed, n=2000, d=5):
    """x_0, exact denoiser, A, B, and a third model on A's data: independent parts at every entry."""
    rng = np.random.default_rng(seed)
    exact, bias = rng.normal(size=(n, d)), BIAS * rng.normal(size=(n, d))
    data_a, data_b = DATA * rng.normal(size=(2, n, d))
    seeds = SEED * rng.normal(size=(3, n, d))
    a, b, third = (exact + bias + data + own for data, own in zip((data_a, data_b, data_a), seeds, strict=True))
    return exact + rng.normal(size=(n, d)), exact, a, b, third


def test_known_parts_are_found():
    target, exact, a, b, third = models(0)
    found = loss_decomposition(a, b, exact=exact, third=third, target=target)
    variance = DATA**2 + SEED**2
    truth = {
        "variance": variance,
        "excess": BIAS**2 + variance,
        "bias": BIAS**2,
        "share": variance / (BIAS**2 + variance),
        "loss": 1 + BIAS**2 + variance,
        "seed_variance": SEED**2,
        "data_variance": DATA**2,
    }
    assert set(found.as_dict()) == set(truth)
    for name, value in truth.items():
        result = getattr(found, name)
        assert result.ci[0] < result.value < result.ci[1]
        width = result.ci[1] - result.ci[0]
        assert abs(result.value - value) < width, name       # twice the half-width: 4 standard errors
        assert width < 0.1 * max(value, 0.1), name


def test_identities():
    target, exact, a, b, third = (torch.from_numpy(x).reshape(-1, 5, 4, 1) for x in models(1, n=50, d=20))
    found = loss_decomposition(a, b, exact=exact, target=target, third=third)
    assert found.variance.value == pytest.approx(float((a - b).square().mean()) / 2)
    assert found.excess.value == pytest.approx(float((a - exact).square().mean() + (b - exact).square().mean()) / 2)
    assert found.loss.value == pytest.approx(float((a - target).square().mean() + (b - target).square().mean()) / 2)
    assert found.bias.value + found.variance.value == pytest.approx(found.excess.value)
    assert found.seed_variance.value == pytest.approx(float((a - third).square().mean()) / 2)
    assert found.data_variance.value + found.seed_variance.value == pytest.approx(found.variance.value)
    assert found.share.value == pytest.approx(found.variance.value / found.excess.value)
    assert found.share.params["of"] == "excess"


def test_what_was_not_given_is_not_said():
    target, exact, a, b, third = models(2, n=50)
    assert list(loss_decomposition(a, b).as_dict()) == ["variance"]
    of_loss = loss_decomposition(a, b, target=target)
    assert of_loss.share.params["of"] == "loss"
    assert of_loss.share.value == pytest.approx(of_loss.variance.value / of_loss.loss.value)
    assert of_loss.share.value < loss_decomposition(a, b, exact=exact).share.value
    assert of_loss.excess is of_loss.bias is of_loss.seed_variance is None
    assert list(loss_decomposition(a, b, third=third).as_dict()) == ["variance", "seed_variance", "data_variance"]


def test_disagreement_of_seeds_alone_is_no_data_variance():
    rng = np.random.default_rng(3)
    a, b, third = SEED * rng.normal(size=(3, 2000, 5))
    found = loss_decomposition(a, b, third=third)
    assert found.variance.ci[0] > 0.9 * SEED**2
    assert found.data_variance.ci[0] < 0 < found.data_variance.ci[1]
    assert abs(found.data_variance.value) < 0.1 * found.variance.value


def test_rows_of_one_sequence_are_one():
    _, exact, a, b, third = models(5, n=40)
    once = loss_decomposition(a, b, exact=exact, third=third).as_dict()
    repeated = [np.repeat(x, 7, axis=0) for x in (a, b, exact, third)]
    clusters = np.repeat(np.arange(40), 7)
    clustered = loss_decomposition(*repeated[:2], exact=repeated[2], third=repeated[3], clusters=clusters).as_dict()
    naive = loss_decomposition(*repeated[:2], exact=repeated[2], third=repeated[3]).as_dict()
    for name, result in once.items():
        assert clustered[name].ci == pytest.approx(result.ci)
        assert naive[name].ci[1] - naive[name].ci[0] < 0.5 * (result.ci[1] - result.ci[0])


def test_intervals_cover():
    truth = {"variance": DATA**2 + SEED**2, "bias": BIAS**2, "data_variance": DATA**2}
    covered = dict.fromkeys(truth, 0)
    for draw in range(200):
        _, exact, a, b, third = models(100 + draw, n=60)
        found = loss_decomposition(a, b, exact=exact, third=third, redraws=199, seed=draw)
        for name, value in truth.items():
            low, high = getattr(found, name).ci
            covered[name] += low <= value <= high
    assert all(175 <= count <= 199 for count in covered.values()), covered


def test_two_exact_models_have_no_share():
    _, exact, *_ = models(6, n=20)
    found = loss_decomposition(exact, exact, exact=exact)
    assert np.isnan(found.share.value)
    assert found.share.ci is None
    assert found.excess.value == found.variance.value == 0


def test_single_precision_is_summed_in_double():
    _, exact, a, b, _ = (torch.from_numpy(x).float() for x in models(7, n=20))
    wide = loss_decomposition(a.double(), b.double(), exact=exact.double())
    assert wide.variance.value == pytest.approx(float((a.double() - b.double()).square().mean()) / 2, rel=1e-12)
    assert loss_decomposition(a.requires_grad_(), b, exact=exact) == wide


@pytest.mark.parametrize("name", ["model_b", "exact", "target", "third"])
def test_shapes_are_checked(name):
    given = {"model_b": np.zeros((4, 3)), name: np.zeros((4, 2))}
    with pytest.raises(ValueError, match=rf"^{name}: want shape \(B, \.\.\.\) as of model_a \(4, 3\), got \(4, 2\)"):
        loss_decomposition(np.zeros((4, 3)), **given)
    with pytest.raises(ValueError, match=r"^model_a: want shape"):
        loss_decomposition(np.zeros(4), np.zeros(4))
