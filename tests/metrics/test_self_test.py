"""The self-test of train against held-out rows: its size where they come from one pipeline, its power where they do not."""
import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits

from biasgen.data.training_set import TrainingSet
from biasgen.metrics import self_test as module
from biasgen.metrics.self_test import LEVEL, self_test, warnings_of


@pytest.fixture(scope="module")
def digits():
    images = load_digits().images.astype(np.uint8)[np.random.default_rng(0).permutation(1797)]
    return images[:900], images[900:]


def tokens(seed, n, length=6):
    return np.minimum(np.random.default_rng(seed).geometric(0.4, (n, length)), 6).astype(np.int8)


@pytest.mark.parametrize(("m", "h"), [(60, 120), (150, 30)])
def test_size(monkeypatch, m, h):
    monkeypatch.setattr(module, "_PERMUTATIONS", 199)     # 2 * 5 / 200: the level .05 can be reached exactly
    p = {"heldout_affinity": [], "shared_rows": []}
    for seed in range(200):
        rows = tokens(seed, m + h, length=4)
        for name, test in self_test(train=rows[:m], heldout=rows[m:], seed=seed).items():
            p[name].append(test.p_value)
    for name, low in (("heldout_affinity", 3), ("shared_rows", 1)):     # counts of few distinct values reject less often
        assert len(p[name]) == 200
        assert low <= np.count_nonzero(np.array(p[name]) <= 0.05) <= 18     # binomial 99 %: 3 .. 18


def test_the_same_rows_pass(digits):
    tests = self_test(train=digits[0], heldout=digits[1])
    assert list(tests) == ["heldout_affinity"]
    assert tests["heldout_affinity"].p_value > 0.05
    assert warnings_of(tests) == []


def blurred(images):
    padded = np.pad(images.astype(int), ((0, 0), (1, 1), (1, 1)), mode="edge")
    cross = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return (cross + 4 * images) // 8


def noisy(images):
    return np.clip(images + np.random.default_rng(1).integers(-5, 6, images.shape), 0, 16)


@pytest.mark.parametrize(
    ("change", "nearer"), [(blurred, "each other"), (lambda rows: np.roll(rows, 1, axis=2), "each other"), (noisy, "to training rows than")]
)
def test_every_second_held_out_row_from_another_pipeline(digits, change, nearer):
    train, heldout = digits[0], digits[1].copy()
    heldout[::2] = change(heldout[::2])
    [warning] = warnings_of(self_test(train=train, heldout=heldout))
    assert "nearer to" in warning
    assert nearer in warning.split(":")[1].split(",")[0]


def test_other_frequencies_of_symbols():
    rng = np.random.default_rng(3)
    train = rng.integers(0, 6, (1500, 8)).astype(np.int8)
    heldout = rng.integers(0, 6, (1500, 8)).astype(np.int8)
    heldout[::2] = rng.choice(6, (750, 8), p=[0.35, 0.25, 0.1, 0.1, 0.1, 0.1])
    tests = self_test(train=train, heldout=heldout)
    assert tests["heldout_affinity"].p_value <= LEVEL
    assert "as if prepared in another way" in warnings_of(tests)[0]


def test_filtered_by_content():
    rows = tokens(0, 2000)
    train, heldout = rows[:1000], rows[1000:]
    assert warnings_of(self_test(train=train, heldout=heldout)) == []
    seen = {row.tobytes() for row in train}
    tests = self_test(train=train, heldout=np.array([row for row in heldout if row.tobytes() not in seen]))
    assert tests["shared_rows"].value == 0
    assert tests["shared_rows"].p_value <= LEVEL
    assert any("too few rows occur in both sets" in warning for warning in warnings_of(tests))


def test_leaked_training_rows(digits):
    train, heldout = digits
    tests = self_test(train=train, heldout=np.concatenate([heldout, train[:20]]))
    assert tests["shared_rows"].value == 20
    assert tests["shared_rows"].p_value <= LEVEL
    assert any("too many rows occur in both sets" in warning for warning in warnings_of(tests))


def test_one_pair_of_equal_rows_against_its_law():
    rows = np.arange(10, dtype=np.int8)[:, None].repeat(2, axis=1)
    rows[9] = rows[0]     # in both sets in 4 * 6 of the 45 pairs of places
    test = self_test(train=rows[:4], heldout=rows[4:])["shared_rows"]
    assert test.value == 1
    assert test.null.mean == pytest.approx(24 / 45, abs=4 * np.sqrt(0.25 / 1999))
    assert (test.n_train, test.n_heldout) == (4, 6)


def test_shared_rows_against_all_relabelings():
    rows = np.array([0, 1, 2, 0, 0, 1, 1, 3, 3, 0], np.int8)[:, None].repeat(2, axis=1)
    counts = []
    for subset in itertools.combinations(range(10), 3):
        inside = np.isin(np.arange(10), subset)
        counts.append(len(np.intersect1d(rows[inside, 0], rows[~inside, 0])))
    test = self_test(train=rows[:3], heldout=rows[3:])["shared_rows"]
    assert test.value == 2
    assert test.null.mean == pytest.approx(np.mean(counts), abs=4 * np.std(counts) / np.sqrt(1999))
    expected = 2 * min(np.mean(np.array(counts) <= 2), np.mean(np.array(counts) >= 2))
    assert test.p_value == pytest.approx(min(1, expected), abs=0.07)


def test_affinity_without_ties_is_a_share_of_the_first_half():
    rng = np.random.default_rng(0)
    train, heldout = (rng.integers(0, 256, (n, 40)).astype(np.uint8) for n in (50, 41))
    test = self_test(train=train, heldout=heldout, seed=4)["heldout_affinity"]
    query = heldout[np.random.default_rng(4).permutation(41)[:20]]
    rest = np.array([row for row in heldout if not (row == query).all(axis=1).any()])
    nearest = [((np.concatenate([train, rest]).astype(int) - row) ** 2).sum(axis=1).argmin() for row in query.astype(int)]
    assert test.value == pytest.approx(np.mean(np.array(nearest) < 50))
    assert test.null.mean == pytest.approx(50 / 71)
    assert (test.n_gen, test.n_train, test.n_heldout) == (20, 50, 21)


def test_p_is_two_sided():
    """Two clusters far apart: the value is below all relabelings, and p is twice the smallest tail."""
    rng = np.random.default_rng(0)
    train, heldout = rng.integers(0, 20, (40, 3)).astype(np.uint8), rng.integers(200, 220, (40, 3)).astype(np.uint8)
    test = self_test(train=train, heldout=heldout)["heldout_affinity"]
    assert test.value == 0
    assert test.p_value == pytest.approx(2 / 2000)
    assert test.params == {"level": 0.001, "permutations": 1999, "seed": 0}


def test_p_follows_the_null_law():
    """Without ties the credit of the pool is one unit a query; scipy's hypergeometric law when no pool row is nearest twice."""
    train = np.array([[0, 0], [100, 0], [0, 100], [200, 200]], np.uint8)
    heldout = np.array([[1, 0], [100, 1], [1, 100], [201, 200]], np.uint8)
    test = self_test(train=train, heldout=heldout)["heldout_affinity"]     # 2 queries, pool of 4 + 2: both nearest to train
    law = stats.hypergeom(6, 4, 2)
    assert test.value == 1
    assert test.p_value == pytest.approx(min(1, 2 * law.sf(1)), abs=0.08)


def test_sets_of_every_kind(digits):
    train, heldout = digits[0][:200], digits[1][:100]
    expected = self_test(train=train, heldout=heldout)["heldout_affinity"].as_dict()
    tensors = self_test(train=torch.from_numpy(train), heldout=torch.from_numpy(heldout))
    assert tensors["heldout_affinity"].as_dict() == expected
    prepared = self_test(train=TrainingSet(train), heldout=TrainingSet(heldout))
    assert prepared["heldout_affinity"].as_dict() == expected


def test_nothing_to_test():
    rows = np.arange(12, dtype=np.int8).reshape(6, 2)
    assert self_test(train=rows[:5], heldout=rows[5:]) == {}
    with pytest.raises(ValueError, match=r"^heldout: want rows of shape \(2,\) as in train, got \(3,\)$"):
        self_test(train=rows, heldout=np.zeros((4, 3), np.int8))
