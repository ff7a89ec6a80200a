"""Paired distances: the oracle's table of all pairs, values that overflow bytes, blocks, refusals."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biasgen import paired_distances
from biasgen.ops import paired
from biasgen.oracle import knn as oracle


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(1, 1), (7, 3), (20, 4, 5)]),
    kind=st.sampled_from([("hamming", np.int8), ("hamming", np.int64), ("hamming", np.uint8), ("sqeuclidean", np.uint8)]),
)
def test_diagonal_of_the_oracle(seed, shape, kind):
    distance, dtype = kind
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 120 if dtype == np.int8 else 256, shape).astype(dtype) for _ in range(2))
    b[::2] = a[::2]
    expected = np.diag(oracle.distances(a, b, distance)).copy()
    found = paired_distances(a, b, distance=distance)
    assert found.dtype == np.int64
    assert np.array_equal(found, expected)
    assert torch.equal(paired_distances(torch.from_numpy(a), torch.from_numpy(b), distance=distance), torch.from_numpy(expected))


def test_the_largest_distance_is_exact():
    a, b = np.zeros((2, 40_000), np.uint8), np.full((2, 40_000), 255, np.uint8)
    assert paired_distances(a, b).tolist() == [40_000 * 255**2] * 2     # above 2^31
    assert paired_distances(b, a, distance="hamming").tolist() == [40_000] * 2


def test_blocks_are_joined_in_order(monkeypatch):
    monkeypatch.setattr(paired, "_BLOCK_ENTRIES", 7)
    a, b = np.zeros((10, 3), np.int8), np.tril(np.ones((10, 3), np.int8))
    assert paired_distances(a, b).tolist() == [1, 2, *[3] * 8]


def test_strided_rows():
    a = np.arange(60, dtype=np.int16).reshape(6, 10)
    assert paired_distances(a[::-1, ::2], a[::-1, 1::2]).tolist() == [5] * 6


@pytest.mark.parametrize(
    ("a", "b", "distance", "message"),
    [
        (np.zeros((2, 3), np.int8), np.zeros((3, 3), np.int8), None, r"^b: want the shape \(2, 3\) of a, got \(3, 3\)"),
        (np.zeros((2, 3), np.int8), np.zeros((2, 3, 1), np.int8), None, r"^b: want the shape \(2, 3\) of a"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), None, r"^a: hamming takes integer tokens .* got float32"),
        (np.zeros((2, 3), np.int8), np.zeros((2, 3), np.uint8), "sqeuclidean", r"^a: sqeuclidean takes uint8 rows .* got int8"),
        (np.zeros((2, 3), np.int8), -np.ones((2, 3), np.int8), None, r"^b: want tokens in 0..255, got -1 in row 0"),
        (np.zeros((2, 3), np.int8), np.zeros((2, 3), np.int8), "l2", r"^distance: unknown 'l2'"),
    ],
)
def test_refusals(a, b, distance, message):
    with pytest.raises(ValueError, match=message):
        paired_distances(a, b, distance=distance)


def test_lists_are_refused():
    with pytest.raises(TypeError, match=r"^a: want a NumPy array or a torch tensor, got list"):
        paired_distances([[1]], [[1]])
