"""Views: the smallest distance over a query and its mirror image, against all distances by the definition and against doubled rows."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biasgen import TrainingSet, distance_histogram, knn, nearest_credit, pairwise_distances, range_count
from biasgen.distances import DISTANCES
from biasgen.oracle import knn as oracle
from tests.table import taking

VIEWS = ("identity", "hflip")


@st.composite
def problems(draw, kinds=("uint8", "float32", "float64")):
    """(query, reference, k, distance): few values, copies, mirror images and symmetric images, so that views tie in every way."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(2, 3), (3, 2, 4), (1, 5), (2, 1), (4, 2, 9)]))
    dtype = draw(st.sampled_from(kinds))
    size, queries, levels = draw(st.integers(1, 18)), draw(st.integers(1, 6)), draw(st.sampled_from([2, 3, 7]))

    def images(n):
        rows = rng.integers(0, levels, (n, *shape))
        kind = rng.integers(0, 4, n)     # as they are, symmetric, constant, as they are
        rows[kind == 1] = (rows + rows[..., ::-1])[kind == 1] // 2
        rows[kind == 2] = rng.integers(0, levels)
        return rows if dtype == "uint8" else rows / 3

    reference = images(size)
    copied = rng.integers(0, size, size) < size // 2
    reference[copied] = reference[rng.integers(0, size, copied.sum())]
    mirrored = rng.integers(0, size, size // 4)
    reference[mirrored] = reference[rng.integers(0, size, len(mirrored))][..., ::-1]
    query = images(queries)
    query[::3] = reference[rng.integers(0, size, len(query[::3]))]
    query[1::3] = reference[rng.integers(0, size, len(query[1::3]))][..., ::-1]
    distance = draw(st.sampled_from(taking(dtype)))
    return query.astype(dtype), reference.astype(dtype), draw(st.integers(1, min(size, 64))), distance


def smallest(query, reference, distance):
    """The table that orders neighbours, by the definition."""
    return np.minimum(*(oracle.ordered(np.ascontiguousarray(seen), reference, distance) for seen in (query, query[..., ::-1])))


def by_table(table, k):
    indices = np.argsort(table, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(table, indices, 1), indices, (table == table.min(1, keepdims=True)).sum(1)


def rooted(table, distance):
    return np.sqrt(table) if distance == "euclidean" else table


@pytest.mark.parametrize("backend", [None, "torch"])
@settings(deadline=None, max_examples=30)
@given(problem=problems())
def test_every_op_equals_the_definition(backend, problem):
    query, reference, k, distance = problem
    train = TrainingSet(reference, distance, VIEWS)
    table = smallest(query, reference, distance)
    values, indices, ties = by_table(table, k)
    found = knn(query, train, k, backend=backend)
    np.testing.assert_array_equal(found.distances, rooted(values, distance))
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.tie_counts, ties)

    credit, weights = nearest_credit(query, train, backend=backend), np.zeros(len(reference))
    for row in table:
        weights[row == row.min()] += 1 / (row == row.min()).sum()
    np.testing.assert_array_equal(credit.weights, weights)
    np.testing.assert_array_equal(credit.distances, rooted(values[:, 0], distance))
    np.testing.assert_array_equal(credit.tie_counts, ties)

    distances = rooted(table, distance)
    np.testing.assert_array_equal(pairwise_distances(query, train), distances)
    radius = float(np.median(distances))
    np.testing.assert_array_equal(range_count(query, train, radius), (distances <= radius).sum(1))
    edges = np.array([0.0, radius / 2 + 1e-9, radius + 1, distances.max() + 2])
    np.testing.assert_array_equal(distance_histogram(query, train, edges), np.histogram(distances, edges)[0])


@settings(deadline=None, max_examples=40)
@given(problem=problems(kinds=("uint8",)))
def test_integers_equal_the_doubled_set(problem):
    query, reference, k, distance = problem
    if not DISTANCES[distance].integer:
        return
    M = len(reference)
    doubled = knn(query, np.concatenate([reference, reference[..., ::-1]]), min(2 * M, 64), distance=distance)
    found = knn(query, TrainingSet(reference, distance, VIEWS), k)
    for n in range(len(query)):
        best = {}
        for value, index in zip(doubled.distances[n], doubled.indices[n] % M, strict=True):
            best.setdefault(index, value)
        nearest = sorted((value, index) for index, value in best.items())[:k]
        if 2 * M <= 64:
            assert list(zip(found.distances[n], found.indices[n], strict=True)) == nearest


@pytest.mark.parametrize("backend", [None, "torch"])
@settings(deadline=None, max_examples=30)
@given(problem=problems())
def test_a_row_is_its_own_neighbour_in_no_view(backend, problem):
    _, reference, k, distance = problem
    if len(reference) == 1:
        return
    k = min(k, len(reference) - 1)
    table = smallest(reference, reference, distance)
    others = table[~np.eye(len(table), dtype=bool)].reshape(len(table), -1)
    found = knn(reference, TrainingSet(reference, distance, VIEWS), k, exclude_self=True, backend=backend)
    values, _, ties = by_table(others, k)
    np.testing.assert_array_equal(found.distances, rooted(values, distance))
    np.testing.assert_array_equal(found.tie_counts, ties)
    assert (found.indices != np.arange(len(reference))[:, None]).all()


def test_tensors_and_blocks_of_queries():
    rng = np.random.default_rng(0)
    reference, query = (rng.integers(0, 4, (n, 3, 4)).astype(np.uint8) for n in (50, 5000))
    train = TrainingSet(reference, views=VIEWS)
    whole, done = knn(query, train, 3), []
    parts = knn(torch.from_numpy(query), train, 3, progress=type("Bar", (), {"update": lambda _, n: done.append(n)})(), max_memory=1 << 16)
    for field in ("distances", "indices", "tie_counts"):
        np.testing.assert_array_equal(getattr(parts, field).numpy(), getattr(whole, field))
    assert done == [4096, 5000]


def test_one_view_is_the_search_without_views():
    rows = np.random.default_rng(0).integers(0, 256, (9, 4, 4)).astype(np.uint8)
    query = rows[..., ::-1]
    np.testing.assert_array_equal(TrainingSet(rows, views=["identity"]).knn(query).distances, knn(query, rows).distances)
    np.testing.assert_array_equal(TrainingSet(rows, views=["hflip", "identity"]).knn(query).distances, 0)


@pytest.mark.parametrize("views", ["identity", "hflip", (), ("hflip",), ("identity", "identity"), ("identity", "vflip"), None, 3])
def test_other_views_are_refused(views):
    with pytest.raises(ValueError, match=r"^views: want some of \('identity', 'hflip'\), each once, with 'identity', got "):
        TrainingSet(np.zeros((2, 4, 4), np.uint8), views=views)


def test_rows_without_a_width_are_refused():
    with pytest.raises(ValueError, match=r"^views: want rows \(H, W\), \(C, H, W\) or \(H, W, C\) for 'hflip', got rows of shape \(8,\)"):
        TrainingSet(np.zeros((2, 8), np.uint8), views=VIEWS)


@pytest.mark.parametrize(
    ("shape", "axis"), [((8, 9), -1), ((3, 8, 9), -1), ((8, 9, 3), -2), ((8, 9, 1), -2), ((5, 9, 4), -2), ((4, 9, 3), -1)]
)
def test_the_axis_that_is_reversed(shape, axis):
    rows = np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    found = TrainingSet(rows, views=VIEWS).knn(np.flip(rows, axis))
    np.testing.assert_array_equal(found.distances, 0)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(20))


@pytest.mark.parametrize("shape", [(4, 4), (3, 8, 4), (4, 8, 3), (16, 8, 8), (8, 1)])
def test_rows_with_a_width_are_taken(shape):
    assert TrainingSet(np.zeros((2, *shape), np.uint8), views=VIEWS).views == VIEWS
