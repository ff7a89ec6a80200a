"""Kinds of prediction: their definitions, round trips through the exact denoiser, errors."""
import numpy as np
import pytest
import torch

from biasgen import EmpiricalDenoiser, Level, Schedule
from biasgen.diffusion import as_denoiser, forward_process, prediction_of

SCHEDULES = {"linear": Schedule.linear(), "flow": Schedule.flow(500), "edm": Schedule.edm(500)}
DEFINITIONS = {   # of what the network of each kind is trained to predict
    "x0": lambda x0, eps, scale, sigma: x0,
    "eps": lambda x0, eps, scale, sigma: eps,
    "v": lambda x0, eps, scale, sigma: scale * eps - sigma * x0,
    "score": lambda x0, eps, scale, sigma: -eps / sigma,
    "flow": lambda x0, eps, scale, sigma: eps - x0,
}


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def levels(schedule):
    return [schedule.at(t) for t in (1, 100, 499)] + [schedule.at(np.array([3, 60, 200, 499]))]


@pytest.mark.parametrize("prediction", DEFINITIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_definitions(name, prediction):
    x0, eps = noise(4, 2, 3), noise(4, 2, 3, seed=1)
    for level in levels(SCHEDULES[name]):
        scale, sigma = (torch.as_tensor(np.reshape(v, (-1, 1, 1))) for v in (level.scale, level.sigma))
        x_t, target = scale * x0 + sigma * eps, DEFINITIONS[prediction](x0, eps, scale, sigma)
        got = prediction_of(x0, x_t, level, prediction)
        # eps is found again from x_t: rounding of x_t, over sigma
        torch.testing.assert_close(got, target, rtol=1e-12, atol=1e-13 / sigma.min().item() ** 2)
        seen = []
        denoiser = as_denoiser(lambda *arguments, target=target, seen=seen: seen.append(arguments) or target, prediction)
        atol = 1e-14 * (sigma / scale).max().item() if prediction in ("eps", "score") else 1e-14
        torch.testing.assert_close(denoiser(x_t, level), x0, rtol=1e-12, atol=10 * atol)
        assert seen[0][0] is x_t
        assert seen[0][1] is level


@pytest.mark.parametrize("prediction", DEFINITIONS)
def test_a_network_of_float32_is_the_exact_denoiser(prediction):
    exact = EmpiricalDenoiser(noise(50, 6).float())
    network = as_denoiser(lambda x_t, level: prediction_of(exact(x_t, level), x_t, level, prediction), prediction)
    for schedule in SCHEDULES.values():
        for level in levels(schedule):
            x_t = forward_process(noise(4, 6).float(), level, noise(4, 6, seed=2).float())
            got = network(x_t, level)
            assert got.dtype == torch.float32
            amplified = np.max(np.divide(level.sigma, level.scale)) if prediction in ("eps", "score") else 1
            torch.testing.assert_close(got, exact(x_t, level), rtol=1e-5, atol=3e-6 * max(1, amplified))


@pytest.mark.parametrize("prediction", DEFINITIONS)
def test_float32_rows_are_worked_on_in_float64(prediction):
    """At high noise eps and score divide by a small scale, and float32 would multiply its rounding by 160."""
    level, x0, x_t = Schedule.linear().at(500), noise(40, 6), noise(40, 6, seed=1).float()
    denoiser = as_denoiser(lambda x, at: prediction_of(x0, x.double(), at, prediction), prediction)
    torch.testing.assert_close(denoiser(x_t, level).double(), x0, rtol=6.1e-8, atol=1e-12)


@pytest.mark.parametrize("prediction", ["x0", "v", "flow"])
def test_scale_zero(prediction):
    """At the end of a flow x_t is noise alone; these networks still say what x_0 is."""
    x0, level = noise(3, 4), Schedule.flow(10).at(10)
    x_t = noise(3, 4, seed=1)
    assert level.scale == 0
    denoiser = as_denoiser(lambda x, at: prediction_of(x0, x, at, prediction), prediction)
    torch.testing.assert_close(denoiser(x_t, level), x0)


@pytest.mark.parametrize("prediction", ["eps", "score"])
def test_scale_zero_is_refused_before_the_network_runs(prediction):
    def network(x_t, level):
        raise AssertionError

    for t in (10, np.array([3, 10])):
        with pytest.raises(ValueError, match=rf"^level: at scale 0 \(t = .*10.* a model of '{prediction}' says nothing of x_0"):
            as_denoiser(network, prediction)(noise(2, 4), Schedule.flow(10).at(t))


def test_half_precision_and_gradients():
    weight = torch.ones(1, requires_grad=True)
    level, x_t = Level(0.6, 0.8), noise(3, 4, dtype=torch.float32)
    got = as_denoiser(lambda x, level: (x * weight).to(torch.bfloat16), "v")(x_t, level)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    torch.testing.assert_close(got, 0.6 * x_t - 0.8 * x_t.bfloat16().float(), rtol=1e-6, atol=1e-7)


def test_errors():
    for call in (lambda: as_denoiser(None, "epsilon"), lambda: prediction_of(0, 0, Level(1, 1), "epsilon")):
        with pytest.raises(ValueError, match=r"^prediction: want one of 'x0', 'eps', 'v', 'score', 'flow', got 'epsilon'"):
            call()
    with pytest.raises(ValueError, match=r"^predict: want a prediction of shape \(2, 4\) as x_t, got \(2, 3\)"):
        as_denoiser(lambda x, level: x[:, :3], "x0")(noise(2, 4), Level(1.0, 1.0))
    with pytest.raises(TypeError, match=r"^predict: want a function that returns a tensor, got tuple"):
        as_denoiser(lambda x, level: (x,), "x0")(noise(2, 4), Level(1.0, 1.0))
