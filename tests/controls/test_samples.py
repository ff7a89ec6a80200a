"""Samples with a known dose: coins and copies are what they say, U-turns keep the law and near their rows, fresh rows never repeat."""
from itertools import islice

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare

import biasgen
from biasgen import Schedule, TrainingSet, TreeDenoiser, TreeGrammar, near_copies, train_affinity
from biasgen.controls import fresh_batches, mix_samples, uturn
from biasgen.diffusion import one_hot, sample_tokens

GRAMMAR, SCHEDULE = TreeGrammar.random(), Schedule.linear()
EXACT = TreeDenoiser(GRAMMAR)


def test_controls_are_reached_from_the_package():
    assert "controls" in biasgen.__all__
    assert biasgen.controls.mix_samples is mix_samples


# mix_samples

@pytest.mark.parametrize("dose", [0.02, 0.5])
def test_the_share_of_copies_is_the_dose_on_top_of_chance(dose):
    n, c0 = 20_000, 0.2
    unbiased = np.where(np.arange(n) < c0 * n, 1, 0)[:, None]      # 1: a copy by chance
    copied = mix_samples(unbiased, np.array([[1]]), dose, seed=4).sum()
    replaced = copied - c0 * n                                      # of the others: only there the coin shows
    assert binomtest(int(replaced), int(n * (1 - c0)), dose).pvalue > 0.01


def test_every_copy_is_as_likely_as_another():
    mixed = mix_samples(np.full((20_000, 1), -1), np.arange(50)[:, None], 0.5, seed=1)
    counts = np.bincount(mixed[mixed >= 0], minlength=50)
    assert chisquare(counts).pvalue > 0.01
    assert len(np.unique(np.diff(np.flatnonzero(mixed[:, 0] >= 0)))) > 5, "a coin a row, not every second row"


def test_a_smaller_dose_replaces_some_of_the_same_rows():
    unbiased, copies = np.arange(-1000, 0)[:, None], np.arange(30)[:, None]
    small, large = (mix_samples(unbiased, copies, dose, seed=3) for dose in (0.1, 0.4))
    replaced = small[:, 0] >= 0
    assert 0 < replaced.sum() < (large >= 0).sum()
    np.testing.assert_array_equal(small[replaced], large[replaced])
    np.testing.assert_array_equal(small[~replaced], unbiased[~replaced])
    assert (mix_samples(unbiased, copies, 0.1, seed=5) != small).any()


def test_ends_kinds_and_inputs():
    unbiased, copies = np.full((40, 2, 3), 7, np.uint8), np.arange(60, dtype=np.uint8).reshape(10, 2, 3)
    np.testing.assert_array_equal(mix_samples(unbiased, copies, 0), unbiased)
    everything = mix_samples(unbiased, copies, 1.0)
    assert everything.dtype == np.uint8
    assert (everything[:, None] == copies).all((2, 3)).any(1).all()
    assert (unbiased == 7).all()
    tensor = mix_samples(torch.from_numpy(unbiased), torch.from_numpy(copies), 0.5, seed=2)
    assert isinstance(tensor, torch.Tensor)
    half = mix_samples(unbiased, TrainingSet(copies), 0.5, seed=2)
    np.testing.assert_array_equal(tensor.numpy(), half)
    assert (half == 7).all((1, 2)).any()
    assert (unbiased == 7).all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"dose": 1.5}, ValueError, r"^dose: want a share in \[0, 1\], got 1.5"),
        ({"dose": float("nan")}, ValueError, r"^dose: .* got nan"),
        ({"copies": np.zeros((5, 3), np.int8)}, ValueError, r"^copies: want int8 rows of shape \(2,\) as in unbiased, got int8 rows of sh"),
        ({"copies": np.zeros((5, 2), np.int64)}, ValueError, r"^copies: want int8 rows .*, got int64 rows"),
        ({"copies": np.zeros((0, 2), np.int8)}, ValueError, r"^copies: want at least one row"),
        ({"copies": torch.zeros((5, 2), dtype=torch.int8)}, TypeError, r"^copies: want a ndarray as unbiased, got a Tensor"),
        ({"unbiased": [[1, 2]]}, TypeError, r"^unbiased: want a NumPy array or a torch tensor, got list"),
    ],
)
def test_mix_samples_refuses(change, error, words):
    sets = {"unbiased": np.zeros((5, 2), np.int8), "copies": np.ones((5, 2), np.int8), "dose": 0.1} | change
    with pytest.raises(error, match=words):
        mix_samples(**sets)


def test_two_percent_of_copies_are_seen_near_and_not_over_all():
    n, m = 4000, 2000
    seen_over_all = 0
    for i in range(8):
        train, heldout, unbiased = np.split(GRAMMAR.sample(2 * m + n, seed=300 + i), [m, 2 * m])
        gen, prepared = mix_samples(unbiased, train, 0.02, seed=i), TrainingSet(train)
        near = near_copies(gen=gen, train=prepared, heldout=heldout)
        v = near.params["threshold"]
        assert train_affinity(gen=gen, train=prepared, heldout=heldout, within=v).p_value < 0.01
        seen_over_all += train_affinity(gen=gen, train=prepared, heldout=heldout).p_value < 0.05
    assert seen_over_all <= 5     # z is .7 in the mean, which passes 5 % once in six times


# uturn

def test_tokens_are_those_of_the_sampler_in_the_kind_of_the_rows():
    rows = GRAMMAR.sample(40, seed=1)
    arrays = uturn(rows, EXACT, SCHEDULE, 90, seed=3)
    assert arrays.dtype == np.int8
    tensors = uturn(torch.from_numpy(rows), EXACT, SCHEDULE, 90, seed=3, batch_size=7)
    assert tensors.dtype == torch.int8
    np.testing.assert_array_equal(tensors.numpy(), arrays)
    np.testing.assert_array_equal(uturn(TrainingSet(rows), EXACT, SCHEDULE, 90, seed=3), arrays)
    np.testing.assert_array_equal(uturn(rows[25:], EXACT, SCHEDULE, 90, seed=3, offset=25), arrays[25:])
    assert (uturn(rows, EXACT, SCHEDULE, 90, seed=4) != arrays).any()
    backwards = rows[::-1].copy()[::-1]
    backwards.flags.writeable = False
    np.testing.assert_array_equal(uturn(backwards, EXACT, SCHEDULE, 90, seed=3), arrays)
    floats = uturn(one_hot(rows, 6).numpy(), EXACT, SCHEDULE, 90, seed=3, batch_size=9)
    np.testing.assert_array_equal(floats.argmax(-1), arrays)
    by_sampler = sample_tokens(EXACT, SCHEDULE, 40, shape=(16, 6), start=rows, t_start=90, steps=90, seed=3)
    np.testing.assert_array_equal(by_sampler.numpy(), arrays)


def test_q_is_needed_where_rows_lack_a_symbol():
    rows = np.zeros((3, 16), np.int8)
    assert uturn(rows, lambda x, level: x, SCHEDULE, 2, Q=6).max() < 6
    with pytest.raises(ValueError, match=r"^x_t: want \(B, 16, 6\)"):
        uturn(rows, EXACT, SCHEDULE, 2)


def test_float_rows_follow_the_closed_form_of_a_gaussian():
    n, variance = 3000, np.array([0.25, 1.0, 4.0])
    rows = (np.random.default_rng(0).standard_normal((n, 3)) * np.sqrt(variance)).astype(np.float32)
    v = torch.from_numpy(variance).float()

    def denoiser(x_t, level):
        return level.scale * v / (level.scale**2 * v + level.sigma**2) * x_t

    for t0 in (40, 150, 300):
        gen = uturn(rows, denoiser, SCHEDULE, t0, seed=2, batch_size=999)
        assert gen.dtype == np.float32
        level = SCHEDULE.at(t0)
        # x_0 -> x_t0 -> a draw of p(x_0 | x_t0): correlation scale^2 v / (scale^2 v + sigma^2), variance v
        correlation = level.scale**2 * variance / (level.scale**2 * variance + level.sigma**2)
        found = [np.corrcoef(rows[:, i], gen[:, i])[0, 1] for i in range(3)]
        np.testing.assert_allclose(found, correlation, atol=0.05)
        np.testing.assert_allclose(gen.var(0), variance, rtol=0.1)
    pieces = [uturn(torch.from_numpy(rows[i : i + 50]), denoiser, SCHEDULE, 40, seed=2, offset=i) for i in (0, 50)]
    torch.testing.assert_close(torch.cat(pieces), uturn(torch.from_numpy(rows[:100]), denoiser, SCHEDULE, 40, seed=2))


def test_uturns_keep_the_law_and_lean_to_their_rows():
    m = 600
    train, twin, heldout = np.split(GRAMMAR.sample(3 * m, seed=8), 3)
    shares = []
    for t0 in (60, 90, 110, 250):
        gen = uturn(train, EXACT, SCHEDULE, t0, seed=6)
        grammatical = GRAMMAR.is_grammatical(gen)
        assert grammatical.mean() > 0.995
        assert GRAMMAR.log_prob(gen[grammatical]).mean() == pytest.approx(-17.5765, abs=0.4)      # the entropy of the law
        shares.append(train_affinity(gen=gen, train=train, heldout=heldout).excess)
        placebo = train_affinity(gen=gen, train=twin, heldout=heldout)
        assert placebo.p_value > 0.01
    assert shares[0] > 0.4 > shares[1] > 0.15 > shares[2] > 0.05 > shares[3], shares


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (np.zeros((2, 16), np.int8), {"t0": 501}, r"^t0: want a step in 1\.\.500, got 501"),
        (np.zeros((2, 16), np.int8), {"t0": 0}, r"^t0: "),
        (np.zeros((2, 16), np.int8), {"t0": 5.0}, r"^t0: "),
        (np.zeros((2, 16), np.uint8), {}, r"^rows: want floats .* got uint8"),
        (np.zeros((2, 4, 4), np.int8), {}, r"^rows: want floats .* int8 of shape \(2, 4, 4\)"),
        (np.full((2, 16), 6), {"Q": 6}, r"^rows: want symbols 0\.\.5, got 6\.\.6"),
        (np.full((2, 16), -1), {}, r"^rows: want symbols 0\.\.-1, got -1\.\.-1"),
        (np.array([[0.0], [np.nan]]), {}, r"^rows: want finite numbers.* in row 1"),
        (np.zeros((0, 16), np.int8), {}, r"^rows: want at least one row"),
    ],
)
def test_uturn_refuses(rows, options, words):
    def denoiser(x_t, level):
        raise AssertionError("no work before the checks")

    with pytest.raises(ValueError, match=words):
        uturn(rows, denoiser, SCHEDULE, **{"t0": 5} | options)


# fresh_batches

def test_fresh_batches_are_consecutive_rows_of_one_list():
    batches = fresh_batches(GRAMMAR.sample, 30, seed=2, offset=1000)
    first, second, third = islice(batches, 3)
    np.testing.assert_array_equal(np.concatenate([first, second, third]), GRAMMAR.sample(90, seed=2, offset=1000))


def test_fresh_batches_refuse_at_once():
    with pytest.raises(ValueError, match=r"^batch_size: want a whole number of at least 1, got 0"):
        fresh_batches(GRAMMAR.sample, 0, seed=1)
