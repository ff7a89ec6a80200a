"""Equal rows: the same on a device as on the host, whatever the hash, and no row is copied back."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import duplicates
from biasgen.backends import _mode
from biasgen.ops import _duplicates, _prepared
from tests.hard_rows import hard_rows
from tests.pretend_device import DEVICE, PretendDevice

TYPES = (torch.uint8, torch.int16, torch.float32, torch.float64)
FIELDS = ("rows", "multiplicity", "members", "offsets")


def first_equal_by_definition(rows):
    """Python's dictionary holds -0.0 and 0.0 for equal."""
    seen = {}
    return [seen.setdefault(tuple(row), i) for i, row in enumerate(rows.tolist())]


def random_rows(seed, M, F, values, dtype):
    """(M, F) of few values, so that rows repeat; at an odd address where the type allows it."""
    numbers = np.random.default_rng(seed).integers(0, values, M * F + 1) - 1
    rows = torch.from_numpy(numbers).to(dtype)
    if dtype.is_floating_point:
        rows[::2] *= -1  # zeros of both signs
    return rows[1:].view(M, F)


def weak(hashes):
    """Hashes of which nothing, the highest bit of one half, and one half are left."""
    half = hashes * torch.tensor([[0], [1]])
    return {"constant": hashes * 0, "one bit": half >> 63, "half": half}


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    M=st.integers(1, 40),
    F=st.integers(1, 21),
    values=st.sampled_from((1, 2, 3, 200)),
    dtype=st.sampled_from(TYPES),
    block=st.sampled_from((1, 50, 1 << 22)),
)
def test_hashes_sorting_and_the_definition_agree(seed, M, F, values, dtype, block):
    rows = random_rows(seed, M, F, values, dtype)
    wanted = first_equal_by_definition(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_duplicates, "_BLOCK", block)
        assert _duplicates._by_hashes(rows).tolist() == wanted
    assert _duplicates._by_sorting(rows).tolist() == wanted


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("left", ["constant", "one bit", "half"])
def test_rows_that_share_a_hash_are_kept_apart(monkeypatch, left, dtype):
    hashes, rounds, differ = _duplicates._hashes, [], _duplicates._differ
    monkeypatch.setattr(_duplicates, "_hashes", lambda rows: weak(hashes(rows))[left])
    monkeypatch.setattr(_duplicates, "_differ", lambda *given: rounds.append(1) or differ(*given))
    rows = random_rows(0, 200, 5, 2, dtype)
    assert _duplicates._by_hashes(rows).tolist() == first_equal_by_definition(rows)
    distinct = len(set(first_equal_by_definition(rows)))
    assert len(rounds) == distinct if left == "constant" else len(rounds) < distinct


@pytest.mark.parametrize("name", hard_rows())
def test_hard_floats(name):
    twice = torch.from_numpy(hard_rows()[name]).repeat(2, 1)
    rows = twice[torch.randperm(len(twice), generator=torch.Generator().manual_seed(0))]
    assert _duplicates._by_hashes(rows).tolist() == first_equal_by_definition(rows)


def test_every_bit_counts_in_either_half():
    bits = np.eye(21 * 8, dtype=np.uint8)
    pairs = bits[:, None] | bits[None, :]  # among them the highest bits of two words of 64 bits
    rows = np.unique(np.packbits(pairs.reshape(-1, 21 * 8), axis=1), axis=0)
    assert len(rows) == 168 * 169 // 2
    for half in _duplicates._hashes(torch.from_numpy(rows)):
        assert len(torch.unique(half)) == len(rows)


def test_zeros_of_both_signs_one_row_and_all_or_none_equal():
    zeros = torch.tensor([[0.0, -0.0], [-0.0, 0.0]])
    assert _duplicates._hashes(zeros).diff().tolist() == [[0], [0]]
    bytes_alike = torch.ones(5, 3, dtype=torch.uint8)
    cases = (zeros, [0, 0]), (zeros[:1], [0]), (bytes_alike, [0] * 5), (torch.eye(3), [0, 1, 2])
    for rows, wanted in cases:
        assert _duplicates._by_hashes(rows).tolist() == wanted


@pytest.mark.parametrize("dtype", TYPES)
def test_prepared_on_a_device_as_on_the_host(monkeypatch, dtype):
    monkeypatch.setattr(_mode, "has_float64", lambda device_type: True)
    rows = random_rows(0, 300, 70, 2, dtype)
    rows[3], rows[50:90], rows[200] = 1, rows[20], rows[100]
    given = rows.view(torch.uint16) if dtype == torch.int16 else rows
    wanted = _prepared.prepare(given)
    assert len(wanted.rows) == 259
    with PretendDevice() as device:
        there = device.put(given)
        found = _prepared.prepare(there)
        tensors = (device.put(getattr(wanted, name).clone()) for name in FIELDS)
        compiled = _prepared.of_tensors(*tensors, wanted.distance, wanted.shape)
    assert max(device.to_host) <= 8
    for name in FIELDS:
        assert getattr(found, name).device == DEVICE
        assert torch.equal(getattr(found, name).held, getattr(wanted, name))
    assert found.rows.held.dtype == wanted.rows.dtype
    for prepared in (found, compiled):
        assert (prepared.largest, type(prepared.largest)) == (wanted.largest, type(wanted.largest))
    assert wanted.largest == given.numpy().max()


def test_the_pretended_device_notes_what_is_copied_back():
    with PretendDevice() as device:
        there = device.put(torch.ones(3, 2))
        there.cpu()
        assert there.sum().item() == 6
        (there + 1).sort()
    assert device.to_host == [24, 8]
    assert device.peak == 24 + 24 + 48


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("copies", [1, 100, 1000])
def test_memory_beside_the_rows(monkeypatch, dtype, copies):
    M, block = 1000, 1 << 13
    monkeypatch.setattr(_duplicates, "_BLOCK", block)
    monkeypatch.setattr(_prepared, "_WIDENED", block // 4)
    rows = torch.randint(0, 256, (M, 256), generator=torch.Generator().manual_seed(0)).to(dtype)
    rows[:copies] = rows[0]
    with PretendDevice() as device:
        first, *_ = _duplicates.groups(device.put(rows))
        _prepared._largest(device.put(rows))
    assert len(first) == M + 1 - copies
    assert device.peak <= 96 * M + 8 * block < rows.nbytes


def test_the_benchmark_compares_both():
    line = duplicates.line(torch.from_numpy(duplicates.near_duplicates(2000, 64)))
    assert line.startswith("2000 x 64 bytes, 1800 distinct: equal; hashes on cpu ")
