"""TrainingSet: prepared once, searched by name of its distance."""
from unittest import mock

import numpy as np
import pytest
import torch

import biasgen
from biasgen.data import training_set as module
from biasgen.data.training_set import TrainingSet
from biasgen.ops import _prepared
from biasgen.oracle import knn as oracle


def images(seed, n):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 4, 4)).astype(np.uint8)


def test_it_holds_what_it_was_given():
    rows = images(0, 20)
    rows[11] = rows[3]
    train = TrainingSet(rows)
    assert (len(train), train.distinct, train.distance) == (20, 19, "sqeuclidean")
    assert train.rows is rows
    assert repr(train) == "TrainingSet(20 rows of shape (3, 4, 4), 19 distinct, sqeuclidean)"
    assert biasgen.TrainingSet is TrainingSet


@pytest.mark.parametrize("distance", ["hamming", "sqeuclidean", None])
def test_knn_equals_the_oracle(distance):
    rows, query = images(0, 20), images(1, 5)
    found = TrainingSet(torch.from_numpy(rows), distance).knn(query, 3)
    distances, indices, _ = oracle.knn(query, rows, 3, distance or "sqeuclidean")
    np.testing.assert_array_equal(found.distances, distances)
    np.testing.assert_array_equal(found.indices, indices)
    assert isinstance(found.indices, np.ndarray)


def test_prepared_and_packed_once():
    train = TrainingSet(np.random.default_rng(0).integers(0, 6, (50, 16)))
    query = np.zeros((2, 16), int)
    train.knn(query)
    packed = dict(train.prepared.packed)
    again = {"side_effect": AssertionError("prepared again")}
    with mock.patch.object(_prepared, "prepare", **again), mock.patch.object(module, "prepare", **again):
        train.knn(query)
        biasgen.knn(query, train, distance="hamming")
        biasgen.nearest_credit(query, train)
    assert list(train.prepared.packed) == list(packed)
    assert all(train.prepared.packed[bits] is packed[bits] for bits in packed)
    train.knn(query + 200)   # larger symbols than the rows have: packed again, with more bits
    assert len(train.prepared.packed) == 2 * len(packed)


def test_changing_the_rows_afterwards_does_not_change_the_search():
    rows = images(0, 20)
    train = TrainingSet(rows)
    query = rows[:5].copy()
    rows[:] = 0
    np.testing.assert_array_equal(train.knn(query).distances, 0)


def test_errors():
    with pytest.raises(TypeError, match=r"^rows: want a NumPy array or a torch tensor, got list"):
        TrainingSet([[1, 2]])
    with pytest.raises(ValueError, match=r"^rows: sqeuclidean takes uint8 rows"):
        TrainingSet(np.zeros((2, 2), np.float32), "sqeuclidean")
    with pytest.raises(ValueError, match=r"^distance: want 'hamming', which the reference was prepared for, got 'sqeuclidean'"):
        TrainingSet(np.zeros((2, 2), int)).knn(np.zeros((2, 2), int), distance="sqeuclidean")
