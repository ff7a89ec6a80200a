"""The sampler: rows do not depend on batching, noise is common to all models, the exact denoiser returns the exact law."""
import numpy as np
import pytest
import torch

from biasgen import Schedule, TreeDenoiser, TreeGrammar
from biasgen.diffusion import sample_tokens

GRAMMAR, SCHEDULE = TreeGrammar.random(), Schedule.linear()
EXACT = TreeDenoiser(GRAMMAR)


def draw(n, **options):
    return sample_tokens(EXACT, SCHEDULE, n, shape=(16, 6), **({"steps": 20, "seed": 3} | options))


def test_rows_do_not_depend_on_batches():
    whole = draw(70, batch_size=70)
    torch.testing.assert_close(draw(70, batch_size=9), whole)
    torch.testing.assert_close(draw(30, offset=40), whole[40:])
    assert not torch.equal(draw(70, seed=4), whole)


def test_exact_denoiser_gives_the_law_of_the_data():
    tokens = draw(2000, steps=250).numpy()
    assert GRAMMAR.is_grammatical(tokens).mean() > 0.995
    entropy = 17.5765   # nats, of the paper's grammar
    assert GRAMMAR.log_prob(tokens[GRAMMAR.is_grammatical(tokens)]).mean() == pytest.approx(-entropy, abs=0.25)


@pytest.mark.parametrize("schedule", [Schedule.flow(500), Schedule.edm(500)], ids=["flow", "edm"])
def test_every_kind_of_schedule_gives_the_law_of_the_data(schedule):
    tokens = sample_tokens(EXACT, schedule, 500, shape=(16, 6), steps=250, seed=3).numpy()
    allowed = GRAMMAR.is_grammatical(tokens)
    assert allowed.mean() > 0.99
    assert GRAMMAR.log_prob(tokens[allowed]).mean() == pytest.approx(-17.5765, abs=0.5)


@pytest.mark.parametrize(("schedule", "spread"), [(SCHEDULE, 1), (Schedule.flow(9), 1), (Schedule.edm(9), 80)])
def test_it_starts_from_noise_as_wide_as_noised_data(schedule, spread):
    seen = []
    sample_tokens(lambda x, level: seen.append(x) or x, schedule, 1000, shape=(16, 6), steps=1, batch_size=1000)
    assert seen[0].std().item() == pytest.approx(spread, rel=0.01)


def test_uturn_stays_near_its_start_and_reaches_the_law():
    rows = GRAMMAR.sample(500, seed=1)
    overlap = [
        (draw(500, start=rows, t_start=t0, steps=t0).numpy() == rows).mean() for t0 in (25, 75, 150)
    ]
    assert overlap[0] > 0.99
    assert overlap[0] > overlap[1] > overlap[2] > 0.2


def test_global_generators_are_not_read():
    torch.manual_seed(0)
    first = draw(5)
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()
    torch.testing.assert_close(draw(5), first)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]


def test_start_needs_its_time():
    with pytest.raises(ValueError, match=r"^start, t_start: "):
        draw(5, start=np.zeros((5, 16), np.int8))
