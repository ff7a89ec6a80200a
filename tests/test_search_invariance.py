"""Float searches: blocks, bounds and the state of the caller's process; what must not matter everywhere is in test_promise.py."""
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.host_reads import NoHostReads
from biasgen import TrainingSet, distance_histogram, knn, nearest_credit, pairwise_distances, range_count
from biasgen.backends import _screens, _search, torch_backend
from biasgen.backends._mode import exact_arithmetic
from biasgen.ops import _nearest
from biasgen.ops import knn as knn_module
from biasgen.ops._prepared import prepare, query_of
from biasgen.oracle import knn as oracle
from tests.table import taking

FLOATS = taking("float32")


@st.composite
def problems(draw):
    """(query, reference, k, distance): few values and copies, so that ties are the rule, or differences in the last bits."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    features, size = draw(st.sampled_from([1, 3, 16, 37])), draw(st.integers(1, 60))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    if draw(st.booleans()):
        reference = rng.integers(-2, 3, (size, features)).astype(dtype) / 4
    else:
        steps = rng.integers(0, 3, (size, features))
        reference = (rng.normal(5, 1, features) * (1 + steps * np.finfo(dtype).eps)).astype(dtype)
    query = reference[rng.integers(0, size, draw(st.integers(1, 9)))]
    query[::3] = query[::3] * dtype(1.5)
    return query, reference, draw(st.integers(1, min(size, 64))), draw(st.sampled_from(FLOATS))


def answers(query, reference, k, distance, backend="torch"):
    """Everything that is promised, as bytes may be compared."""
    found = knn(query, reference, k, distance=distance, backend=backend)
    credit = nearest_credit(query, reference, distance=distance, backend=backend)
    return found.distances, found.indices, found.tie_counts, credit.weights, credit.distances, credit.tie_counts


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=30)
@given(problem=problems(), max_memory=st.integers(1, 50_000), queries=st.integers(1, 5), pairs=st.integers(1, 30))
def test_blocks(problem, max_memory, queries, pairs):
    query, reference, k, distance = problem
    expected = answers(query, reference, k, distance)
    table = pairwise_distances(query, reference, distance=distance)
    radius = float(table[0, 0])
    edges = np.array([0.0, radius / 2 + 1e-30, radius + 1.0])
    counts = range_count(query, reference, radius, distance=distance), distance_histogram(query, reference, edges, distance=distance)
    np.testing.assert_array_equal(counts[0], (table <= radius).sum(1))
    with (
        mock.patch.object(torch_backend, "MAX_MEMORY", max_memory),
        mock.patch.object(_screens, "_QUERIES", queries),
        mock.patch.object(_screens, "_TILE", pairs),
        mock.patch.object(_nearest, "_PAIRS", pairs),
        mock.patch.object(knn_module, "_CANDIDATES", pairs),
    ):
        assert_equal(answers(query, reference, k, distance), expected)
        assert_equal(answers(query, TrainingSet(reference, distance), k, distance), expected)
        np.testing.assert_array_equal(pairwise_distances(query, reference, distance=distance), table)
        assert_equal((range_count(query, reference, radius, distance=distance),), counts[:1])
        assert_equal((distance_histogram(query, reference, edges, distance=distance),), counts[1:])


@settings(deadline=None, max_examples=100)
@given(problem=problems(), scale=st.sampled_from([1, 1e-30, 1e-160, 1e-310, 1e148]), outlier=st.sampled_from([0, 1, 1e6]))
def test_the_bounds_hold(problem, scale, outlier):
    """What certifies a search: every value lies between the bounds of the screen, and they are narrow beside the size of the rows."""
    query, reference, _, distance = problem
    query, reference = query.astype(np.float64) * scale, reference.astype(np.float64) * scale
    reference[-1, -1] = min(reference[-1, -1] + outlier * scale, 1e150)
    prepared = prepare(reference, distance).searched
    with exact_arithmetic():
        screen = _screens.FloatScreen(query_of(query, prepared), prepared, 1 << 12)
        for block in screen.blocks():
            lower, upper = block.bounds()
            pairs = torch.ones_like(lower).nonzero().unbind(1)
            values = screen.values(pairs[0], block.rows(pairs[1])).reshape(lower.shape)
            assert (lower <= values).all()
            assert (values <= upper).all()
            # Two rows that are about as far apart as rows of this size can be, by this distance.
            one = np.full((1, query.shape[1]), max(abs(query).max(), abs(reference).max()))
            one[0, 1::2] *= -1
            farthest = oracle.ordered(one, -one, distance).item()
            assert (upper - lower).max() <= 1e-10 * farthest + 1e-300


@pytest.mark.parametrize("distance", FLOATS)
@pytest.mark.parametrize("scale", [1, 1e-41, 1e-160, 1e-310])
def test_the_state_of_the_process(distance, scale):
    rng = np.random.default_rng(0)
    dtype = np.float32 if scale == 1e-41 else np.float64
    query, reference = ((rng.normal(size=(rows, 40)) * scale).astype(dtype) for rows in (6, 50))
    expected = answers(query, reference, 3, distance)
    table = pairwise_distances(query, reference, distance=distance)
    radius = float(np.median(table))
    inside, credit = (table <= radius).sum(1), nearest_credit(query, reference, distance=distance, within=expected[4][0])
    torch.set_flush_denormal(True)
    torch.set_default_dtype(torch.float16)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
            changed = answers(query, reference, 3, distance)
            again = pairwise_distances(query, reference, distance=distance)
            counts = range_count(query, reference, radius, distance=distance)
            near = nearest_credit(query, reference, distance=distance, within=expected[4][0])
        assert bool(torch.full((1,), 5e-324, dtype=torch.float64) == 0), "the caller's mode must come back"
    finally:
        torch.set_flush_denormal(False)
        torch.set_default_dtype(torch.float32)
    assert_equal(changed, expected)
    np.testing.assert_array_equal(again, table)
    np.testing.assert_array_equal(counts, inside)
    np.testing.assert_array_equal(near.weights, credit.weights)


def test_rows_equal_by_value_are_searched_once():
    rows = np.array([[0.0, 1], [-0.0, 1], [0, 2]])
    for distance in FLOATS:
        assert prepare(rows, distance).multiplicity.tolist() == [2, 1]
        assert knn(-rows, -rows, 2, distance=distance).tie_counts[0] == (3 if distance in ("cosine", "correlation") else 2)


def test_tensors_that_require_a_gradient():
    rows = torch.eye(3, requires_grad=True)
    found = knn(rows, rows, 2)
    assert not found.distances.requires_grad
    assert found.distances.tolist() == [[0, 2]] * 3


def test_threads_that_flush_denormals():
    """Threads that torch starts under set_flush_denormal keep it when the caller has switched it off."""
    script = """
import torch
from biasgen.backends._mode import exact_arithmetic
torch.set_num_threads(2)
torch.set_flush_denormal(True)
small = torch.full((1 << 18,), 5e-324, dtype=torch.float64)
(small + 0).sum()
torch.set_flush_denormal(False)
assert not (small + 0).all(), "no thread flushes: this test shows nothing"
with exact_arithmetic(small.numel()):
    assert (small + 0).all()
assert torch.get_num_threads() == 2
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_an_error_restores_the_mode():
    torch.set_flush_denormal(True)
    try:
        with pytest.raises(KeyError), exact_arithmetic():
            raise KeyError
        assert bool(torch.full((1,), 5e-324, dtype=torch.float64) == 0)
    finally:
        torch.set_flush_denormal(False)


def test_no_thread_is_looked_at_for_work_on_a_device(monkeypatch):
    """All of them would be, by a tensor on the CPU, at every call; a CUDA graph may not read one."""
    large = torch.empty((1 << 20, 1 << 10), device="meta")
    prepared = SimpleNamespace(rows=large, integer=False)
    monkeypatch.setattr(_search, "knn", lambda *_: "found")
    with NoHostReads():
        with exact_arithmetic():
            pass
        assert torch_backend.knn(large, prepared, 1) == "found"
    monkeypatch.setattr(torch, "full", pytest.fail)
    with exact_arithmetic(1 << 30, torch.device("cuda")):
        pass
