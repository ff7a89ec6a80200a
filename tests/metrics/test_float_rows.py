"""Float rows through the metrics and the monitor: the numbers of the integer rows of which they are a power of two, and of tokens."""
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from biasgen import BiasMonitor, TrainingSet, evaluate, leakage, near_copies, nn_divergence, train_affinity
from tests.table import taking

DIGITS = np.random.default_rng(0).permutation(load_digits().images.astype(np.uint8))
SETS = {"train": DIGITS[:600], "heldout": DIGITS[600:1200], "gen": np.concatenate([DIGITS[:30], DIGITS[1200:1700]])}
SETS["gen"][:20, 0, 0] += 1    # 20 copies but for one grey level, 10 exact ones
FLOATS = {name: rows.astype(np.float32) / 16 for name, rows in SETS.items()}    # squares are those of the integers / 256, exactly


@pytest.mark.parametrize("metric", [train_affinity, nn_divergence, near_copies])
def test_scaled_rows_give_the_same_numbers(metric):
    whole, scaled = metric(**SETS), metric(**FLOATS)
    assert (whole.value, whole.ci, whole.p_value, whole.heldout) == (scaled.value, scaled.ci, scaled.p_value, scaled.heldout)
    if whole.per_sample is not None and metric is not train_affinity:
        np.testing.assert_array_equal(np.asarray(whole.per_sample) / 256, scaled.per_sample)
    if whole.params.get("threshold") is not None:
        assert whole.params["threshold"] / 256 == scaled.params["threshold"]


def test_leakage_finds_the_same_rows():
    whole, scaled = leakage(**SETS), leakage(**FLOATS)
    np.testing.assert_array_equal(whole.weights, scaled.weights)
    np.testing.assert_array_equal(whole.rows, scaled.rows)


def test_within_is_a_distance_of_the_floats():
    whole, scaled = train_affinity(**SETS, within=300), train_affinity(**FLOATS, within=300 / 256)
    assert (whole.value, whole.p_value) == (scaled.value, scaled.p_value)
    assert whole.value != train_affinity(**SETS).value
    rooted = train_affinity(**SETS, within=300**0.5, distance="euclidean")
    assert (whole.value, whole.p_value) == (rooted.value, rooted.p_value)


@pytest.mark.parametrize("distance", taking("float32"))
def test_near_copies_are_found_by_every_distance(distance):
    found = near_copies(**FLOATS, distance=distance)
    assert found.value >= 30 / 530 > 4 * found.heldout
    assert found.p_value == 0.001
    assert train_affinity(**FLOATS, distance=distance).value > 0.5


def test_evaluate():
    floats = {name: torch.from_numpy(rows) for name, rows in FLOATS.items()}
    whole, scaled = evaluate(**SETS), evaluate(**floats)
    for name, result in whole.metrics.items():
        if name != "nn_wasserstein":    # in units of the distance
            assert result.value == scaled.metrics[name].value, name
    assert whole.metrics["nn_wasserstein"].value / 256 == pytest.approx(scaled.metrics["nn_wasserstein"].value)


def test_monitor():
    def sampler(rows, n, *, seed, offset=0):
        return rows[offset : offset + n]

    sets = [{name: rows[name] for name in ("train", "heldout")} for rows in (SETS, FLOATS)]
    whole, scaled = (BiasMonitor(**s, sampler=sampler, n_samples=500, every=1) for s in sets)
    first, second = whole.step(1, SETS["gen"]), scaled.step(1, FLOATS["gen"])
    assert first.metrics["train_affinity"].value == second.metrics["train_affinity"].value
    assert set(first.metrics) == set(second.metrics)


def test_training_set_of_floats():
    train = TrainingSet(FLOATS["train"], distance="euclidean")
    assert (train.distance, train.distinct) == ("euclidean", len(np.unique(FLOATS["train"], axis=0)))
    assert train_affinity(gen=FLOATS["gen"], train=train, heldout=FLOATS["heldout"]).params["distance"] == "euclidean"
