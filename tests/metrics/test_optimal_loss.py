"""The optimum of the training loss and the cost of BP_k: the golden table of the authors' setting, closed forms, independence."""
import numpy as np
import pytest
import torch

from biasgen import Schedule, TreeDenoiser, TreeGrammar, _settings
from biasgen.diffusion import forward_process, one_hot
from biasgen.metrics.optimal_loss import factorization_kl, optimal_loss
from biasgen.trees import trajectories

GRAMMAR, SCHEDULE = TreeGrammar.random(), Schedule.linear()
STEPS = [25, 40, 50, 60, 75, 90, 100, 150, 250, 500]
LOSS = [0.00003, 0.0114, 0.0575, 0.159, 0.397, 0.650, 0.792, 1.284, 1.562, 1.607]     # of the authors' code: 4000 rows, one -log p each
KL = {   # of the authors' code, standard errors of 1 to 2 % of the value
    1: [0.0003, 0.036, 0.106, 0.140, 0.113, 0.061, 0.040, 0.0058, 0.0004, 0],
    2: [0.0017, 0.104, 0.322, 0.495, 0.482, 0.341, 0.249, 0.055, 0.0041, 0],
    3: [0.0035, 0.264, 0.825, 1.326, 1.453, 1.177, 0.970, 0.300, 0.031, 0],
    4: [0.0051, 0.553, 1.785, 2.964, 3.565, 3.303, 2.903, 1.253, 0.174, 0.0001],
}


def spread(curve):
    """Standard errors."""
    return np.diff(curve.interval, axis=1)[:, 0] / 3.92


def test_golden_optimum():
    curve = optimal_loss(GRAMMAR, SCHEDULE, t=STEPS, n=4000)
    # 4000 single -log p: their deviation is below that of a loss between 0 and log 6, plus rounding to three digits
    theirs = np.sqrt(np.maximum(curve.value, 1e-9) / (4000 * 4)) + 5e-4
    assert (abs(curve.value - LOSS) <= 3 * np.hypot(spread(curve), theirs)).all()
    assert (curve.interval[:, 0] <= curve.value).all()
    assert (curve.value <= curve.interval[:, 1]).all()
    assert (spread(curve)[1:] <= 0.03 * curve.value[1:]).all()


def test_golden_mean_over_levels():
    mean = optimal_loss(GRAMMAR, SCHEDULE, n=500).mean
    assert mean.value == pytest.approx(1.238, abs=0.006)
    assert mean.ci[0] < mean.value < mean.ci[1] < mean.ci[0] + 0.01
    assert mean.params["steps"] == 500


@pytest.mark.parametrize("k", KL)
def test_golden_divergences(k):
    curve = factorization_kl(GRAMMAR, SCHEDULE, k, t=STEPS, n=1000)
    theirs = 0.02 * np.array(KL[k]) + 1e-4
    assert (abs(curve.value - KL[k]) <= 3 * np.hypot(spread(curve), theirs))[1:].all()
    assert curve.value[0] < 2 * KL[k][0] + 1e-4     # at t = 25 a few sequences carry it


def test_it_is_the_mean_of_the_loss_itself():
    n, t = 3000, 75
    curve = optimal_loss(GRAMMAR, SCHEDULE, t=[t], n=n, seed=1)
    tokens, level = torch.from_numpy(GRAMMAR.sample(n, seed=2)).long(), SCHEDULE.at(t)
    eps = torch.randn(n, 16, 6, generator=torch.Generator().manual_seed(0))
    found = TreeDenoiser(GRAMMAR)(forward_process(one_hot(tokens, 6), level, eps), level)
    loss = -found.gather(2, tokens[..., None]).log()[..., 0].mean(1)
    assert curve.value[0] == pytest.approx(loss.mean().item(), abs=3 * np.hypot(spread(curve)[0], loss.std().item() / n**0.5))
    assert curve.mean.per_sample.std() < loss.std().item()


def test_in_pure_noise_it_is_the_entropy_of_the_leaves():
    marginals = GRAMMAR.posterior(np.zeros((16, 6))).marginals.astype(np.float64)
    entropy = -(marginals * np.log(marginals)).sum(1).mean()
    curve = optimal_loss(GRAMMAR, Schedule.edm(10, sigma_max=1e6), t=[10], n=2)
    assert curve.value[0] == pytest.approx(entropy, abs=1e-6)
    leaves = optimal_loss(GRAMMAR, Schedule.edm(10, sigma_max=1e6), t=[10], n=2, factorized=4)
    assert leaves.value[0] == pytest.approx(entropy, abs=1e-6)


def test_divergence_is_the_difference_of_losses():
    options = {"t": [40, 75, 200], "n": 40, "seed": 3}
    exact, factorized = (optimal_loss(GRAMMAR, SCHEDULE, factorized=k, **options) for k in (0, 3))
    divergence = factorization_kl(GRAMMAR, SCHEDULE, 3, **options)
    np.testing.assert_allclose(16 * (factorized.value - exact.value), divergence.value, rtol=1e-5, atol=1e-6)
    assert (factorization_kl(GRAMMAR, SCHEDULE, 0, **options).value == 0).all()


def test_a_sequence_keeps_its_numbers(monkeypatch):
    whole = optimal_loss(GRAMMAR, SCHEDULE, t=[60, 90], n=700)
    part = optimal_loss(GRAMMAR, SCHEDULE, t=[60, 90], n=350)
    np.testing.assert_array_equal(part.mean.per_sample, whole.mean.per_sample[:350])
    assert not np.array_equal(optimal_loss(GRAMMAR, SCHEDULE, t=[60, 90], n=350, seed=1).value, part.value)
    one = optimal_loss(GRAMMAR, SCHEDULE, t=[90], n=700)
    np.testing.assert_array_equal(one.value, whole.value[1:])
    monkeypatch.setattr(_settings, "_num_threads", 3)
    monkeypatch.setattr(trajectories, "BLOCK_NUMBERS", 97 * 96)
    np.testing.assert_array_equal(optimal_loss(GRAMMAR, SCHEDULE, t=[60, 90], n=700).value, whole.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimal_loss(GRAMMAR, SCHEDULE, t=[0]), r"^t: want 1..500, got 0..0"),
        (lambda: optimal_loss(GRAMMAR, SCHEDULE, t=[]), r"^t: want \(S,\) steps"),
        (lambda: optimal_loss(GRAMMAR, SCHEDULE, n=1), r"^n: want at least 2 sequences, got 1"),
        (lambda: factorization_kl(GRAMMAR, SCHEDULE, 5), r"^k: want 0..4, got 5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
