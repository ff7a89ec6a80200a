"""Density and score of the exact denoiser: against all sentences of a small grammar, and by numerical gradient."""
import numpy as np
import pytest
import torch

from biasgen import EmpiricalDenoiser, Schedule, TreeDenoiser, TreeGrammar
from biasgen.diffusion import forward_process, one_hot
from biasgen.ops.empirical_denoise import empirical_denoise
from biasgen.oracle.tree_posterior import derivations

SCHEDULES = [(Schedule.linear(), (1, 30, 150, 500)), (Schedule.flow(100), (1, 50, 100)), (Schedule.edm(100), (1, 50, 100))]
LEVELS = [schedule.at(t) for schedule, steps in SCHEDULES for t in steps] + [Schedule.linear().at(np.array([1, 20, 100, 200, 400, 500]))]


def sentences(grammar):
    """Every derivation with its log-probability."""
    parts = [derivations(root, grammar.depth, grammar.rules.tolist(), grammar.weights) for root in range(grammar.q)]
    return np.vstack([x for x, _ in parts]), np.hstack([log_p for _, log_p in parts]) - np.log(grammar.q)


def noised(tokens, Q, level):
    rows = one_hot(tokens, Q).double()
    return forward_process(rows, level, torch.randn(rows.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


@pytest.mark.parametrize("level", LEVELS)
def test_density_of_a_grammar_that_is_listed_in_full(level):
    grammar = TreeGrammar.random(depth=2)
    exact, (tokens, log_p) = TreeDenoiser(grammar), sentences(grammar)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)
    x_t = noised(tokens[::70], 6, level)
    listed = empirical_denoise(x_t, one_hot(tokens, 6), level.scale, level.sigma, log_weights=log_p, backend="torch")
    torch.testing.assert_close(exact(x_t, level).double(), listed.x0_hat, rtol=1e-5, atol=1e-12)
    found = exact.log_density(x_t, level)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, listed.log_density, rtol=0, atol=2e-5)
    np.testing.assert_allclose(exact.log_density(x_t.numpy(), level), found, rtol=1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_all_sentences_of_a_uniform_grammar_are_the_grammar(level):
    grammar = TreeGrammar.random(depth=2, sigma=0.0)
    exact, tokens = TreeDenoiser(grammar), sentences(grammar)[0]
    listed = EmpiricalDenoiser(tokens)
    x_t = noised(tokens[5::70], 6, level)
    sigma = torch.as_tensor(np.reshape(level.sigma, (-1, 1, 1)))
    scale = torch.as_tensor(np.reshape(level.scale, (-1, 1, 1)))
    torch.testing.assert_close(exact.log_density(x_t, level), listed.log_density(x_t, level), rtol=0, atol=2e-5)
    difference = (exact.score(x_t, level) - listed.score(x_t, level)) * sigma**2
    assert (difference.abs() <= 1e-5 * scale).all()


def test_density_at_low_noise_keeps_its_digits():
    """At 1 - alpha_bar = 1e-6 the evidence of the field alone is 1.6e7 nats, and 1e-7 of it 1.6."""
    grammar, level = TreeGrammar.random(), Schedule.vp([1 - 1e-6]).at(1)
    tokens = grammar.sample(50, seed=1)
    eps = torch.randn(50, 16, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_t = forward_process(one_hot(tokens, 6).double(), level, eps)
    expected = torch.from_numpy(grammar.log_prob(tokens)) - eps.square().sum((1, 2)) / 2 - 48 * np.log(2 * np.pi * 1e-6)
    torch.testing.assert_close(TreeDenoiser(grammar).log_density(x_t, level), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_score_is_the_gradient_of_the_log_density(level):
    grammar = TreeGrammar.random(depth=3)
    exact, tokens = TreeDenoiser(grammar), grammar.sample(6, seed=2)
    x_t = noised(tokens, 6, level)
    score = exact.score(x_t, level)
    assert score.dtype == torch.float64
    assert exact.score(x_t.float().numpy(), level).dtype == np.float64
    sigma = torch.from_numpy(np.broadcast_to(level.sigma, 6).copy())
    for i, a in ((0, 0), (3, 5), (7, 2)):
        shift = torch.zeros_like(x_t)
        shift[:, i, a] = 0.02 * sigma
        gradient = (exact.log_density(x_t + shift, level) - exact.log_density(x_t - shift, level)) / 0.04
        torch.testing.assert_close(gradient, score[:, i, a] * sigma, rtol=1e-3, atol=2e-3)
