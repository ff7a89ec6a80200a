"""Float rows and the distances of the whole table, on every backend that takes them, against the oracle: equal to the bit."""
import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from benchmarks import near_copies
from biasgen import backends, distance_histogram, knn, nearest_credit, pairwise_distances, range_count
from biasgen.distances import DISTANCES
from biasgen.oracle import knn as oracle
from tests.hard_rows import hard_rows
from tests.table import integers, taking

FLOATS = taking("float32")
SIZES = [(1, 1), (2, 9), (5, 33), (3, 130)]


def skip_unless(implementation, dtype, distance):
    ordered_by = DISTANCES[distance].ordered_by
    stored = {"float16": "float32", "bfloat16": "float32"}.get(dtype, dtype)
    why = backends.refusal(implementation, "knn", device="cpu", dtype=stored, distance=ordered_by)
    if why:
        pytest.skip(why)


def assert_search_equals_oracle(query, reference, distance, backend, ks=(1, 5)):
    for k in {min(k, len(reference)) for k in ks}:
        found = knn(query, reference, k, distance=distance, backend=backend)
        distances, indices, tie_counts = oracle.knn(query, reference, k, distance)
        assert found.stats["backend"] == backend
        assert found.distances.dtype == distances.dtype
        np.testing.assert_array_equal(found.distances, distances)
        np.testing.assert_array_equal(found.indices, indices)
        np.testing.assert_array_equal(found.tie_counts, tie_counts)
    credit = nearest_credit(query, reference, distance=distance, backend=backend)
    np.testing.assert_array_equal(credit.weights, oracle.nearest_credit(query, reference, distance))
    np.testing.assert_array_equal(credit.distances, oracle.knn(query, reference, 1, distance)[0][:, 0])


def awkward_rows(rng, sizes, features, dtype):
    """Copies, scaled copies, zero and constant rows, both zeros, among others."""
    if dtype == "uint8":
        query, reference = (rng.integers(0, 6, (rows, features)).astype(dtype) for rows in sizes)
    else:
        query, reference = (rng.normal(3, 10, (rows, features)).astype(dtype) for rows in sizes)
    reference[::5] = 7 if dtype == "uint8" else 0.3    # whose mean may round to another number
    reference[2::7] = 0
    query[::2] = reference[rng.integers(0, len(reference), len(query[::2]))]
    query[3:4] = 2 * reference[-1:]
    if dtype != "uint8":
        reference[4::9] = -reference[4::9] * (rng.random(features) < 0.5)
    return query, reference


@pytest.mark.parametrize("distance", FLOATS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_every_shape(implementation, dtype, distance):
    skip_unless(implementation, dtype, distance)
    rng = np.random.default_rng(0)
    for features in (1, 2, 15, 16, 17, 33, 100):
        for sizes in SIZES:
            assert_search_equals_oracle(*awkward_rows(rng, sizes, features, dtype), distance, implementation)


@pytest.mark.parametrize("distance", FLOATS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_long_rows_and_many(implementation, dtype, distance):
    """Longer than what a kernel takes in before it looks at a limit; more than it searches at once."""
    skip_unless(implementation, dtype, distance)
    rng = np.random.default_rng(4)
    for sizes, features in (((3, 9), 1100), ((2, 300), 5)):
        rows = awkward_rows(rng, sizes, features, dtype)
        assert_search_equals_oracle(*rows, distance, implementation)


@pytest.mark.parametrize("distance", FLOATS)
def test_bfloat16_and_mixed_types(implementation, distance):
    skip_unless(implementation, "float32", distance)
    rng = np.random.default_rng(1)
    query, reference = (torch.from_numpy(rng.normal(size=(rows, 20))) for rows in (6, 40))
    reference[3] = query[2].bfloat16().double()
    for q, r in ((torch.bfloat16, torch.bfloat16), (torch.float64, torch.float16), (torch.bfloat16, torch.float64), (torch.float32,) * 2):
        found = knn(query.to(q), reference.to(r), 3, distance=distance, backend=implementation)
        expected = oracle.knn(query.to(q).double(), reference.to(r).double(), 3, distance)
        assert isinstance(found.distances, torch.Tensor)
        for actual, wanted in zip((found.distances, found.indices, found.tie_counts), expected, strict=True):
            np.testing.assert_array_equal(actual.numpy(), wanted)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1)])
@pytest.mark.parametrize("distance", ["sqeuclidean", "euclidean", "cityblock"])
def test_near_copies_by_one_grey_level(implementation, low, high, distance):
    """3072 bright pixels, one of them off by one of 255 levels: float32 products get most of these
    wrong. By the distances that grow with the number of pixels that differ."""
    skip_unless(implementation, "float32", distance)
    rng = np.random.default_rng(0)
    grey = np.clip(rng.normal(230, 10, (300, 3072)), 0, 255).astype(np.uint8)
    grey[1::2] = grey[::2]
    grey[np.arange(1, 300, 2), rng.integers(0, 3072, 150)] ^= 1    # families of two that differ in one pixel
    changed = grey[::3].copy()
    changed[np.arange(100), rng.integers(0, 3072, 100)] ^= 1
    reference, query = ((low + rows / 255 * (high - low)).astype(np.float32) for rows in (grey, changed))
    found = knn(query, reference, 2, distance=distance, backend=implementation)
    truth = (changed[:, None].astype(int) != grey[None, ::1]).sum(-1)    # pixels off by one level
    np.testing.assert_array_equal(found.indices[:, 0], truth.argmin(1))
    for n in range(100):
        for distance_found, index in zip(found.distances[n], found.indices[n], strict=True):
            assert distance_found == oracle.distances(query[n : n + 1], reference[index : index + 1], distance)[0, 0]
    np.testing.assert_array_equal(knn(reference, reference, distance=distance, backend=implementation).distances, 0)


@pytest.mark.parametrize("distance", FLOATS)
def test_hard_data(implementation, distance):
    """An offset that cancels, an outlier that ruins a common scale, rows one float32 ulp apart, denormals, both zeros, huge numbers."""
    skip_unless(implementation, "float32", distance)
    cases = hard_rows()
    rows = cases["normal"]
    cases |= {
        "offset": rows + 20,
        "denormals": rows * np.float32(1e-41),
        "grid": np.where(rows > 0, np.float32(0.49), np.float32(0)),
    }
    for data in cases.values():
        assert_search_equals_oracle(data[:9], data, distance, implementation)
        assert_search_equals_oracle(np.nextafter(data[:4], data.dtype.type(1)), data, distance, implementation)


@pytest.mark.parametrize("distance", FLOATS)
def test_ten_thousand_identical_rows(implementation, distance):
    skip_unless(implementation, "float32", distance)
    reference = np.full((10_000, 5), 0.25, np.float32)
    reference[1::2, 0] *= -1
    reference[::2] *= [[1], [-1]] * 2500 if distance == "cosine" else 1
    found = knn(reference[:2], reference, 3, distance=distance, backend=implementation)
    table = oracle.distances(reference[:2], reference[:8], distance)
    np.testing.assert_array_equal(found.tie_counts, 1250 * (table == table.min(1, keepdims=True)).sum(1))
    np.testing.assert_array_equal(found.indices[0], np.flatnonzero(np.tile(table[0] == table[0].min(), 2))[:3])
    assert found.stats["distinct"] == len(np.unique(reference, axis=0))


@pytest.mark.parametrize("distance", FLOATS)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_range_count_and_histogram(distance, dtype):
    query, reference = awkward_rows(np.random.default_rng(2), (9, 80), 21, dtype)
    table = oracle.distances(query, reference, distance)
    for radius in [-1.0, 0.0, *np.unique(table)[::37].tolist(), np.inf]:    # equal to a distance: <= counts it
        np.testing.assert_array_equal(range_count(query, reference, radius, distance=distance), (table <= radius).sum(1))
    edges = np.unique(np.quantile(table, np.linspace(0, 0.9, 7), method="lower"))
    np.testing.assert_array_equal(distance_histogram(query, reference, edges, distance=distance), np.histogram(table, edges)[0])
    tensors = torch.from_numpy(query), torch.from_numpy(reference)
    assert distance_histogram(*tensors, torch.tensor([0.0, 1e9]), distance=distance).tolist() == [table.size]
    assert isinstance(range_count(*tensors, 3, distance=distance), torch.Tensor)


@pytest.mark.parametrize("distance", integers())
def test_a_bin_a_value(distance):
    query, reference = awkward_rows(np.random.default_rng(3), (9, 80), 20, "uint8")
    table = oracle.distances(query, reference, distance)
    largest, middle = table.max(), int(np.median(table))
    for bins in (1, middle, largest, largest + 1, largest + 3):
        counts = distance_histogram(query, reference, int(bins), distance=distance)
        wanted = np.bincount(table.ravel(), minlength=bins)[:bins]
        np.testing.assert_array_equal(counts, wanted)
    counts = range_count(query, reference, middle + 0.5, distance=distance)
    np.testing.assert_array_equal(counts, (table <= middle).sum(1))


@pytest.mark.parametrize("distance", FLOATS)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_close_to_scipy(distance, dtype):
    """The oracle itself: the same quantity as SciPy's, which rounds in its own order."""
    rng = np.random.default_rng(0)
    query, reference = (np.round(rng.normal(90, 30, (rows, 40))).clip(0, 255).astype(dtype) for rows in (5, 30))
    expected = cdist(query.astype(np.float64), reference.astype(np.float64), distance)
    np.testing.assert_allclose(pairwise_distances(query, reference, distance=distance), expected, rtol=1e-12, atol=1e-14)


def test_euclidean_is_ordered_by_the_square(implementation):
    """1 and 1 + 2^-52 have one root."""
    reference = np.array([[1, 2.0**-26], [1, 0]])
    found = knn(np.zeros((1, 2)), reference, 2, distance="euclidean", backend=implementation)
    assert (found.distances.tolist(), found.indices.tolist(), found.tie_counts.tolist()) == ([[1, 1]], [[1, 0]], [1])
    assert range_count(np.zeros((1, 2)), reference, 1, distance="euclidean").tolist() == [2]


@pytest.mark.parametrize(("distance", "offset"), [("cosine", 0), ("correlation", 5)])
def test_zero_and_parallel_rows(distance, offset):
    x = np.random.default_rng(0).normal(size=(1, 4096))
    rows = np.concatenate([0 * x, x, 4 * x, 3 * x, 0.1 * x, -x])
    table = pairwise_distances(rows + offset, rows + offset, distance=distance)
    assert table[0].tolist() == [0, 1, 1, 1, 1, 1]
    assert (table[1:5, 1:5] < 1e-27).all()
    assert distance == "correlation" or table[1, 2] == 0
    np.testing.assert_allclose(table[5, 1:5], 2, rtol=1e-12)


@pytest.mark.parametrize("radius", [float("nan"), "near", True, None])
def test_radius_errors(radius):
    with pytest.raises(ValueError, match=r"^radius: want a distance, got "):
        range_count(np.zeros((2, 2)), np.zeros((2, 2)), radius)


@pytest.mark.parametrize("bins", [0, 5, True, [1.0], [1.0, 1.0], [[0.0, 1.0]], [0.0, np.nan], "auto"])
def test_bins_errors(bins):
    with pytest.raises(ValueError, match=r"^bins: want "):
        distance_histogram(np.zeros((2, 2)), np.zeros((2, 2)), bins)


def test_the_table_of_near_copies():
    rows = near_copies.table(6, 60)
    assert {row[2] for row in rows if row[3] != (0, 0, 0)} >= {"torch.cdist", "torch float32 x2 + y2 - 2xy"}
    assert [row for row in rows if row[2] == "biasgen.knn" and row[3] != (0, 0, 0)] == []
    assert sum(row[2] == "biasgen.knn" for row in rows) == 9
