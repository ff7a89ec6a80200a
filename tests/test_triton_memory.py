"""What a search by Triton holds beside the rows: they become int8 once, and nothing else is as large."""
import importlib.util
import weakref
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from biasgen import _settings
from biasgen.backends import _codes
from biasgen.ops._prepared import prepare

if importlib.util.find_spec("triton") is None:
    assert "triton" not in _settings.required_backends()
    pytest.skip("triton is not installed here", allow_module_level=True)

from biasgen.backends import _triton_slices
from biasgen.triton_kernels import _tile


class Held(TorchDispatchMode):
    """Bytes that tensors hold which are made while this is active, and the most at a time."""

    def __init__(self):
        super().__init__()
        self.users, self.bytes, self.most = Counter(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = tree_leaves((args, kwargs))
        storages = {key(value) for value in given if isinstance(value, torch.Tensor)}
        found = func(*args, **(kwargs or {}))
        for made in tree_leaves(found):
            if not isinstance(made, torch.Tensor) or any(made is value for value in given):
                continue
            if self.users[key(made)] or key(made) not in storages:  # else a view of what was there
                self._add(made)
        return found

    def _add(self, made):
        size = made.untyped_storage().nbytes()
        self.bytes += 0 if self.users[key(made)] else size
        self.users[key(made)] += 1
        self.most = max(self.most, self.bytes)
        weakref.finalize(made, self._drop, key(made), size)

    def _drop(self, storage, size):
        self.users[storage] -= 1
        self.bytes -= 0 if self.users[storage] else size


def key(tensor):
    """Equal for tensors that share their memory."""
    return tensor.untyped_storage()._cdata


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    """As small beside the rows as they are beside those of a GPU."""
    monkeypatch.setattr(_triton_slices, "_ROWS", 16)
    monkeypatch.setattr(_triton_slices, "_TILE", 1 << 10)
    monkeypatch.setattr(_codes, "SAMPLE", 16)


def test_a_large_reference_fits_beside_its_int8_rows():
    """10^7 rows of 3072 bytes are 61 GB with the int8 rows, where a device has 80; here 2000."""
    rows = torch.zeros((2000, 3072), dtype=torch.uint8)
    with Held() as held:
        _triton_slices._shifted(rows)
    assert rows.nbytes <= held.most < 1.06 * rows.nbytes


@pytest.mark.parametrize("features", [128, 130])
def test_tokens_and_floats_become_int8_once(features):
    tokens = torch.arange(600 * features).reshape(600, features).remainder(5).to(torch.uint8)
    with Held() as held:
        made = _triton_slices._one_hot(tokens, 5)
    assert made.high.nbytes <= held.most < 1.2 * made.high.nbytes
    prepared = prepare(tokens.float() + torch.arange(600)[:, None])
    for slices in (1, 2):
        with Held() as held:
            made = _triton_slices.coded(prepared, slices).slices
        size = made.high.nbytes * slices
        assert size <= held.most < 1.25 * size + 64 * 600  # eight numbers a row


@pytest.mark.parametrize("features", [64, 128, 192, 3072])
def test_nothing_is_copied_where_nothing_is_padded(features):
    rows = torch.ones((3, features), dtype=torch.int8)
    assert _tile.padded(rows).data_ptr() == rows.data_ptr()
    shorter = _tile.padded(rows[:, :-1])
    assert shorter.shape == rows.shape
    assert shorter.sum(1).tolist() == [features - 1] * 3
