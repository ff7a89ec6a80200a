"""Sets larger than memory: the answers of a search in blocks are those of the search in memory, to the bit, and the memory is bounded."""
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biasgen import TrainingSet, distance_histogram, knn, nearest_credit, pairwise_distances, range_count
from biasgen.ops import _streamed
from tests.table import taking


@st.composite
def problems(draw):
    """(query, reference, k, distance, views): few values, so that rows repeat and tie within blocks and across them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = np.dtype(draw(st.sampled_from(["uint8", "int16", "int64", "float16", "float32", "float64"])))
    size, width = draw(st.integers(2, 24)), draw(st.sampled_from([1, 2, 5]))
    rows = rng.integers(0, draw(st.sampled_from([2, 4])), (size + 6, 2, width))
    rows = (rows if dtype.kind != "f" else (rows - 1) / 4).astype(dtype)     # signs, so that -0.0 occurs below
    if dtype.kind == "f":
        rows[rng.random(rows.shape) < 0.1] *= -1
    views = draw(st.sampled_from([("identity",), ("identity", "hflip")]))
    distance = draw(st.sampled_from(taking(dtype.name)))
    return rows[:6], rows[6:], draw(st.integers(1, min(size - 1, 20))), distance, views


def streamed(reference, distance, views, rows):
    """A set searched in blocks of this many rows."""
    train = TrainingSet(reference, distance, views, max_memory=rows * _streamed._BLOCKWISE * _streamed._row_bytes(reference))
    assert train.streamed == (rows * _streamed._BLOCKWISE < len(reference) * _streamed._WHOLE)
    return train


def answers(query, train, k, backend):
    found, credit = knn(query, train, k, backend=backend), nearest_credit(query, train, backend=backend)
    near = nearest_credit(query, train, within=credit.distances[0].item(), backend=backend)
    table = pairwise_distances(query, train)
    radius = float(np.median(table))
    edges = np.array([0, radius / 2 + 1e-9, radius + 1])
    counts = range_count(query, train, radius), distance_histogram(query, train, edges)
    return *list(vars(found).values())[:3], *vars(credit).values(), near.weights, table, *counts


@pytest.mark.parametrize("backend", [None, "torch"])
@settings(deadline=None, max_examples=20)
@given(problem=problems(), rows=st.integers(2, 12), kind=st.sampled_from(["array", "map", "tensor"]))
def test_the_answers_are_those_in_memory(tmp_path_factory, backend, problem, rows, kind):
    query, reference, k, distance, views = problem
    given_rows = torch.from_numpy(reference) if kind == "tensor" else reference
    if kind == "map":
        path = tmp_path_factory.mktemp("rows") / "rows.npy"
        np.save(path, reference)
        given_rows = np.load(path, mmap_mode="r")
    whole, blockwise = TrainingSet(reference, distance, views), streamed(given_rows, distance, views, rows)
    for ours, theirs in zip(answers(query, blockwise, k, backend), answers(query, whole, k, backend), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    ours, theirs = (knn(reference, train, k, exclude_self=True, backend=backend) for train in (blockwise, whole))
    for field in ("distances", "indices", "tie_counts"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))


def test_bfloat16_and_queries_wider_than_the_rows():
    reference = torch.randn(30, 2, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    query = reference[:5].double() * 1.5
    ours, theirs = (knn(query, train, 4) for train in (streamed(reference, "sqeuclidean", ("identity",), 4), TrainingSet(reference)))
    assert torch.equal(ours.distances, theirs.distances)
    assert torch.equal(ours.indices, theirs.indices)


def test_when_a_set_is_streamed(tmp_path, monkeypatch):
    np.save(tmp_path / "rows.npy", np.zeros((100, 10), np.float32))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert not TrainingSet(rows).streamed
    monkeypatch.setattr(_streamed, "_machine_memory", lambda: 15_999)
    assert TrainingSet(rows).streamed
    assert TrainingSet(rows).prepared.block_rows == 15_999 // (8 * 40)
    assert not TrainingSet(np.array(rows)).streamed     # in memory already
    assert not TrainingSet(rows, max_memory=16_000).streamed
    assert knn(np.ones((1, 10), np.float32), rows).tie_counts == 100
    assert knn(np.ones((1, 10), np.float32), rows).stats["distinct"] > 1     # an array given to an op too was cut


def test_what_it_says_of_itself():
    rows = np.random.default_rng(0).integers(0, 2, (40, 3)).astype(np.uint8)
    whole, train = TrainingSet(rows), streamed(rows, None, ("identity",), 4)
    assert (len(train), train.distinct, train.distance, train.views) == (40, whole.distinct, "sqeuclidean", ("identity",))
    assert repr(train) == "TrainingSet(40 rows of shape (3,), streamed, sqeuclidean)"


@pytest.mark.parametrize("max_memory", [0, -1, 1.5, True, "all"])
def test_another_budget_is_refused(max_memory):
    with pytest.raises(ValueError, match=r"^max_memory: want a positive number of bytes, got "):
        TrainingSet(np.zeros((9, 4), np.uint8), max_memory=max_memory)


def test_a_budget_that_holds_no_row_is_refused():
    with pytest.raises(ValueError, match=r"^max_memory: want at least 128 bytes, which a row takes, got 127$"):
        TrainingSet(np.zeros((100, 4), np.float16), max_memory=127)


@pytest.mark.parametrize(("wrong", "dtype", "what"), [(np.nan, "float32", "finite"), (-1, "int64", "tokens"), (-1, "int8", "tokens")])
def test_a_wrong_row_is_named_by_its_number_in_the_whole_set(wrong, dtype, what):
    rows = np.zeros((50, 4), dtype)
    rows[37, 2] = wrong
    with pytest.raises(ValueError, match=rf"^rows: want {what}.* in row 37$"):
        streamed(rows, None, ("identity",), 3)


def test_another_reference_is_no_self():
    rows = np.random.default_rng(0).integers(0, 256, (50, 4)).astype(np.uint8)
    train, other = streamed(rows, None, ("identity",), 3), rows.copy()
    other[41] += 1
    with pytest.raises(ValueError, match=r"^query: want the rows of the reference with exclude_self, row 41 differs$"):
        knn(other, train, exclude_self=True)
    with pytest.raises(ValueError, match=r"^query: want the 50 rows of the reference with exclude_self, got 49$"):
        knn(rows[:49], train, exclude_self=True)


def test_progress_and_interrupt_between_blocks(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).integers(0, 256, (90, 4)).astype(np.uint8))
    train = streamed(np.load(tmp_path / "rows.npy", mmap_mode="r"), None, ("identity",), 10)
    done = []

    class Bar:
        def update(self, finished):
            done.append(finished)
            if len(done) == limit:
                raise KeyboardInterrupt

    limit = 3
    with pytest.raises(KeyboardInterrupt):
        train.knn(train.rows[:18], progress=Bar())
    assert done == [2, 4, 6]
    limit = 100
    train.knn(train.rows[:18], progress=Bar())
    assert done[3:] == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("biasgen-read")]


MEMORY = """
import sys, threading, time
import numpy as np, torch
import biasgen
from biasgen import TrainingSet, knn, nearest_credit

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) << 10

path, dtype, distance = sys.argv[1:]
rows = np.memmap(path, dtype, "r").reshape(-1, 512)
query = np.array(rows[::4096])
knn(query, rows[:4096], distance=distance)     # loads what a search loads
peak = before = anonymous()
stop = threading.Event()

def watch():
    global peak
    while not stop.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.001)

thread = threading.Thread(target=watch)
thread.start()
train = TrainingSet(rows, distance, max_memory=48 << 20)
found = train.knn(query)
nearest_credit(query, train)
stop.set()
thread.join()
assert train.streamed and (found.distances == 0).all()
print(peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize(("dtype", "distance"), [("uint8", "sqeuclidean"), ("float32", "sqeuclidean"), ("int16", "hamming")])
def test_memory_is_bounded(tmp_path, dtype, distance):
    """Anonymous memory of a process, sampled every millisecond: a set of 64 MiB, which takes 128 in memory, within 64."""
    path = tmp_path / "rows"
    rng = np.random.default_rng(0)
    made = {"uint8": lambda n: rng.integers(0, 256, n, np.uint8), "int16": lambda n: rng.integers(0, 6, n, np.int16)}
    rows = made.get(dtype, lambda n: rng.random(n, np.float32))((64 << 20) // np.dtype(dtype).itemsize)
    rows.tofile(path)
    run = subprocess.run([sys.executable, "-c", MEMORY, str(path), dtype, distance], capture_output=True, text=True, check=True, timeout=60)
    assert int(run.stdout) < 64 << 20
