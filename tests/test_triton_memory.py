"""What a search by Triton holds beside the rows: they become int8 once, and nothing else is as large."""
import importlib.util

import pytest
import torch

from biasgen import _settings
from biasgen.backends import _codes
from biasgen.ops._prepared import prepare
from tests.pretend_device import PretendDevice

if importlib.util.find_spec("triton") is None:
    assert "triton" not in _settings.required_backends()
    pytest.skip("triton is not installed here", allow_module_level=True)

from biasgen.backends import _triton_slices
from biasgen.triton_kernels import _tile


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    """As small beside the rows as they are beside those of a GPU."""
    monkeypatch.setattr(_triton_slices, "_ROWS", 16)
    monkeypatch.setattr(_triton_slices, "_TILE", 1 << 10)
    monkeypatch.setattr(_codes, "SAMPLE", 16)


def test_a_large_reference_fits_beside_its_int8_rows():
    """10^7 rows of 3072 bytes are 61 GB with the int8 rows, where a device has 80; here 2000."""
    rows = torch.zeros((2000, 3072), dtype=torch.uint8)
    with PretendDevice() as device:
        _triton_slices._shifted(device.put(rows))
    assert rows.nbytes <= device.peak < 1.06 * rows.nbytes


@pytest.mark.parametrize("features", [128, 130])
def test_tokens_and_floats_become_int8_once(features):
    tokens = torch.arange(600 * features).reshape(600, features).remainder(5).to(torch.uint8)
    with PretendDevice() as device:
        made = _triton_slices._one_hot(device.put(tokens), 5)
    assert made.high.nbytes <= device.peak < 1.2 * made.high.nbytes
    floats = tokens.float() + torch.arange(600)[:, None]
    for slices in (1, 2):
        with PretendDevice() as device:
            prepared = prepare(device.put(floats))
            device.peak = 0
            before = sum(device._bytes.values())
            made = _triton_slices.coded(prepared, slices).slices
        size = made.high.nbytes * slices
        assert size <= device.peak - before < 1.25 * size + 64 * 600  # eight numbers a row


@pytest.mark.parametrize("features", [64, 128, 192, 3072])
def test_nothing_is_copied_where_nothing_is_padded(features):
    rows = torch.ones((3, features), dtype=torch.int8)
    assert _tile.padded(rows).data_ptr() == rows.data_ptr()
    shorter = _tile.padded(rows[:, :-1])
    assert shorter.shape == rows.shape
    assert shorter.sum(1).tolist() == [features - 1] * 3
