"""The memorizing denoiser over kinds of training sets, its density and score."""
import numpy as np
import pytest
import torch

from biasgen import EmpiricalDenoiser, Schedule, TrainingSet, TreeGrammar
from biasgen.diffusion import forward_process, one_hot
from biasgen.oracle import empirical_denoise as oracle
from biasgen.testing import assert_denoised_close

SCHEDULE, GRAMMAR = Schedule.linear(), TreeGrammar.random(depth=3)
TOKENS = GRAMMAR.sample(200, seed=1)
LEVELS = [SCHEDULE.at(t) for t in (1, 40, 150, 500)] + [SCHEDULE.at(np.array([2, 50, 100, 170, 499]))]


def noised(rows, level, seed=0):
    return forward_process(rows, level, torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed), dtype=rows.dtype))


@pytest.mark.parametrize("level", LEVELS)
def test_tokens(level):
    rows = one_hot(TOKENS, 6)
    x_t = noised(rows[:5], level)
    expected = oracle.empirical_denoise(x_t, rows, level.scale, level.sigma)
    for train in (TOKENS, torch.from_numpy(TOKENS).long(), TrainingSet(TOKENS), rows, rows.numpy()):
        denoiser = EmpiricalDenoiser(train)
        assert_denoised_close((denoiser(x_t, level), denoiser.log_density(x_t, level)), expected, rows)
    assert isinstance(denoiser(x_t.numpy(), level), np.ndarray)


def test_it_has_memorized_its_rows():
    denoiser, level = EmpiricalDenoiser(TOKENS), SCHEDULE.at(5)
    assert torch.equal(denoiser(noised(one_hot(TOKENS, 6), level), level).argmax(-1), torch.from_numpy(TOKENS).long())


def test_images():
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 4, 4), np.uint8)
    level, x_t = SCHEDULE.at(50), noised(torch.from_numpy(images[:4] / 127.5 - 1), SCHEDULE.at(50))
    for train in (images, TrainingSet(images)):
        x0_hat = EmpiricalDenoiser(train, encode=lambda x: x / 127.5 - 1)(x_t, level)
        assert (x0_hat.shape, x0_hat.dtype) == ((4, 3, 4, 4), torch.float64)
        np.testing.assert_allclose(x0_hat, images[:4] / 127.5 - 1, atol=1e-6)
    with pytest.raises(ValueError, match=r"^train: torch\.uint8 rows want encode="):
        EmpiricalDenoiser(images)


def test_equal_rows_count_as_often_as_they_occur():
    rows = torch.tensor([[1.0], [0.0], [1.0], [1.0]])
    denoiser, level = EmpiricalDenoiser(rows), Schedule.flow(4).at(4)   # scale 0: the mean of the rows
    assert denoiser(torch.tensor([[7.0]]), level).item() == 0.75
    assert len(denoiser.prepared.rows) == 2


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
def test_score_is_the_gradient_of_the_log_density(level, kind):
    denoiser = EmpiricalDenoiser(TOKENS)
    x_t = noised(one_hot(TOKENS[:5], 6).double(), level).numpy()
    score = denoiser.score(kind(x_t.astype(np.float32)), level)
    assert type(score) is type(kind(x_t))
    assert "float64" in str(score.dtype)
    score, step = np.asarray(denoiser.score(kind(x_t), level)), 1e-4 * np.min(level.sigma)
    for i, a in ((0, 0), (3, 5), (7, 2)):
        shift = np.zeros_like(x_t)
        shift[:, i, a] = step
        high, low = (np.asarray(denoiser.log_density(kind(x), level)) for x in (x_t + shift, x_t - shift))
        sigma = np.broadcast_to(level.sigma, 5)
        np.testing.assert_allclose((high - low) / (2 * step) * sigma, score[:, i, a] * sigma, atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match=r"^train: want finite numbers.*got nan in row 2"):
        EmpiricalDenoiser(np.array([[0.0], [1.0], [np.nan]]))
    with pytest.raises(ValueError, match=r"^train: want float32 or float64, got float16"):
        EmpiricalDenoiser(np.zeros((2, 2), np.float16))
    with pytest.raises(ValueError, match=r"^x_t: want rows of shape \(8, Q\), Q > 5, for the tokens in rows, got \(8, 5\)"):
        EmpiricalDenoiser(TOKENS)(torch.zeros(1, 8, 5), LEVELS[0])
    with pytest.raises(ValueError, match=r"^scale: want a number, or one a query, \(3,\)"):
        EmpiricalDenoiser(TOKENS)(torch.zeros(3, 8, 6), SCHEDULE.at(np.array([1, 2])))
