"""The mixture denoiser against the denoiser of the mixed law, written out over every sentence of a tiny grammar."""
import math
from itertools import product

import numpy as np
import pytest
import torch

from biasgen import EmpiricalDenoiser, Level, Schedule, TreeDenoiser, TreeGrammar
from biasgen.controls import ConstantMixture, MixtureDenoiser
from biasgen.diffusion import forward_process, one_hot, sample_tokens

GRAMMAR, SCHEDULE = TreeGrammar.random(q=4, depth=2, q_eff=2, seed=1), Schedule.linear()
SENTENCES = np.array(list(product(range(4), repeat=4)))
LAW = np.exp(GRAMMAR.log_prob(SENTENCES))
TRAIN = np.concatenate([GRAMMAR.sample(12, seed=3), np.arange(4, dtype=np.int8)[None]])     # the last row has every symbol
TRAIN_LAW = (SENTENCES[:, None] == TRAIN).all(2).mean(1)
EXACT, EMPIRICAL = TreeDenoiser(GRAMMAR), EmpiricalDenoiser(TRAIN)


def of_law(law, x_t, level):
    """(E[x_0 | x_t] (B, 4, 4), log p(x_t) (B,)) for P(sentence) = law, by the sum over all sentences, float64."""
    rows = one_hot(SENTENCES, 4).double()[None]
    scale, sigma = (torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1) for value in (level.scale, level.sigma))
    squares = (x_t.double()[:, None] - scale[..., None, None] * rows).square().sum((2, 3))
    joint = torch.from_numpy(law).log() - squares / (2 * sigma**2) - 8 * torch.log(2 * math.pi * sigma**2)
    return torch.einsum("bn,nlq->blq", joint.softmax(1), rows[0]), joint.logsumexp(1)


def noised(level, seed=0):
    """Rows of the law and of the training set, noised."""
    x0 = one_hot(np.concatenate([GRAMMAR.sample(30, seed=seed), TRAIN]), 4)
    return forward_process(x0, level, torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("t", [1, 40, 120, 250, 500])
@pytest.mark.parametrize("dose", [0.001, 0.3, 0.9])
def test_it_is_the_denoiser_of_the_mixed_law(dose, t):
    level = SCHEDULE.at(t)
    x_t = noised(level)
    wanted, log_density = of_law((1 - dose) * LAW + dose * TRAIN_LAW, x_t, level)
    mixture = MixtureDenoiser(EXACT, EMPIRICAL, dose)
    found = mixture(x_t, level)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(mixture.log_density(x_t, level), log_density, atol=3e-5, rtol=1e-7)


def test_one_level_a_row():
    t = np.arange(43) * 11 + 1
    level = SCHEDULE.at(t)
    x_t = noised(level, seed=1)
    found = MixtureDenoiser(EXACT, EMPIRICAL, 0.3)(x_t, level)
    alone = torch.cat([MixtureDenoiser(EXACT, EMPIRICAL, 0.3)(x[None], SCHEDULE.at(int(s))) for x, s in zip(x_t, t, strict=True)])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


def test_no_dose_and_all_of_it_are_the_two_denoisers():
    level = SCHEDULE.at(100)
    x_t = noised(level)
    for dose, alone in ((0, EXACT), (1, EMPIRICAL)):
        for mixture in (MixtureDenoiser(EXACT, EMPIRICAL, dose), ConstantMixture(EXACT, EMPIRICAL, dose)):
            assert torch.equal(mixture(x_t, level), alone(x_t, level))
        assert torch.equal(MixtureDenoiser(EXACT, EMPIRICAL, dose).log_density(x_t, level), alone.log_density(x_t, level))


def test_the_dose_comes_through_the_sampler():
    n, dose = 2000, 0.4
    gen = sample_tokens(MixtureDenoiser(EXACT, EMPIRICAL, dose), SCHEDULE, n, shape=(4, 4), steps=100, seed=1, batch_size=n).numpy()
    share = (SENTENCES[TRAIN_LAW > 0] == gen[:, None]).all(2).any(1).mean()
    chance = LAW[TRAIN_LAW > 0].sum()
    assert share == pytest.approx(dose + (1 - dose) * chance, abs=0.05)
    assert share > chance + 0.1


class Fixed:
    """A denoiser that knows one answer and no density."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, x_t, level):
        return self.answer


def test_a_constant_mixture_is_linear_and_its_alignment_the_coefficient():
    exact, train, heldout = (torch.randn(3, 7, 2, 5, generator=torch.Generator().manual_seed(0)))
    level = Level(0.8, 0.6)
    half = ConstantMixture(Fixed(exact), Fixed(train), 0.25)(torch.zeros(7, 2, 5), level)
    torch.testing.assert_close(half, 0.75 * exact + 0.25 * train)
    middle, delta = (train + heldout) / 2, train - heldout
    found = ConstantMixture(Fixed(middle), Fixed(train), 0.3)(torch.zeros(7, 2, 5), level)      # middle: alignment 0
    assert float(2 * ((found - middle) * delta).sum() / delta.square().sum()) == pytest.approx(0.3, abs=1e-6)


def test_refusals():
    with pytest.raises(TypeError, match=r"^empirical: want a denoiser with posterior\(x_t, level\), got Fixed"):
        MixtureDenoiser(EXACT, Fixed(None), 0.1)
    with pytest.raises(ValueError, match=r"^dose: want a share in \[0, 1\], got -0.1"):
        MixtureDenoiser(EXACT, EMPIRICAL, -0.1)
    with pytest.raises(ValueError, match=r"^coefficient: want a share in \[0, 1\], got 2"):
        ConstantMixture(Fixed(None), Fixed(None), 2)
