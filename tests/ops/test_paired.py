"""Paired and pairwise distances: the oracle's table of all pairs, values that overflow bytes, blocks, `out`, refusals."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biasgen import TrainingSet, paired_distances, pairwise_distances
from biasgen.backends import torch_backend
from biasgen.distances import DISTANCES
from biasgen.oracle import knn as oracle

FLOATS = [name for name in DISTANCES if name != "hamming"]


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
    monkeypatch.setattr(torch_backend, "MAX_MEMORY", 64 * 3 * 2)
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
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), "hamming", r"^a: hamming takes integer tokens .* got float32"),
        (np.zeros((2, 3), np.int8), np.zeros((2, 3), np.uint8), "sqeuclidean", r"^a: sqeuclidean takes uint8 or float rows .* got int8"),
        (np.zeros((2, 3), np.int8), -np.ones((2, 3), np.int8), None, r"^b: want tokens in 0..65535, got -1 in row 0"),
        (np.zeros((2, 3), np.int8), np.zeros((2, 3), np.int8), "l2", r"^distance: unknown 'l2'"),
        (np.zeros((2, 3)), np.zeros((2, 3), np.uint8), None, r"^b: want floats as a, got uint8"),
        (np.zeros((2, 3)), np.full((2, 3), 1e151), None, r"^b: want finite numbers of at most 1e\+150, got 1e\+151 in row 0"),
    ],
)
def test_refusals(a, b, distance, message):
    with pytest.raises(ValueError, match=message):
        paired_distances(a, b, distance=distance)


def test_lists_are_refused():
    with pytest.raises(TypeError, match=r"^a: want a NumPy array or a torch tensor, got list"):
        paired_distances([[1]], [[1]])


@pytest.mark.parametrize("distance", FLOATS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float64"])
def test_all_pairs_and_the_diagonal(distance, dtype, monkeypatch):
    rng = np.random.default_rng(0)
    a, b = ((rng.random((rows, 37)) * 9).astype(dtype) for rows in (6, 11))
    a[1], b[2], b[5] = b[4], b[3], 0
    expected = oracle.distances(a, b, distance)
    found = pairwise_distances(a, b, distance=distance)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    monkeypatch.setattr(torch_backend, "MAX_MEMORY", 1 << 14)    # several blocks of queries and of rows
    np.testing.assert_array_equal(pairwise_distances(a, TrainingSet(b, distance)), expected)
    np.testing.assert_array_equal(paired_distances(a, b[:6], distance=distance), np.diag(expected))


def test_a_tile_holds_more_than_one_query():
    rng = np.random.default_rng(0)
    a, b = rng.random((100, 20)), rng.random((170, 20))
    np.testing.assert_array_equal(pairwise_distances(a, b), oracle.distances(a, b, "sqeuclidean"))


def test_floats_of_two_types_are_compared_as_float64():
    a, b = np.array([[0.1], [0.5]]), np.array([[0.1], [0.5]], np.float32)
    assert paired_distances(a, b).tolist() == [(0.1 - float(np.float32(0.1))) ** 2, 0.0]
    assert paired_distances(b, a).tolist() == paired_distances(a, b).tolist()
    assert pairwise_distances(b, a)[0, 0] == paired_distances(b, a)[0]


def test_out_is_filled_and_returned():
    rows = np.array([[1.0], [4.0]], np.float32)
    out = np.full((2, 4), np.nan)[:, ::2]
    assert pairwise_distances(rows, rows, out=out) is out
    assert out.tolist() == [[0, 9], [9, 0]]
    tensor = torch.empty(2, 2, dtype=torch.int64)
    assert pairwise_distances(*[torch.from_numpy(rows).byte()] * 2, out=tensor) is tensor
    assert tensor.tolist() == [[0, 9], [9, 0]]


READ_ONLY = np.zeros((2, 2))
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ([[0.0]], TypeError, "out: want a NumPy array as the query, got list"),
        (torch.zeros(2, 2), TypeError, "out: want a NumPy array as the query, got Tensor"),
        (np.zeros((2, 2), np.float32), ValueError, r"out: want float64 of shape \(2, 2\), got float32 of shape \(2, 2\)"),
        (np.zeros((2, 3)), ValueError, r"out: want float64 of shape \(2, 2\), got float64 of shape \(2, 3\)"),
        (np.zeros((2, 2))[::-1], ValueError, "out: want an array that may be written, without negative strides"),
        (READ_ONLY, ValueError, "out: want an array that may be written"),
    ],
)
def test_out_refusals(out, error, message):
    with pytest.raises(error, match=f"^{message}"):
        pairwise_distances(np.zeros((2, 3)), np.zeros((2, 3)), out=out)
