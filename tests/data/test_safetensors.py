"""The reader of .safetensors: every type, any alignment, and nothing beyond the bytes that a tensor has."""
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biasgen.data.files import load_rows
from biasgen.data.safetensors import _TYPES

ROWS = np.arange(24, dtype=np.float32).reshape(4, 3, 2)


def encode(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensors(**arrays):
    """The file of {name: (type, array)}, by the format's description."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (kind, array) in arrays.items():
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    return encode(header, data)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.safetensors"


@pytest.mark.parametrize("kind", [kind for kind in _TYPES if kind != "BF16"])
@pytest.mark.parametrize("shift", [0, 1])
def test_every_type(path, kind, shift):
    rows = ROWS.astype(_TYPES[kind])
    path.write_bytes(tensors(before=("U8", np.zeros(shift, np.uint8)), rows=(kind, rows)))
    back = load_rows(f"{path}:rows")
    assert isinstance(back, np.memmap)
    assert back.dtype == rows.dtype
    np.testing.assert_array_equal(back, rows)


@pytest.mark.parametrize("shift", [0, 1])
def test_bfloat16(path, shift):
    rows = torch.from_numpy(ROWS).bfloat16()
    path.write_bytes(tensors(before=("U8", np.zeros(shift, np.uint8)), rows=("BF16", rows.view(torch.int16).numpy())))
    back = load_rows(f"{path}:rows")
    assert back.dtype == torch.bfloat16
    assert back.data_ptr() % 2 == 0     # torch's kernels suppose it
    assert torch.equal(back, rows)


def test_names(path):
    path.write_bytes(tensors(only=("F32", ROWS)))
    np.testing.assert_array_equal(load_rows(path), ROWS)
    path.write_bytes(tensors(a=("F32", ROWS), b=("F32", ROWS + 1)))
    np.testing.assert_array_equal(load_rows(f"{path}:b"), ROWS + 1)
    with pytest.raises(ValueError, match=r"^gen: cannot read .*: want one of a, b \(say which after a colon: FILE:NAME\), got no name$"):
        load_rows(path, "gen")
    with pytest.raises(ValueError, match=r"^gen: cannot read .*: want one of a, b .*, got __metadata__$"):
        load_rows(f"{path}:__metadata__", "gen")


def entry(dtype="F32", shape=(4, 3, 2), data_offsets=(0, 96)):
    return {"rows": {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"not json", "its header is not JSON"),
        (b"[" * 100_000, "its header is not JSON"),
        ([1], "its header is not a JSON object"),
        ({"rows": 5}, "without dtype, shape and data_offsets"),
        ({"rows": {"dtype": "F32"}}, "without dtype, shape and data_offsets"),
        (entry(shape=(4, -6)), "without dtype, shape and data_offsets"),
        (entry(shape=(4, 6.0)), "without dtype, shape and data_offsets"),
        (entry(shape=(1,) * 40), "without dtype, shape and data_offsets"),
        (entry(data_offsets=(0, 96, 96)), "without dtype, shape and data_offsets"),
        (entry(data_offsets=(-96, 0)), "without dtype, shape and data_offsets"),
        (entry(dtype="F8_E4M3"), "want one of the types .*, got 'F8_E4M3'"),
        (entry(dtype="F64"), "does not fit the bytes 0 .. 96"),
        (entry(data_offsets=(96, 0)), "does not fit"),
        (entry(data_offsets=(4, 100)), "does not fit"),
        (entry(shape=(2**40, 2**40)), "does not fit"),
        (entry(shape=(2**62, 4), data_offsets=(0, 2**66)), "does not fit"),
        ({}, "want an array"),
    ],
)
def test_files_that_will_not_do(path, header, message):
    path.write_bytes(encode(header, ROWS.tobytes()))
    with pytest.raises(ValueError, match=rf"^train: cannot read .*rows\.safetensors: .*{message}"):
        load_rows(path, "train")


def test_every_cut_is_found(path):
    data = tensors(rows=("F32", ROWS))
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"^train: cannot read "):
            load_rows(path, "train")
    for length in (2**63, 2**64 - 1, len(data) - 7):
        path.write_bytes(length.to_bytes(8, "little") + data[8:])
        with pytest.raises(ValueError, match="it is cut off or no safetensors file"):
            load_rows(path, "train")


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_gives_rows_or_one_error(tmp_path_factory, at, byte):
    path = tmp_path_factory.mktemp("noise") / "rows.safetensors"
    data = bytearray(tensors(rows=("F32", ROWS)))
    data[at % len(data)] = byte
    path.write_bytes(data)
    try:
        assert load_rows(path, "train").nbytes == 96
    except ValueError as error:
        assert str(error).startswith("train: ")     # noqa: PT017
