"""Noise levels and the reverse step against the paper's numbers (golden values of its code)."""
import numpy as np
import pytest
import torch

from biasgen.diffusion import Schedule, forward_process, one_hot, reverse_step, reverse_times

ALPHA_BAR = {1: 0.9998, 5: 0.998203665, 15: 0.988684550, 25: 0.971466251, 50: 0.897757901, 100: 0.6597201, 250: 0.0781085, 500: 3.766093e-5}
GAMMA = {1: 4999.5, 5: 556.19, 15: 87.87, 25: 34.54, 50: 9.267, 100: 2.387, 250: 0.3032, 500: 0.006137}
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


def test_last_step_is_the_denoiser():
    assert Schedule.linear(500).posterior(1, 0) == (1.0, 0.0, 0.0)


def test_posterior_in_two_steps_has_the_same_law():
    """x_s from x_t directly, or through u: for a fixed x_0 mean and variance agree."""
    schedule, x0, xt = Schedule.linear(500), 0.7, -0.3
    c0, ct, std = schedule.posterior(300, 100)
    a0, at, a = schedule.posterior(300, 200)
    b0, bt, b = schedule.posterior(200, 100)
    assert b0 * x0 + bt * (a0 * x0 + at * xt) == pytest.approx(c0 * x0 + ct * xt, rel=1e-12)
    assert np.hypot(bt * a, b) == pytest.approx(std, rel=1e-12)


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
        (lambda: Schedule(np.array([0.5, 0.6])), "alpha_bar"),
        (lambda: Schedule(np.zeros((2, 2))), "alpha_bar"),
        (lambda: Schedule.linear().at(1.5), "t"),
        (lambda: Schedule.linear().posterior(3, 3), "t, s"),
        (lambda: reverse_times(50, 51), "steps"),
        (lambda: one_hot(np.array([[0, 6]]), 6), "tokens"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        call()
