"""Blocks of rows: all of them, in order, one read ahead, and no thread that outlives the loop."""
import os
import signal
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biasgen.ops import _stream
from biasgen.ops._stream import blocks


@pytest.fixture
def mapped(tmp_path):
    """A memory-mapped array of 10 rows of 8 bytes: with block_bytes=16 five blocks."""
    np.save(tmp_path / "rows.npy", np.arange(20, dtype=np.float32).reshape(10, 2))
    return np.load(tmp_path / "rows.npy", mmap_mode="r")


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("biasgen-read")]


@given(n=st.integers(0, 30), width=st.integers(0, 3), block_bytes=st.integers(1, 200), form=st.sampled_from(["C", "F", "step", "mapped"]))
def test_all_rows_in_order(tmp_path_factory, n, width, block_bytes, form):
    rows = np.arange(n * width * 2, dtype=np.int16).reshape(n, width, 2)
    given_rows = {"C": rows, "F": np.asfortranarray(rows), "step": np.repeat(rows, 2, axis=0)[::2]}.get(form)
    if form == "mapped":
        path = tmp_path_factory.mktemp("rows") / "rows.npy"
        np.save(path, np.asfortranarray(np.repeat(rows, 2, axis=1)))
        given_rows = np.load(path, mmap_mode="r")[:, ::2]     # neither C order nor contiguous
    parts = list(blocks(given_rows, block_bytes))
    np.testing.assert_array_equal(np.concatenate(parts) if parts else rows, rows)
    step = max(1, block_bytes // max(1, width * 4))
    assert all(part.flags.c_contiguous for part in parts) or form != "mapped"
    assert [len(part) for part in parts] == [min(step, n - start) for start in range(0, n, step)]


def test_tensors_and_arrays_are_not_copied():
    rows = torch.arange(12).reshape(6, 2)
    parts = list(blocks(rows, 32))
    assert [part.tolist() for part in parts] == [part.tolist() for part in rows.split(2)]
    assert parts[1].data_ptr() == rows[2:].data_ptr()
    assert all(np.shares_memory(part, rows.numpy()) for part in blocks(rows.numpy(), 32))


def test_mapped_rows_are_copies_that_may_be_written(mapped):
    part = next(iter(blocks(mapped, 16)))
    assert type(part) is np.ndarray
    assert part.flags.writeable
    assert part.flags.c_contiguous


def test_one_block_is_read_ahead_and_no_more(mapped, monkeypatch):
    started, second = [], threading.Event()

    def read(rows, start, step):
        started.append(start)
        if start == 2:
            second.set()
        return np.array(rows[start : start + step])

    monkeypatch.setattr(_stream, "_read", read)
    loop = blocks(mapped, 16)
    assert started == []     # nothing before it is asked for
    np.testing.assert_array_equal(next(loop), mapped[:2])
    assert second.wait(10)     # while the first block is in use
    for done, part in enumerate(loop, start=2):
        np.testing.assert_array_equal(part, mapped[2 * (done - 1) : 2 * done])
        assert len(started) <= done + 1
    assert started == [0, 2, 4, 6, 8]


def test_an_error_of_the_reader_comes_where_its_block_was_due(mapped, monkeypatch):
    def read(rows, start, step):
        if start == 4:
            raise OSError("the disk is gone")
        return np.array(rows[start : start + step])

    monkeypatch.setattr(_stream, "_read", read)
    loop = blocks(mapped, 16)
    np.testing.assert_array_equal(next(loop), mapped[:2])
    np.testing.assert_array_equal(next(loop), mapped[2:4])
    with pytest.raises(OSError, match="the disk is gone"):
        next(loop)


def test_a_loop_may_be_left_early(mapped):
    loop = blocks(mapped, 16)
    next(loop)
    loop.close()
    with pytest.raises(StopIteration):
        next(loop)


def test_an_interrupt_comes_through_while_a_block_is_awaited(mapped, monkeypatch):
    def read(rows, start, step):
        if start == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return np.array(rows[start : start + step])

    monkeypatch.setattr(_stream, "_read", read)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)     # a job in the background inherits an ignored one
    try:
        with pytest.raises(KeyboardInterrupt):
            for _ in blocks(mapped, 16):
                pass
    finally:
        signal.signal(signal.SIGINT, before)
