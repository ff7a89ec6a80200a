"""Where a curve is lowest: by hand, against independent resampling, by coverage, and with a biased statistic."""
import numpy as np
import pytest

from biasgen.results import TurningPoint
from biasgen.statistics import turning_point as module
from biasgen.statistics.turning_point import lowest, turning_point

STEPS = np.arange(1, 26) * 100


def rows_of_curves(rng, n=400, at=1250.0, step_noise=0.05):
    """(n, 25): parabolas about `at` on rows whose common offset is far larger than what differs between evaluations."""
    curve = ((STEPS - at) / 1000) ** 2
    return curve + 2 * rng.standard_normal((n, 1)) + step_noise * rng.standard_normal((n, len(STEPS)))


def test_shared_rows_make_the_minimum_sharp():
    rng = np.random.default_rng(0)
    values = rows_of_curves(rng)
    point = turning_point(STEPS, values)
    assert point.step in (1200, 1300)
    assert not point.censored
    assert point.inside_null is None
    independent = np.stack([column[rng.integers(0, len(values), (999, len(values)))].mean(axis=1) for column in values.T], axis=1)
    apart = lowest(STEPS, values.mean(axis=0), independent)
    assert np.ptp(point.interval) <= 200
    assert np.ptp(apart.interval) >= 5 * np.ptp(point.interval)


def test_interval_covers_the_lowest_step():
    rng = np.random.default_rng(1)
    points = [turning_point(STEPS, rows_of_curves(rng, 60, 1230, 0.4), redraws=199, seed=seed) for seed in range(200)]
    low, high = np.array([point.interval for point in points]).T
    assert np.mean((low <= 1200) & (high >= 1200)) >= 0.93
    assert np.median(high - low) <= 600, "and it is no wider than need be"


def test_clusters_are_redrawn_together():
    rng = np.random.default_rng(2)
    images = rows_of_curves(rng, 30, step_noise=0.5)
    repeated = np.repeat(images, 16, axis=0)
    alone = turning_point(STEPS, images)
    assert turning_point(STEPS, repeated, clusters=np.repeat(np.arange(30), 16)) == alone
    assert np.ptp(turning_point(STEPS, repeated).interval) < np.ptp(alone.interval)


def test_unequal_clusters_weigh_by_their_rows(monkeypatch):
    values = np.zeros((100, 2))
    values[:90, 1] = -1     # a cluster of 90 rows that fall, ten of one row that rise
    values[90:, 1] = 1
    point = turning_point([1, 2], values, clusters=np.r_[np.zeros(90, int), np.arange(1, 11)])
    assert point.step == 2
    # without the large cluster (chance (10/11)^11 = .35) the second evaluation is the higher one
    assert point.interval == (1, 2)
    monkeypatch.setattr(module, "lowest", lambda steps, curve, redrawn: (curve, redrawn))
    curve, redrawn = turning_point([1, 2], values + 7, clusters=np.arange(100) // 70)
    assert redrawn.min() == pytest.approx(6), "means, whatever the number of rows drawn"
    assert curve == pytest.approx([7, 6.2])


def test_a_biased_statistic_is_put_about_the_estimate():
    curve = np.array([3.0, 1.0, 2.0])
    lifted = curve + [0.0, 4.0, 0.0] + 0.01 * np.random.default_rng(0).standard_normal((500, 3))     # redrawn: lowest in the third
    assert lowest([10, 20, 30], curve, lifted) == TurningPoint(20, (20, 20), censored=False)


def test_quantiles_of_the_lowest_steps():
    curve = np.array([0.0, 0.1, 0.2])
    redrawn = np.zeros((1000, 3))
    redrawn[:30, 1] = -1       # 3 % of the curves are lowest in the second
    redrawn[30:50, 2] = -1     # 2 % in the third
    assert lowest([1, 2, 3], curve, redrawn).interval == (1, 2)
    redrawn[50:60, 2] = -1     # now 3 %
    assert lowest([1, 2, 3], curve, redrawn).interval == (1, 3)


def test_the_interval_holds_its_estimate():
    redrawn = np.zeros((1000, 4))
    redrawn[::2, 2:] = [-9, 9]
    redrawn[1::2, 2:] = [9, -9]     # always one of two noisy evaluations, never the first
    assert lowest([1, 2, 3, 4], np.array([0.0, 1, 1, 1]), redrawn).interval == (1, 4)
    assert lowest([1, 2, 3, 4], np.array([1, 1, 1, 0.0]), redrawn[:, ::-1]).interval == (1, 4)


@pytest.mark.parametrize(
    ("curve", "step", "censored"), [([3, 2, 1], 30, True), ([3, 1, 2], 20, False), ([3, 1, 1], 20, False), ([1, 2, 3], 10, False)]
)
def test_censored_at_the_last_evaluation(curve, step, censored):
    point = lowest([10, 20, 30], curve, np.zeros((5, 3)))
    assert point == TurningPoint(step, (step, step), censored)


def test_a_minimum_inside_the_null():
    null_q95 = [1.0, 0.5, 9.0]
    assert lowest([1, 2, 3], [3, 0.5, 2], np.zeros((5, 3)), null_q95=null_q95).inside_null is True
    assert lowest([1, 2, 3], [3, 0.6, 2], np.zeros((5, 3)), null_q95=null_q95).inside_null is False


def test_results_are_python_numbers():
    point = turning_point(STEPS, rows_of_curves(np.random.default_rng(0), 20))
    assert [type(x) for x in (point.step, *point.interval, point.censored)] == [int, int, int, bool]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("steps", {"steps": [1, 2]}),
        ("steps", {"steps": [1, 3, 3]}),
        ("curve", {"curve": [1.0, np.nan, 2.0]}),
        ("curve", {"curve": []}),
        ("redrawn", {"redrawn": np.zeros((5, 2))}),
        ("redrawn", {"redrawn": np.zeros((0, 3))}),
        ("redrawn", {"redrawn": np.full((5, 3), np.inf)}),
        ("null_q95", {"null_q95": [1.0]}),
    ],
)
def test_lowest_checks(name, arguments):
    with pytest.raises(ValueError, match=f"^{name}: "):
        lowest(**{"steps": [1, 2, 3], "curve": [3.0, 1.0, 2.0], "redrawn": np.zeros((5, 3))} | arguments)


def test_turning_point_checks():
    with pytest.raises(ValueError, match=r"^values: want \(N, C\)"):
        turning_point([1, 2], np.zeros(2))
    with pytest.raises(ValueError, match=r"^steps: "):
        turning_point([1, 2], np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"^clusters: "):
        turning_point([1, 2], np.zeros((5, 2)), clusters=np.zeros(4, int))
