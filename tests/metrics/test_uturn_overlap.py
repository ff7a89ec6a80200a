"""U-turns on trees: the authors' figures, limits that are known, paired noise, networks."""
import numpy as np
import pytest
import torch

from biasgen import Schedule, TrainingSet, TreeDenoiser, TreeGrammar
from biasgen.controls import uturn
from biasgen.diffusion import as_denoiser
from biasgen.metrics.uturn_overlap import uturn_overlap

GRAMMAR, SCHEDULE = TreeGrammar.random(), Schedule.linear()
EXACT, PAPER = TreeDenoiser(GRAMMAR), TreeDenoiser(GRAMMAR, compat="paper")
RANDOM, DATA = np.random.default_rng(1).integers(0, 6, (400, 16)), GRAMMAR.sample(400, seed=9)


@pytest.mark.parametrize(
    ("t0", "exact", "paper"), [(25, 0.776, 0.834), (31, 0.770, 0.778), (37, 0.7600, 0.7602)], ids=["25", "31", "37"]
)
def test_authors_table(t0, exact, paper):
    """Numbers of the authors' code, from 500 random sequences with paired noise."""
    ours, theirs = (uturn_overlap(denoiser, SCHEDULE, RANDOM, t0) for denoiser in (EXACT, PAPER))
    for found, golden in ((ours, exact), (theirs, paper)):
        error = found.per_sample.std() / np.sqrt(400)
        assert found.value == pytest.approx(golden, abs=3 * error * np.hypot(1, np.sqrt(400 / 500)))
        assert found.value == pytest.approx(found.per_sample.mean())
        assert found.ci[0] < found.value < found.ci[1]
        assert (found.ci[1] - found.ci[0]) / 3.92 == pytest.approx(error, rel=0.15)
    paired = theirs.per_sample - ours.per_sample
    error = 3 * np.sqrt(2) * paired.std() / np.sqrt(400)
    assert paired.mean() == pytest.approx(paper - exact, abs=error + 0.0005)


def test_with_high_noise_the_floor_changes_nothing():
    for t0 in (43, 50):
        ours, theirs = (uturn_overlap(denoiser, SCHEDULE, RANDOM, t0).per_sample for denoiser in (EXACT, PAPER))
        assert (ours != theirs).mean() <= 0.01


def test_limits():
    """From data: a copy at low noise, and at T what two independent sequences share."""
    assert uturn_overlap(EXACT, SCHEDULE, DATA, 5).value == 1
    far = uturn_overlap(EXACT, Schedule.linear(60), DATA, 60)
    marginals = GRAMMAR.posterior(np.zeros((16, 6))).marginals
    assert far.value == pytest.approx((marginals**2).sum(1).mean(), abs=4 * far.per_sample.std() / 20)
    middle = uturn_overlap(EXACT, SCHEDULE, DATA, 60)
    assert far.value < middle.value < 1
    np.testing.assert_array_equal(middle.per_sample, (uturn(DATA, EXACT, SCHEDULE, 60, Q=6) == DATA).mean(1))


def test_repeats_are_other_noise_of_the_same_rows():
    one, three = (uturn_overlap(EXACT, SCHEDULE, DATA[:100], 60, repeats=r) for r in (1, 3))
    ends = np.stack([uturn(DATA[:100], EXACT, SCHEDULE, 60, Q=6, offset=r << 32) for r in range(3)])
    np.testing.assert_allclose(three.per_sample, (ends == DATA[:100]).mean((0, 2)))
    assert three.per_sample.std() < one.per_sample.std()


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_row_has_its_noise_in_every_part_of_the_list(repeats):
    """In a shorter list, and with offset= in a part of it: it does not depend on the number of rows."""
    network = as_denoiser(lambda x, level: torch.softmax(4 * x, -1), "x0")
    for denoiser in (EXACT, network):
        turn = {"t0": 60, "Q": 6, "repeats": repeats, "seed": 1}
        whole = uturn_overlap(denoiser, SCHEDULE, DATA[:12], **turn).per_sample
        for part in (slice(0, 5), slice(5, 12), slice(3, 9)):
            found = uturn_overlap(denoiser, SCHEDULE, DATA[part], offset=part.start, **turn)
            np.testing.assert_array_equal(found.per_sample, whole[part])


def test_networks_and_kinds_of_rows():
    network = as_denoiser(lambda x, level: torch.softmax(float(level.gamma) * x, -1), "x0")   # each leaf by itself
    found = uturn_overlap(network, SCHEDULE, DATA[:50], 40, Q=6)
    assert found.value > 0.9
    for rows in (torch.from_numpy(DATA[:50]), DATA[:50].astype(np.uint16), TrainingSet(DATA[:50])):
        np.testing.assert_array_equal(uturn_overlap(network, SCHEDULE, rows, 40, Q=6).per_sample, found.per_sample)
    seen = []
    uturn_overlap(lambda x, level: seen.append(x.shape) or x, SCHEDULE, DATA[:50] % 4, 1)
    assert seen == [(50, 16, 4)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uturn_overlap(EXACT, SCHEDULE, DATA, 0), r"^t0: want a step in 1..500, got 0"),
        (lambda: uturn_overlap(EXACT, SCHEDULE, DATA, 501), r"^t0: "),
        (lambda: uturn_overlap(EXACT, SCHEDULE, DATA, 5, repeats=0), r"^repeats: "),
        (lambda: uturn_overlap(EXACT, SCHEDULE, DATA, 5, repeats=1 << 17), r"^repeats: want 1..65536, "),
        (lambda: uturn_overlap(EXACT, SCHEDULE, DATA, 5, offset=-1), r"^offset: want 0 or more"),
        (lambda: uturn_overlap(EXACT, SCHEDULE, DATA, 5, offset=1 << 32), r"^offset: .* 4294967296, got"),
        (lambda: uturn_overlap(EXACT, SCHEDULE, DATA[:1], 5), r"^starts: want \(n, L\) integer tokens, n >= 2"),
        (lambda: uturn_overlap(EXACT, SCHEDULE, DATA.astype(np.float32), 5), r"^starts: "),
        (lambda: uturn_overlap(EXACT, SCHEDULE, DATA + 1, 5), r"^starts: want symbols 0..5, got 1..6"),
        (lambda: uturn_overlap(EXACT, SCHEDULE, DATA[:, :8], 5), r"^starts: want \(n, 16\) tokens for this grammar"),
        (lambda: uturn_overlap(EXACT, SCHEDULE, [[1, 2]], 5), None),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError if message else TypeError, match=message):
        call()
