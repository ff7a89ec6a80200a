"""The equivalent dose: isotonic fit against SciPy, readings by hand, coverage in simulation, and U-turns that read as their own start."""
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from biasgen import Schedule, TreeDenoiser, TreeGrammar, train_affinity
from biasgen.controls import DoseCurve, dose_curve, uturn
from biasgen.controls.equivalent_dose import _falling
from biasgen.results import EquivalentDose, Result

T0S, T = [50, 60, 75, 85, 100, 125, 150, 250], 500
OWN_SHARE = np.array([0.997, 0.976, 0.853, 0.725, 0.605, 0.535, 0.519, 0.512])      # docs/statistics.md


def measured(value, sd):
    return Result(float(value), ci=(value - 1.96 * sd, value + 1.96 * sd))


def curve(values=OWN_SHARE, sd=1e-9, t0s=T0S):
    return DoseCurve(t0s, list(values), [measured(v, s).ci for v, s in np.broadcast(values, sd)], T)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(1, 9)), min_size=1, max_size=9))
def test_the_fit_is_isotonic_regression(points):
    values, weights = np.array(points, float).T
    wanted = isotonic_regression(values, weights=weights, increasing=False).x
    np.testing.assert_allclose(_falling(np.stack([values, values / 3]), weights), [wanted, wanted / 3], atol=1e-9)


def test_readings_along_lines():
    read = [curve().equivalent(measured(value, 1e-9)).t0_over_T * T for value in (0.725, 0.665, 0.9145, 0.512)]
    np.testing.assert_allclose(read, [85, 92.5, 67.5, 250], atol=1e-5)


def test_the_curve_is_made_to_fall_by_its_precise_points():
    values, sd = [0.9, 0.6, 0.8, 0.5], [0.01, 0.02, 0.01, 0.01]     # 60 and 75 meet at .76, four parts of .8 and one of .6
    dose = curve(values, sd, [50, 60, 75, 85]).equivalent(measured(0.83, 0.01))
    assert dose.t0_over_T * T == pytest.approx(50 + 10 * 0.07 / 0.14)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0.001, 0.1), st.integers(0, 99))
def test_a_stronger_bias_is_an_earlier_start(values, sd, seed):
    ruler = curve(OWN_SHARE + sd * np.random.default_rng(seed).standard_normal(8), sd)
    doses = [ruler.equivalent(measured(value, sd)) for value in sorted(values)]
    for name in (lambda d: d.t0_over_T, lambda d: d.interval[0], lambda d: d.interval[1]):
        assert (np.diff([name(dose) for dose in doses]) <= 0).all()
    for dose in doses:
        assert 50 / T <= dose.interval[0] <= dose.interval[1] <= 250 / T


def test_beyond_the_ends_it_is_censored():
    weaker, stronger = (curve().equivalent(measured(value, 1e-9)) for value in (0.5, 0.999))
    assert (weaker.t0_over_T, weaker.censored) == (250 / T, "weaker")
    assert (stronger.t0_over_T, stronger.censored) == (50 / T, "stronger")
    assert curve().equivalent(measured(0.7, 0.3)).censored is None
    assert str(weaker) == "less biased than U-turns from training rows at t0/T = 0.50 [0.50, 0.50]"
    assert str(stronger) == "more biased than U-turns from training rows at t0/T = 0.10 [0.10, 0.10]"
    assert str(EquivalentDose(0.19, (0.17, 0.21))) == "as biased as U-turns from training rows at t0/T = 0.19 [0.17, 0.21]"


def test_without_noise_the_interval_is_the_two_points_around():
    assert curve().equivalent(measured(0.7, 1e-9)).interval == (85 / T, 100 / T)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("noise", ["curve", "result", "both"])
def test_the_interval_takes_up_95_percent_of_the_noise(noise, cut):
    """.853 and .725 are the points at 75 and 85. An interval that is cut on one side tells the sd on the other."""
    sd = 0.006
    curve_sd, own_sd = {"curve": (sd, 1e-9), "result": (1e-9, sd), "both": (sd / 2**0.5, sd / 2**0.5)}[noise]

    def read(value):
        low, high = measured(value, own_sd).ci
        return curve(sd=curve_sd).equivalent(Result(value, ci=(low, value if cut else high)), redraws=20_000).interval

    z_of_5, z_of_1 = 1.645, 2.326
    assert read(0.853 - z_of_5 * sd)[0] == 60 / T
    assert read(0.853 - z_of_1 * sd)[0] == 75 / T
    assert read(0.725 + z_of_5 * sd)[1] == 100 / T
    assert read(0.725 + z_of_1 * sd)[1] == 85 / T


def test_a_point_without_width_is_no_infinite_weight():
    saturated = DoseCurve([20, 40, 60], [0.98, 1.0, 0.8], [measured(0.98, 0.01).ci, (1.0, 1.0), measured(0.8, 0.04).ci], T)
    dose = saturated.equivalent(measured(0.9, 0.01))    # 20 and 40 meet at .99: the point counts like the best other one
    assert dose.t0_over_T * T == pytest.approx(40 + 20 * 0.09 / 0.19)
    assert dose.interval == (40 / T, 60 / T)


@pytest.mark.parametrize(("curve_sd", "sd"), [(0.02, 0.02), (0.001, 0.03), (0.03, 0.001)])
def test_the_interval_covers_in_simulation(curve_sd, sd):
    rng = np.random.default_rng(5)
    missed = 0
    for i in range(100):
        truth = rng.uniform(60, 110)
        ruler = curve(OWN_SHARE + curve_sd * rng.standard_normal(8), curve_sd)
        value = np.interp(truth, T0S, OWN_SHARE) + sd * rng.standard_normal()
        low, high = ruler.equivalent(measured(value, sd), redraws=499, seed=i).interval
        missed += not low <= truth / T <= high
    assert missed <= 11


def test_uturns_read_as_their_own_start():
    """The curve and the samples to read are drawn with different noise; bias-free samples read as weak."""
    grammar, schedule, m = TreeGrammar.random(), Schedule.linear(), 400
    exact, right, start = TreeDenoiser(grammar), 0, 82
    for seed in range(2):
        train, heldout, fresh = np.split(grammar.sample(3 * m, seed=50 + seed), 3)

        def statistic(gen, train=train, heldout=heldout):
            return train_affinity(gen=gen, train=train, heldout=heldout, permutations=1)

        ruler = dose_curve(statistic, train, exact, schedule, [50, 65, 75, 85, 95, 120], seed=seed)
        assert ruler.t0s == [50, 65, 75, 85, 95, 120]
        assert ruler.T == 500
        dose = ruler.equivalent(statistic(uturn(train, exact, schedule, start, seed=90 + seed)))
        right += dose.interval[0] <= start / 500 <= dose.interval[1]
        assert dose.t0_over_T == pytest.approx(start / 500, abs=0.03)
        assert ruler.equivalent(statistic(fresh)).censored == "weaker"
    assert right == 2


def test_every_point_has_its_own_noise():
    seen = []

    def statistic(gen):
        seen.append(gen)
        return measured(1 - 0.1 * len(seen), 0.01)

    schedule = Schedule.linear()
    dose_curve(statistic, np.zeros((30, 2), np.float32), lambda x, level: x, schedule, [1, 2, 3], seed=7)
    by_hand = [
        uturn(np.zeros((30, 2), np.float32), lambda x, level: x, schedule, t0, seed=7, offset=30 * i) for i, t0 in enumerate((1, 2, 3))
    ]
    np.testing.assert_array_equal(seen, by_hand)


def test_a_curve_survives_json():
    ruler = curve(sd=0.01)
    again = DoseCurve(**json.loads(json.dumps(ruler.as_dict())))
    assert again.equivalent(measured(0.7, 0.01)) == ruler.equivalent(measured(0.7, 0.01))
    assert again.equivalent(measured(0.7, 0.01)).as_dict().keys() == {"t0_over_T", "interval", "censored"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"t0s": [60, 50]}, r"^t0s: want at least two increasing steps in 1\.\.500, got \[60, 50\]"),
        ({"t0s": [50, 501]}, r"^t0s: "),
        ({"t0s": [0, 50]}, r"^t0s: "),
        ({"t0s": [50]}, r"^t0s: "),
        ({"values": [1.0]}, r"^values: want 2 finite numbers"),
        ({"values": [1.0, float("nan")]}, r"^values: "),
        ({"cis": [(0, 1)]}, r"^cis: want 2 finite intervals"),
        ({"cis": [(0.0, 1.0), (float("nan"), 1.0)]}, r"^cis: want 2 finite intervals"),
        ({"cis": [(1.0, 1.0), (0.5, 0.5)]}, r"^cis: want intervals that are not all points"),
    ],
)
def test_a_curve_refuses(change, words):
    with pytest.raises(ValueError, match=words):
        DoseCurve(**{"t0s": [50, 60], "values": [1.0, 0.5], "cis": [(0.9, 1.0), (0.4, 0.6)], "T": 500} | change)


def test_a_reading_refuses():
    with pytest.raises(TypeError, match=r"^result: want a Result, got float"):
        curve().equivalent(0.7)
    for result in (Result(0.7), measured(float("nan"), 0.1), Result(0.7, ci=(0.1, float("inf")))):
        with pytest.raises(ValueError, match=r"^result: want a finite value and ci, got "):
            curve().equivalent(result)


def test_dose_curve_refuses():
    def denoiser(x_t, level):
        raise AssertionError("no work before the checks")

    rows, schedule = np.zeros((5, 2), np.float32), Schedule.linear()
    with pytest.raises(ValueError, match=r"^t0s: want at least two increasing"):
        dose_curve(lambda gen: None, rows, denoiser, schedule, [5, 4])
    with pytest.raises(ValueError, match=r"^statistic: want Results with ci, got None"):
        dose_curve(lambda gen: Result(0.5), rows, lambda x, level: x, schedule, [1, 2])
