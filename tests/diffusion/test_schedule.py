"""Noise levels and the reverse step: the paper's numbers (golden values of its code), Bayes' rule on every kind of schedule."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from biasgen.diffusion import Schedule, forward_process, one_hot, reverse_step, reverse_times

ALPHA_BAR = {1: 0.9998, 5: 0.998203665, 15: 0.988684550, 25: 0.971466251, 50: 0.897757901, 100: 0.6597201, 250: 0.0781085, 500: 3.766093e-5}
GAMMA = {1: 4999.5, 5: 556.19, 15: 87.87, 25: 34.54, 50: 9.267, 100: 2.387, 250: 0.3032, 500: 0.006137}
SCHEDULES = {
    "linear": Schedule.linear(500), "flow": Schedule.flow(500), "edm": Schedule.edm(500), "zero": Schedule.vp(np.linspace(0.998, 0, 500))
}
POSTERIOR = {2: (0.583134, 0.416866, 0.0107999), 100: (0.0194039, 0.9801832, 0.0892641), 500: (0.000250545, 0.979794360, 0.199999843)}


@pytest.mark.parametrize("t", ALPHA_BAR)
def test_linear_schedule(t):
    level = Schedule.linear(500).at(t)
    assert level.scale**2 == pytest.approx(ALPHA_BAR[t], rel=1e-6)
    assert level.scale**2 + level.sigma**2 == pytest.approx(1, rel=1e-15)
    assert level.gamma == pytest.approx(GAMMA[t], rel=2e-4)
    assert level.t == t


@pytest.mark.parametrize("t", POSTERIOR)
def test_posterior_coefficients(t):
    assert Schedule.linear(500).posterior(t, t - 1) == pytest.approx(POSTERIOR[t], rel=5e-6)   # six digits are known


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_last_step_is_the_denoiser(schedule):
    assert schedule.posterior(1, 0) == schedule.posterior(500, 0) == (1.0, 0.0, 0.0)


def test_posterior_is_the_one_of_alpha_bar():
    """The formula for variance-preserving schedules (Ho et al. 2020, eq. 7), in extended precision."""
    alpha_bar = np.cumprod(1 - np.linspace(2e-4, 0.04, 500))
    schedule, exact = Schedule.vp(alpha_bar), np.concatenate([[1], alpha_bar]).astype(np.longdouble)
    for t, s in ((2, 1), (3, 1), (100, 99), (250, 249), (500, 499), (500, 1), (300, 30)):
        alpha = exact[t] / exact[s]
        expected = [
            np.sqrt(exact[s]) * (1 - alpha) / (1 - exact[t]),
            np.sqrt(alpha) * (1 - exact[s]) / (1 - exact[t]),
            np.sqrt((1 - alpha) * (1 - exact[s]) / (1 - exact[t])),
        ]
        np.testing.assert_allclose(schedule.posterior(t, s), np.array(expected, float), rtol=1e-13)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(("t", "s"), [(2, 1), (250, 249), (500, 499), (500, 1), (400, 20)])
def test_posterior_is_bayes_rule(schedule, t, s):
    """x_s, x_t are jointly Gaussian given x_0 with Cov = a Var(x_s), a = scale_t / scale_s: condition on x_t."""
    at, as_, x0, xt = schedule.at(t), schedule.at(s), 0.7, -0.3
    a, prior = at.scale / as_.scale, as_.sigma**2
    gain = a * prior / at.sigma**2
    c0, ct, std = schedule.posterior(t, s)
    assert c0 * x0 + ct * xt == pytest.approx(as_.scale * x0 + gain * (xt - at.scale * x0), rel=1e-9)
    assert std**2 == pytest.approx(prior - gain * a * prior, rel=1e-6)   # the right side cancels


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_posterior_in_two_steps_has_the_same_law(schedule):
    """x_s from x_t directly, or through u: for a fixed x_0 mean and variance agree."""
    x0, xt = 0.7, -0.3
    c0, ct, std = schedule.posterior(300, 100)
    a0, at, a = schedule.posterior(300, 200)
    b0, bt, b = schedule.posterior(200, 100)
    assert b0 * x0 + bt * (a0 * x0 + at * xt) == pytest.approx(c0 * x0 + ct * xt, rel=1e-12)
    assert np.hypot(bt * a, b) == pytest.approx(std, rel=1e-12)


def test_flow():
    schedule = Schedule.flow()
    assert schedule.T == 1000
    level = schedule.at(np.array([1, 250, 1000]))
    np.testing.assert_array_equal(level.scale, [0.999, 0.75, 0])
    np.testing.assert_array_equal(level.sigma, [0.001, 0.25, 1])
    assert schedule.at(1000).gamma == 0


def test_edm():
    """Table 1 of Karras et al. 2022 counts from the top: their i is (T - t)."""
    schedule = Schedule.edm(18)
    i = 18 - np.arange(1, 19)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(schedule.at(np.arange(1, 19)).sigma, expected, rtol=1e-12)
    assert (schedule.at(np.arange(1, 19)).scale == 1).all()
    assert Schedule.edm(9, sigma_min=0.1, sigma_max=5, rho=1).at(5).sigma == pytest.approx(2.55)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_from_diffusers(kind):
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).astype(np.float32)   # Stable Diffusion's
    schedule = Schedule.from_diffusers(SimpleNamespace(alphas_cumprod=kind(alpha_bar)))
    assert schedule.T == 1000
    assert schedule.at(1).scale == np.sqrt(np.float64(alpha_bar[0]))
    assert schedule.at(1000).sigma == np.sqrt(1 - np.float64(alpha_bar[999]))
    with pytest.raises(TypeError, match=r"^scheduler: want one with alphas_cumprod, got SimpleNamespace; Schedule\.flow"):
        Schedule.from_diffusers(SimpleNamespace(sigmas=alpha_bar))


def test_noise_next_to_clean_data():
    """sigma comes from 1 - alpha_bar, which float32 and 1 - scale**2 would both lose."""
    assert Schedule.vp([1 - 1e-15]).at(1).sigma ** 2 == pytest.approx(1 - np.float64(1 - 1e-15), rel=1e-15)


def test_one_level_a_row():
    schedule = Schedule.linear(500)
    level = schedule.at(np.array([1, 250, 500]))
    x0, noise = one_hot(np.array([[0, 1], [2, 0], [1, 1]]), 3), torch.ones(3, 2, 3)
    rows = forward_process(x0, level, noise)
    assert rows.dtype == torch.float32
    for i, t in enumerate((1, 250, 500)):
        torch.testing.assert_close(rows[i : i + 1], forward_process(x0[i : i + 1], schedule.at(t), noise[:1]), rtol=1e-7, atol=0)


def test_reverse_step_reads_noise_only_before_the_end():
    schedule, x = Schedule.linear(500), torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert reverse_step(x, x * 2, schedule, 7, 0, None) is not None
    torch.testing.assert_close(reverse_step(x, x * 2, schedule, 7, 0, None), x * 2)


def test_reverse_times():
    assert reverse_times(500, 50)[:3] == [500, 490, 480]
    assert reverse_times(75, 75) == list(range(75, -1, -1))
    assert reverse_times(500, 30)[-2:] == [17, 0]


@pytest.mark.parametrize("t", [0, 501, -1, np.array([1, 600])])
def test_outside(t):
    with pytest.raises(ValueError, match=r"^t: want 1\.\.500"):
        Schedule.linear(500).at(t)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: Schedule.linear(10), "T"),
        (lambda: Schedule.vp(np.array([0.5, 0.6])), "alpha_bar"),
        (lambda: Schedule.vp(np.array([1.0, 0.6])), "alpha_bar"),
        (lambda: Schedule.vp(np.array([0.5, -0.1])), "alpha_bar"),
        (lambda: Schedule.vp(np.array([0.5, 0.0, 0.0])), "alpha_bar"),
        (lambda: Schedule.vp(np.array([0.5, np.nan])), "alpha_bar"),
        (lambda: Schedule.vp(np.zeros((2, 2))), "alpha_bar"),
        (lambda: Schedule([1, 1], [1]), "scale, sigma"),
        (lambda: Schedule([], []), "scale, sigma"),
        (lambda: Schedule([1, 1], [0, 1]), "scale, sigma"),
        (lambda: Schedule([0, 0], [0.5, 1]), "scale, sigma"),
        (lambda: Schedule([1, np.nan], [0.5, 1]), "scale, sigma"),
        (lambda: Schedule([1, 1], [0.5, np.inf]), "scale, sigma"),
        (lambda: Schedule.flow(0), "T"),
        (lambda: Schedule.edm(1), "T"),
        (lambda: Schedule.edm(sigma_min=2.0, sigma_max=1.0), "sigma_min, sigma_max"),
        (lambda: Schedule.edm(rho=0), "rho"),
        (lambda: Schedule.linear().at(1.5), "t"),
        (lambda: Schedule.linear().posterior(3, 3), "t, s"),
        (lambda: reverse_times(50, 51), "steps"),
        (lambda: one_hot(np.array([[0, 6]]), 6), "tokens"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        call()


def test_noise_that_does_not_grow_is_refused():
    Schedule([0.5, 0.25], [0.5, 0.26])   # sigma falls, but less than the data does
    for sigma in (0.25, 0.24):
        with pytest.raises(ValueError, match=r"^scale, sigma: want sigma / scale to increase.*got 0\.5 / 0\.5 at t = 1 and 0\.2"):
            Schedule([0.5, 0.25], [0.5, sigma])
