"""TrainingSet: prepared once, searched by name of its distance."""
from unittest import mock

import numpy as np
import pytest
import torch

import biasgen
from biasgen.data import training_set as module
from biasgen.data.hygiene import describe
from biasgen.data.training_set import TrainingSet
from biasgen.ops import _prepared, _streamed
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
    with mock.patch.object(_prepared, "of_rows", **again), mock.patch.object(_streamed, "prepare", **again):
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


@pytest.mark.parametrize("distance", ["hamming", "sqeuclidean"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_saved_and_loaded_it_is_the_same(tmp_path, distance, kind):
    rows, query = images(0, 20), images(1, 5)
    rows[11] = rows[3]
    saved = TrainingSet(kind(rows), distance)
    saved.save(tmp_path / "train.biasgen")
    with mock.patch.object(module, "describe", side_effect=AssertionError("described again")):
        loaded = TrainingSet.load(tmp_path / "train.biasgen")
        assert loaded.description == saved.description == describe(rows)
    assert repr(loaded) == repr(saved)
    assert isinstance(loaded.rows, np.memmap)
    np.testing.assert_array_equal(loaded.rows, rows)
    for ours, theirs in zip(vars(loaded.knn(query, 3)).values(), vars(saved.knn(query, 3)).values(), strict=True):
        np.testing.assert_equal(ours, theirs)
    np.testing.assert_array_equal(biasgen.nearest_credit(query, loaded).weights, biasgen.nearest_credit(query, saved).weights)
    loaded.save(tmp_path / "again.biasgen")
    assert (tmp_path / "again.biasgen").read_bytes() == (tmp_path / "train.biasgen").read_bytes()


def test_tokens_of_every_width(tmp_path):
    for dtype in (np.int8, np.int16, np.int32, np.int64):
        rows = np.random.default_rng(0).integers(0, 6, (50, 16)).astype(dtype)
        TrainingSet(rows).save(tmp_path / "train.biasgen")
        loaded = TrainingSet.load(tmp_path / "train.biasgen")
        assert (loaded.rows.dtype, loaded.distance) == (dtype, "hamming")
        np.testing.assert_array_equal(loaded.knn(rows).distances, 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_floats_of_every_width(tmp_path, dtype):
    rows = torch.randn(30, 4, 5, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    rows[9] = rows[4]
    saved = TrainingSet(rows, "cityblock")
    saved.save(tmp_path / "train.biasgen")
    loaded = TrainingSet.load(tmp_path / "train.biasgen")
    assert repr(loaded) == repr(saved)
    assert str(loaded.rows.dtype).removeprefix("torch.") == dtype
    assert loaded.description == saved.description == describe(rows)
    ours, theirs = loaded.knn(rows, 2), saved.knn(rows, 2)
    for name in ("distances", "indices", "tie_counts"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_range_and_mean():
    train = TrainingSet(np.array([[0, 4], [7, 1]], np.uint8))
    assert (train.low, train.high, train.mean) == (0, 7, 3.0)
    with mock.patch.object(module, "describe", side_effect=AssertionError("described again")):
        assert train.description["n"] == 2


def test_load_errors(tmp_path):
    with pytest.raises(ValueError, match=r"^path: no file .*none\.biasgen$"):
        TrainingSet.load(tmp_path / "none.biasgen")
    with pytest.raises(ValueError, match=r"^path: want a name that ends in \.biasgen"):
        TrainingSet(images(0, 2)).save(tmp_path / "train.npy")


def test_errors():
    with pytest.raises(TypeError, match=r"^rows: want a NumPy array or a torch tensor, got list"):
        TrainingSet([[1, 2]])
    with pytest.raises(ValueError, match=r"^rows: hamming takes integer tokens"):
        TrainingSet(np.zeros((2, 2), np.float32), "hamming")
    with pytest.raises(ValueError, match=r"^distance: want 'hamming', which the reference was prepared for, got 'sqeuclidean'"):
        TrainingSet(np.zeros((2, 2), int)).knn(np.zeros((2, 2), int), distance="sqeuclidean")


def test_views_are_saved_and_loaded(tmp_path):
    rows = images(0, 20)
    saved = TrainingSet(rows, views=("identity", "hflip"))
    assert repr(saved) == "TrainingSet(20 rows of shape (3, 4, 4), 20 distinct, sqeuclidean, views ('identity', 'hflip'))"
    saved.save(tmp_path / "train.biasgen")
    loaded = TrainingSet.load(tmp_path / "train.biasgen")
    assert repr(loaded) == repr(saved)
    np.testing.assert_array_equal(loaded.knn(rows[..., ::-1]).distances, 0)


def test_a_set_that_is_written_as_it_comes(tmp_path):
    rows = images(0, 50)
    given = (rows[start : start + 7] for start in range(0, 50, 7))
    train = TrainingSet.from_blocks(given, tmp_path / "train.biasgen", views=("identity", "hflip"), max_memory=48 * 8 * 10)
    assert train.streamed
    assert train.description == describe(rows)
    assert train.distinct == 50     # from the file: not read again
    np.testing.assert_array_equal(train.rows, rows)
    np.testing.assert_array_equal(train.knn(rows[..., ::-1]).distances, 0)
    whole = TrainingSet.load(tmp_path / "train.biasgen")
    assert not whole.streamed
    np.testing.assert_array_equal(whole.knn(images(1, 5), 4).indices, train.knn(images(1, 5), 4).indices)
    TrainingSet(rows, views=("identity", "hflip")).save(tmp_path / "again.biasgen")
    assert (tmp_path / "again.biasgen").read_bytes() == (tmp_path / "train.biasgen").read_bytes()


@pytest.mark.parametrize(
    ("parts", "options", "error", "message"),
    [
        ([], {}, ValueError, "parts: want at least one block, got none"),
        ([[1, 2]], {}, TypeError, r"parts: want blocks that are arrays or tensors \(n, ...\), got list as block 0"),
        ([np.zeros((3, 4)), np.zeros((3, 5))], {}, ValueError, r"parts: want an array of float64 .* as block 0, got .*\(5,\) as block 1"),
        ([np.zeros((3, 4)), np.array([[0, 0, np.nan, 0]])], {}, ValueError, "parts: want finite numbers.*, got nan in row 3"),
        ([np.zeros((3, 4))], {"views": ("identity", "hflip")}, ValueError, "views: want rows .*"),
        ([np.zeros((3, 4))], {"distance": "hamming"}, ValueError, "parts: hamming takes .*, got float64"),
    ],
)
def test_blocks_that_make_no_set_leave_no_file(tmp_path, parts, options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        TrainingSet.from_blocks(iter(parts), tmp_path / "train.biasgen", **options)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_blocks_leave_no_file(tmp_path):
    def parts():
        yield images(0, 5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TrainingSet.from_blocks(parts(), tmp_path / "train.biasgen")
    assert list(tmp_path.iterdir()) == []
