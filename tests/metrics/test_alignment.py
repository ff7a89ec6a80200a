"""The probe without sampling: its closed forms, its null against brute force, its size, and what it passes to the denoiser."""
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import biasgen
from biasgen.controls import ConstantMixture
from biasgen.diffusion import EmpiricalDenoiser, Schedule, as_denoiser, forward_process, one_hot, prediction_of
from biasgen.metrics._probe_level import ProbeLevel, labelings
from biasgen.metrics.alignment import AlignmentProbe
from biasgen.ops import philox

GRAMMAR, SCHEDULE = biasgen.TreeGrammar.random(), Schedule.linear()
EXACT = biasgen.TreeDenoiser(GRAMMAR)
TRAIN, HELDOUT, PROBE = np.split(GRAMMAR.sample(160, seed=0), [50, 100])
MEMORIZED, OTHER = EmpiricalDenoiser(TRAIN), EmpiricalDenoiser(HELDOUT)
SETS = {"train": TRAIN, "heldout": HELDOUT, "probe": PROBE, "schedule": SCHEDULE}
LEVELS = [20, 100, 200, 400]
POOLED = AlignmentProbe(**SETS, t=LEVELS, permutations=0)


def noised(t, seed=0, rows=PROBE):
    z = philox.normals(seed, n=len(rows), count=16 * 6, step=t, purpose=philox.FORWARD)
    return forward_process(one_hot(rows, 6), SCHEDULE.at(t), torch.from_numpy(z).reshape(-1, 16, 6))


def terms(denoiser, x_t, level, train, heldout):
    """Numerator and denominator by the formula, from denoisers that know nothing of the probe."""
    a, b, d = (f(x_t.double(), level) for f in (EmpiricalDenoiser(train), EmpiricalDenoiser(heldout), denoiser))
    return float((2 * (d - (a + b) / 2) * (a - b)).sum()), float((a - b).square().sum())


@pytest.mark.parametrize("t", [1, 100, 500, LEVELS])
def test_memorized_is_one_and_the_other_set_is_minus_one(t):
    probe = AlignmentProbe(**SETS, t=t, permutations=0)
    assert probe(MEMORIZED).value == pytest.approx(1, abs=2e-6)
    assert probe(OTHER).value == pytest.approx(-1, abs=2e-6)
    assert probe(MEMORIZED).ci == pytest.approx((1, 1), abs=1e-5)
    assert probe(lambda x, level: (MEMORIZED(x, level) + OTHER(x, level)) / 2).value == pytest.approx(0, abs=2e-6)


@given(st.floats(0, 1))
@settings(max_examples=10, deadline=None)
def test_a_constant_mixture_has_its_coefficient(coefficient):
    chance = POOLED(EXACT).value
    mixed = POOLED(ConstantMixture(EXACT, MEMORIZED, coefficient)).value
    assert mixed == pytest.approx(coefficient + (1 - coefficient) * chance, abs=2e-6)


def test_value_and_spectrum_are_the_formula():
    parts = {t: terms(EXACT, noised(t), SCHEDULE.at(t), TRAIN, HELDOUT) for t in LEVELS}
    spectrum = biasgen.bias_spectrum(EXACT, **SETS, t=LEVELS, permutations=0)
    assert {t: float(r) for t, r in spectrum.items()} == pytest.approx({t: a / b for t, (a, b) in parts.items()}, abs=1e-6)
    pooled = biasgen.alignment(EXACT, **SETS, t=LEVELS, permutations=0)
    assert pooled.value == pytest.approx(sum(a for a, _ in parts.values()) / sum(b for _, b in parts.values()), abs=1e-6)
    assert pooled.null is None
    assert pooled.p_value is None
    assert (pooled.n_train, pooled.n_heldout, pooled.params["t"]) == (50, 50, LEVELS)
    assert spectrum[20].params["t"] == [20]


def test_a_twin_is_the_mean_of_both_models():
    model, twin = ConstantMixture(EXACT, MEMORIZED, 0.4), ConstantMixture(EXACT, OTHER, 0.2)
    swapped = AlignmentProbe(**SETS | {"train": HELDOUT, "heldout": TRAIN}, t=LEVELS, permutations=0)
    both = POOLED(model, twin).value
    assert both == pytest.approx((POOLED(model).value + swapped(twin).value) / 2, abs=1e-6)
    assert POOLED(EXACT, EXACT).value == 0                        # what both share cancels
    assert POOLED(MEMORIZED, OTHER).value == pytest.approx(1, abs=2e-6)


def test_functions_are_the_probe():
    settings = SETS | {"heldout": HELDOUT[:30], "t": [100, 200], "splits": 2, "permutations": 19, "seed": 3}
    probe = AlignmentProbe(**settings)
    assert biasgen.alignment(EXACT, twin=OTHER, **settings) == probe(EXACT, OTHER)
    assert biasgen.bias_spectrum(EXACT, twin=OTHER, **settings) == probe.spectrum(EXACT, OTHER)
    assert probe(EXACT, OTHER).value != probe(EXACT).value


def test_unequal_sets_are_split():
    sizes = 50, 30
    halves = labelings(*sizes, splits=3, permutations=0, seed=5, device=torch.device("cpu"))[0]
    pool, x_t, level = np.concatenate([TRAIN, HELDOUT[:30]]), noised(100, seed=5), SCHEDULE.at(100)
    parts = [terms(EXACT, x_t, level, pool[a.numpy()], pool[b.numpy()]) for a, b in halves]
    found = biasgen.alignment(EXACT, **SETS | {"heldout": HELDOUT[:30]}, t=100, splits=3, permutations=19, seed=5)
    assert found.value == pytest.approx(sum(a for a, _ in parts) / sum(b for _, b in parts), abs=1e-6)
    assert (found.n_train, found.n_heldout, found.params["splits"]) == (30, 30, 3)
    assert biasgen.alignment(EXACT, **SETS, t=100, splits=3, permutations=0).params["splits"] == 1     # equal sets have one split


@pytest.mark.parametrize(("m", "h", "splits"), [(6, 6, 1), (6, 9, 2), (9, 6, 2)])
def test_labelings_relabel_the_pool(m, h, splits):
    true, *relabeled = labelings(m, h, splits, 200, 0, torch.device("cpu"))
    sizes = {(len(a), len(b)) for halves in (true, *relabeled) for a, b in halves}
    assert sizes == {(6, 6)}
    assert all(a.max() < m <= b.min() for a, b in true)
    assert all(len(set(torch.cat(pair).tolist())) == 12 for halves in relabeled for pair in halves)
    assert {len(halves) for halves in relabeled} == {splits}
    counts = np.bincount(np.concatenate([halves[0][0].numpy() for halves in relabeled]), minlength=m + h)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3      # every row plays train equally often
    if splits > 1:      # the splits of a labeling share the smaller set, and redraw the larger one
        small, large = (0, 1) if m < h else (1, 0)
        for halves in (true, *relabeled):
            first, second = ([set(half.tolist()) for half in split] for split in halves)
            assert first[small] == second[small]
        drawn = [labelings(m, h, 1, 0, seed, torch.device("cpu"))[0][0][large].tolist() for seed in range(200)]
        assert set(np.concatenate(drawn)) == set(range(m, m + h) if m < h else range(m))


@pytest.mark.parametrize("twin", [None, OTHER])
def test_the_null_is_what_new_empirical_denoisers_give(twin):
    level, x_t = SCHEDULE.at(100), noised(100)
    labels = labelings(50, 50, 1, 19, 0, torch.device("cpu"))
    tokens = np.concatenate([TRAIN, HELDOUT])
    prepared = ProbeLevel(one_hot(PROBE, 6), x_t, level, one_hot(tokens, 6).flatten(1).double(), labels)
    permuted = prepared.numerators(EXACT, twin)[1] / prepared.norms[1:]
    expected = []
    for (a, b), in labels[1:]:
        numerator, norm = terms(EXACT, x_t, level, tokens[a.numpy()], tokens[b.numpy()])
        if twin is not None:        # of the other model with the halves exchanged: the mean of both
            numerator = (numerator + terms(twin, x_t, level, tokens[b.numpy()], tokens[a.numpy()])[0]) / 2
        expected.append(numerator / norm)
    np.testing.assert_allclose(permuted, expected, atol=2e-6)
    result = AlignmentProbe(**SETS, t=100, permutations=19)(EXACT, twin)
    assert result.null.q95 == pytest.approx(np.quantile(expected, 0.95), abs=2e-6)
    assert result.params["rank_p"] == (1 + np.count_nonzero(np.array(expected) >= result.value)) / 20
    t = (result.value - np.mean(expected)) / (np.std(expected, ddof=1) * np.sqrt(1 + 1 / 19))
    assert result.p_value == pytest.approx(scipy.stats.t.sf(t, 18), abs=1e-4)
    assert result.null.mean == 0


@pytest.mark.parametrize("twin", [None, OTHER])
def test_relabelings_of_several_levels_go_together(twin):
    probe = AlignmentProbe(**SETS, t=[100, 200], permutations=19)
    halves = [labelings(50, 50, 1, 19, 0, torch.device("cpu"))] * 2
    pool = one_hot(np.concatenate([TRAIN, HELDOUT]), 6).flatten(1).double()
    parts = [ProbeLevel(one_hot(PROBE, 6), noised(t), SCHEDULE.at(t), pool, h) for t, h in zip([100, 200], halves, strict=True)]
    permuted = sum(p.numerators(EXACT, twin)[1] for p in parts) / sum(p.norms for p in parts)[1:]
    assert probe(EXACT, twin).null.q95 == pytest.approx(np.quantile(permuted, 0.95), rel=1e-6)


def test_size_at_the_null():
    """The exact denoiser and a strongly biased one that knows neither set stay silent: 3 denoisers, 200 draws of all rows."""
    stranger = EmpiricalDenoiser(GRAMMAR.sample(100, seed=77))
    cases = {"exact": (EXACT,), "stranger": (stranger,), "twins": (stranger, EXACT)}
    found = {name: [] for name in cases}
    for draw in range(200):
        rows = GRAMMAR.sample(70, seed=1, offset=70 * draw)
        probe = AlignmentProbe(train=rows[:20], heldout=rows[20:40], probe=rows[40:], schedule=SCHEDULE, t=100, permutations=39, seed=draw)
        for name, denoisers in cases.items():
            found[name].append(probe(*denoisers))
    for name, results in found.items():
        p = np.array([r.p_value for r in results])
        assert 1 <= (p <= 0.05).sum() <= 22, name         # Binomial(200, .05): outside with probability 3e-4
        assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3, name
        assert abs(scipy.stats.ttest_1samp([r.value for r in results], 0).statistic) < 4, name


def test_a_small_dose_is_seen_below_the_smallest_rank():
    probe = AlignmentProbe(**SETS, t=100, permutations=39)
    result = probe(ConstantMixture(EXACT, MEMORIZED, 0.5))
    assert result.p_value < 1e-6
    assert result.params["rank_p"] == 1 / 40
    assert result.ci[0] < result.value < result.ci[1]
    assert result.value > result.null.q95 > 0
    opposite = probe(ConstantMixture(EXACT, OTHER, 0.5))
    assert opposite.p_value > 0.999


def test_interval_covers_the_alignment_with_these_sets():
    """Drawn again: the probe rows; the same train and heldout."""
    model = ConstantMixture(EXACT, MEMORIZED, 0.3)
    value = biasgen.alignment(model, **SETS | {"probe": GRAMMAR.sample(20_000, seed=3)}, t=150, permutations=0).value
    covered = 0
    for draw in range(100):
        rows = GRAMMAR.sample(60, seed=4, offset=60 * draw)
        low, high = biasgen.alignment(model, **SETS | {"probe": rows}, t=150, permutations=0, seed=draw).ci
        covered += low <= value <= high
    assert 86 <= covered <= 99


def test_interval_holds_the_chance_of_the_sets():
    """The exact denoiser at new train, heldout and probe rows: its alignment is 0 in expectation, by chance it is not."""
    covered = of_probe = 0
    for draw in range(60):
        train, heldout, probe = np.split(GRAMMAR.sample(1000, seed=7, offset=1000 * draw), [60, 120])
        result = biasgen.alignment(EXACT, train=train, heldout=heldout, probe=probe, schedule=SCHEDULE, t=150, seed=draw)
        covered += result.ci[0] <= 0 <= result.ci[1]
        of_probe += result.params["probe_ci"][0] <= 0 <= result.params["probe_ci"][1]
    assert of_probe < 50 < 54 <= covered


def test_every_evaluation_sees_the_same_noise_and_one_forward_a_row():
    probe, seen = AlignmentProbe(**SETS, t=[100, 200], permutations=0, seed=9), []

    def denoiser(x_t, level):
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        seen.append((level.t, x_t))
        return EXACT(x_t, level)

    with torch.autocast("cpu"):
        first = probe(denoiser)
    assert first == probe(denoiser)
    assert [t for t, _ in seen] == [100, 200] * 2
    assert all(torch.equal(x_t, noised(t, seed=9)) for t, x_t in seen)
    rows = GRAMMAR.sample(1100, seed=2)
    seen.clear()
    assert AlignmentProbe(**SETS | {"probe": rows}, t=100, permutations=0, seed=9)(denoiser).params["probe_rows"] == 1100
    assert [len(x_t) for _, x_t in seen] == [500, 500, 100]
    assert torch.equal(torch.cat([x_t for _, x_t in seen]), noised(100, seed=9, rows=rows))


@pytest.mark.parametrize("prediction", ["x0", "eps", "v", "score", "flow"])
def test_every_kind_of_prediction(prediction):
    denoiser = as_denoiser(lambda x, level: prediction_of(MEMORIZED(x, level), x, level, prediction), prediction)
    assert POOLED(denoiser).value == pytest.approx(1, abs=1e-4)


def test_images_are_encoded():
    images = np.random.default_rng(0).integers(0, 256, (70, 3, 4, 4)).astype(np.uint8)
    sets = {"train": images[:20], "heldout": images[20:40], "probe": images[40:], "schedule": Schedule.flow(), "t": [300, 600]}

    def encode(rows):
        return rows / 127.5 - 1

    denoiser = EmpiricalDenoiser(images[:20], encode)
    shapes = set()

    def recorded(x_t, level):
        shapes.add((x_t.shape[1:], x_t.dtype))
        return denoiser(x_t, level)

    assert biasgen.alignment(recorded, **sets, encode=encode, permutations=0).value == pytest.approx(1, abs=1e-5)
    assert shapes == {((3, 4, 4), torch.float32)}
    with pytest.raises(ValueError, match=r"^probe: .*encode="):
        AlignmentProbe(**sets)


def test_symbols_are_those_of_all_three_sets():
    sets = {"train": np.array([[0, 1]] * 2), "heldout": np.array([[1, 2]] * 2), "probe": np.array([[4, 0]] * 2), "schedule": SCHEDULE}
    assert biasgen.alignment(lambda x, level: x.new_zeros(len(x), 2, 5), **sets, t=100, permutations=0).value == pytest.approx(0)


def test_levels_that_tell_nothing_are_dropped():
    near = torch.tensor([[1.01], [0.99]])
    sets = {"train": torch.tensor([[1.0], [9.0]]), "heldout": torch.tensor([[1.0], [-9.0]]), "probe": near, "schedule": SCHEDULE}
    probe = AlignmentProbe(**sets, t=[1, 400], permutations=0)
    result = probe(EmpiricalDenoiser(sets["train"]))
    assert (result.params["dropped"], result.params["t"]) == ([1], [400])
    assert result.value == pytest.approx(1, abs=1e-5)
    assert list(probe.spectrum(EmpiricalDenoiser(sets["train"]))) == [400]
    with pytest.raises(ValueError, match=r"^t: .*\[1, 2\]"):
        AlignmentProbe(**sets, t=[1, 2])
    with pytest.raises(ValueError, match=r"^t: "):
        AlignmentProbe(**SETS | {"heldout": TRAIN[::-1]}, t=LEVELS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": 0}, r"^t: want 1..500, got 0"),
        ({"t": []}, r"^t: want one step or several different ones, got \[\]"),
        ({"t": [5, 5]}, r"^t: want one step or several different ones"),
        ({"splits": 0}, r"^splits: .* got 0"),
        ({"permutations": 5}, r"^permutations: want 0 or a whole number of at least 19, got 5"),
        ({"permutations": 99.0}, r"^permutations: "),
        ({"probe": PROBE[:1]}, r"^probe: want at least 2 rows, got 1"),
        ({"heldout": HELDOUT[:, :8]}, r"^heldout: want rows of shape \(16,\)"),
        ({"probe": PROBE.astype(np.uint8)}, r"^probe: want int8 rows"),
        ({"probe": np.concatenate([TRAIN, PROBE[: len(TRAIN) // 2]])}, r"^probe: want rows of a third set, 6.% of them are in train"),
        ({"probe": HELDOUT}, r"^probe: want rows of a third set, 100% of them are in heldout"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AlignmentProbe(**SETS | {"t": 100} | change)


def test_rows_that_are_not_finite_are_refused():
    sets = {name: torch.full((3, 2), float(i)) for i, name in enumerate(("train", "heldout", "probe"))}
    sets["heldout"][1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^heldout: .*row 1"):
        AlignmentProbe(**sets, schedule=SCHEDULE, t=100)


@pytest.mark.parametrize(
    ("denoiser", "error", "message"),
    [
        (lambda x, level: x[:, :, :5], ValueError, r"want x0_hat of the shape of x_t \(60, 16, 6\), got \(60, 16, 5\)"),
        (lambda x, level: x.numpy(), TypeError, "want a tensor x0_hat"),
        (lambda x, level: torch.where(torch.arange(60)[:, None, None] == 7, torch.nan, x), ValueError, "for probe row 7 at t = 20"),
    ],
)
@pytest.mark.parametrize("name", ["denoiser", "twin"])
def test_bad_denoisers_are_named(denoiser, error, message, name):
    with pytest.raises(error, match=rf"^{name}: .*{message}"):
        POOLED(*(denoiser,) if name == "denoiser" else (EXACT, denoiser))


def test_bfloat16_models():
    half = POOLED(lambda x, level: MEMORIZED(x, level).bfloat16())
    assert half.value == pytest.approx(1, abs=0.01)
