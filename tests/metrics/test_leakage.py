"""Leakage: conformal p by the book, copied rows are found, and nothing is found where nothing leaks."""
import numpy as np
import pytest
import scipy.stats

from biasgen import TrainingSet, leakage
from biasgen.metrics.leakage import conformal_p_values
from biasgen.oracle import knn as oracle


def uniform(n: int, seed: int, length: int = 8, q: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, q, (n, length)).astype(np.int8)


def test_p_values_by_hand():
    p = conformal_p_values(np.array([3.0, 0.0, 1.5, 0.1 + 0.2]), np.array([0.0, 0.3, 1.0, 2.0]))
    assert p.tolist() == [1 / 5, 1.0, 2 / 5, 4 / 5]     # 0.3 is reached by 0.1 + 0.2: equal but for rounding


def test_whole_call_is_its_definition():
    gen, train, heldout = uniform(400, 1), uniform(50, 2), uniform(300, 3)
    gen[:60] = train[:3].repeat(20, axis=0)
    found = leakage(gen=gen, train=train, heldout=heldout, level=0.2)
    credit = oracle.nearest_credit(gen, np.concatenate([train, heldout]), "hamming")
    w, calibration = credit[:50], credit[50:]
    p = np.array([(1 + (calibration >= weight - 1e-9).sum()) / 301 for weight in w])
    np.testing.assert_allclose(found.weights, w, rtol=1e-12)
    np.testing.assert_allclose(found.p_values, p, rtol=1e-12)
    np.testing.assert_allclose(found.q_values, scipy.stats.false_discovery_control(p), rtol=1e-12)
    assert set(found.rows) == set(np.flatnonzero(found.q_values <= 0.2)) >= {0, 1, 2}
    order = [(found.q_values[j], -found.weights[j]) for j in found.rows]
    assert order == sorted(order)
    assert found.params == {"distance": "hamming", "level": 0.2, "n_gen": 400, "n_heldout": 300}


def test_the_copied_rows_are_found():
    train, heldout = uniform(600, 2, 12), uniform(600, 3, 12)
    leaked = np.arange(7, 600, 15)     # 40 of them: 20 would do, see the docstring
    gen = np.concatenate([np.repeat(train[leaked], 12, axis=0), uniform(1500, 4, 12)])
    found = leakage(gen=gen, train=TrainingSet(train), heldout=heldout)
    assert set(leaked) <= set(found.rows)
    assert len(set(found.rows) - set(leaked)) <= 6
    assert set(found.rows[:20]) <= set(leaked)


def test_one_row_is_found_where_the_held_out_set_is_large_enough():
    train, heldout = uniform(20, 2, 12), uniform(399, 8, 12)     # 20 / .05 = 400
    gen = np.concatenate([np.repeat(train[4:5], 100, axis=0), uniform(300, 4, 12)])
    assert leakage(gen=gen, train=train, heldout=heldout).rows.tolist() == [4]
    assert leakage(gen=gen, train=train, heldout=heldout[:380]).rows.tolist() == []


def test_unbiased_samples_leak_nothing():
    level, runs, found = 0.2, 200, 0
    for seed in range(0, 3 * runs, 3):
        gen, train, heldout = uniform(400, seed), uniform(40, seed + 1), uniform(400, seed + 2)
        found += len(leakage(gen=gen, train=train, heldout=heldout, level=level).rows) > 0
    assert found <= 59     # 20 % of 200; above 59 has probability 5e-4
    assert found >= 15     # ties keep it below 20 %, but it is a test that can find


@pytest.mark.parametrize("level", [0, 1, float("nan")])
def test_level_is_checked(level):
    with pytest.raises(ValueError, match=r"^level: want a share in \(0, 1\), got"):
        leakage(gen=uniform(2, 0), train=uniform(2, 1), heldout=uniform(2, 2), level=level)
