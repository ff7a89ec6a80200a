"""Blocks on their way to a device: streams that run as late, as early or in as odd an order as they may give the same answers."""
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from biasgen import TrainingSet, knn, nearest_credit
from biasgen.ops import _prepared, _streamed, _upload
from biasgen.ops._prepared import query_of

ORDERS = ("late", "copies first", "work first", "at once", *range(20))


class Stream:
    """What is enqueued, in order; nothing runs before the machine lets it."""

    def __init__(self, machine):
        self.machine, self.queue, self.finished, self.enqueued = machine, [], 0, 0

    def put(self, work, after=None):
        with self.machine.lock:
            self.queue.append((work, after))
            self.enqueued += 1
            self.machine.run()

    def wait_event(self, event):
        self.put(lambda: None, after=event)

    def step(self):
        """Whether something could run."""
        if not self.queue or (self.queue[0][1] is not None and not self.queue[0][1].over()):
            return False
        self.queue.pop(0)[0]()
        self.finished += 1
        return True


class Event:
    def __init__(self, stream):
        self.stream, self.position = stream, stream.enqueued

    def over(self):
        return self.stream.finished >= self.position

    def synchronize(self):
        with self.stream.machine.lock:
            while not self.over():
                assert any([stream.step() for stream in (self.stream, *self.stream.machine.streams)]), "a deadlock"


class Machine:
    """A stand-in for _upload.Cuda with memory of the host. order: of the two streams, as far as events leave it open."""

    device = torch.device("cpu")

    def __init__(self, order):
        self.lock, self.order, self.random = threading.RLock(), order, np.random.default_rng(order if isinstance(order, int) else 0)
        self.copies, self.work = self.streams = [Stream(self), Stream(self)]

    def run(self):
        eager = {"copies first": [self.copies], "work first": [self.work], "at once": self.streams}.get(self.order, [])
        while any([stream.step() for stream in eager]):
            pass
        if isinstance(self.order, int):
            for chosen in self.random.integers(0, 2, self.random.integers(0, 4)):
                self.streams[chosen].step()

    def buffers(self, size):
        return tuple(torch.full((size,), 255, dtype=torch.uint8) for _ in range(2))

    def copy(self, there, here):
        self.copies.put(lambda: there.copy_(here))

    def event(self, stream):
        return Event(stream)

    def finish(self):
        Event(self.copies).synchronize()
        Event(self.work).synchronize()


def problem():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 3, (47, 3)).astype(np.uint8)  # repeats, so that blocks have fewer distinct rows than rows
    return rows, TrainingSet(rows, max_memory=8 * _streamed._row_bytes(rows) * 6).prepared


@pytest.mark.parametrize("order", ORDERS)
def test_every_block_is_searched_as_it_was(order):
    _, streamed = problem()
    machine, seen = Machine(order), []

    def search(block):
        tensors = [getattr(block, name) for name in _upload._PARTS]
        machine.work.put(lambda: seen.append([tensor.clone() for tensor in tensors]))

    starts = []
    for start, block in _upload.uploaded(streamed._prepared(), streamed.block_rows, 3, machine):
        starts.append(start)
        search(block)
        search(block)
    machine.finish()
    wanted = [(start, [getattr(block, name) for name in _upload._PARTS]) for start, block in streamed._prepared()]
    assert starts == [start for start, _ in wanted]
    assert len(starts) == 8
    for found, (_, tensors) in zip(seen, [block for block in wanted for _ in range(2)], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, tensors, strict=True))


def test_a_block_is_copied_while_the_one_before_is_searched():
    """When the search of a block is enqueued, the copy of the next may already be over; that of the one after cannot begin."""
    _, streamed = problem()
    machine, copied = Machine("copies first"), []
    copies = machine.copy
    machine.copy = lambda there, here: (copies(there, here), machine.copies.put(lambda: copied.append(len(copied))))
    blocks = _upload.uploaded(streamed._prepared(), streamed.block_rows, 3, machine)
    next(blocks)
    searching = threading.Event()
    machine.work.put(searching.set)  # not run: the machine runs copies only
    for _ in range(200):
        if len(copied) == 2:
            break
        threading.Event().wait(0.01)
    assert (copied, searching.is_set()) == ([0, 1], False)
    blocks.close()


@pytest.mark.parametrize("order", ["late", "copies first"])
def test_an_error_of_a_block_is_raised_where_it_was_due(order):
    def blocks():
        yield from problem()[1]._prepared()
        raise ValueError("rows: broken")

    found = _upload.uploaded(blocks(), 6, 3, Machine(order))
    assert len([next(found)[0] for _ in range(8)]) == 8
    with pytest.raises(ValueError, match=r"^rows: broken$"):
        next(found)


@pytest.mark.parametrize("distance", ["sqeuclidean", "cosine"])
def test_a_set_on_the_host_serves_queries_on_a_gpu(monkeypatch, distance):
    """The same answers as in memory, through the buffers: the queries only say that they are elsewhere."""
    rows, _ = problem()
    query = torch.from_numpy(rows[::5].copy())
    train = TrainingSet(rows, distance, max_memory=8 * _streamed._row_bytes(rows) * 6)
    devices = []
    monkeypatch.setattr(_streamed, "Cuda", lambda device: devices.append(device) or Machine("at once"))
    monkeypatch.setattr(_streamed.Streamed, "device", torch.device("meta"))  # so that the host is another one
    monkeypatch.setattr(_streamed.Streamed, "serves", lambda self, device: True)
    found, wanted = knn(query, train, 3), knn(query, torch.from_numpy(rows), 3, distance=distance)
    for name in ("distances", "indices", "tie_counts"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))
    assert torch.equal(nearest_credit(query, train).weights, nearest_credit(query, torch.from_numpy(rows), distance=distance).weights)
    assert devices == [query.device] * 3


def test_who_serves_whom():
    _, streamed = problem()
    on_host = _prepared.prepare(torch.zeros(2, 3))
    host, gpu, other = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")
    assert [streamed.serves(device) for device in (host, gpu, other)] == [True, True, False]
    assert [on_host.serves(device) for device in (host, gpu, other)] == [True, False, False]
    query = torch.empty((1, 3), dtype=torch.float32)
    same = {name: getattr(on_host, name) for name in ("distance", "shape", "element", "device")}
    stand_in = SimpleNamespace(**same, serves=lambda device: False)
    with pytest.raises(ValueError, match=r"^query: want a tensor on cpu as the reference, got cpu$"):
        query_of(query, stand_in)
