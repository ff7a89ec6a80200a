"""The file of a training set: its layout byte by byte, every type, and one clear error for whatever is not sound."""
import hashlib
import json
import os
import pickle
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biasgen._version import __version__
from biasgen.data import row_file
from biasgen.data.hygiene import ROW_TYPES, describe
from biasgen.data.row_file import read_rows, write_rows
from biasgen.ops._stream import blocks

ROWS = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)


def write(path, rows):
    assert write_rows(path, blocks(rows, 16), "sqeuclidean", ("identity",)) == describe(rows)


def forged(header, data=b"\x05" * 6, version=2):
    """A file with this header and a right digest of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(48 + len(text)) % 64)
    return b"biasgen\n" + version.to_bytes(4, "little") + len(text).to_bytes(4, "little") + hashlib.sha256(text).digest() + text + data


def sound(**changes):
    """A header for six bytes 5, with changes of its fields or those of its description."""
    digest = hashlib.sha256(b"\x05" * 6).hexdigest()
    description = {"n": 3, "distinct": 1, "dtype": "uint8", "low": 5, "high": 5, "mean": 5.0, "sha256": digest}
    description |= {k: v for k, v in changes.items() if k in description}
    header = {"biasgen": "0.1.0", "shape": [3, 2], "distance": "hamming", "views": ["identity"], "description": description}
    return header | {k: v for k, v in changes.items() if k not in description}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.biasgen"


def test_layout(path):
    write(path, ROWS)
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    header = json.loads(data[48 : 48 + length])
    assert data[:8] == b"biasgen\n"
    assert int.from_bytes(data[8:12], "little") == 2
    assert data[16:48] == hashlib.sha256(data[48 : 48 + length]).digest()
    assert 48 + length == 4096
    assert data[48 + length :] == ROWS.tobytes()
    description = {"n": 4, "distinct": 4, "dtype": "uint8", "low": 0, "high": 23, "mean": 11.5}
    description |= {"sha256": hashlib.sha256(ROWS.tobytes()).hexdigest()}
    expected = {"biasgen": __version__, "shape": [4, 3, 2], "distance": "sqeuclidean", "views": ["identity"], "description": description}
    assert header == expected


@pytest.mark.parametrize("dtype", [dtype for dtype in ROW_TYPES if dtype != "bfloat16"])
@pytest.mark.parametrize("form", ["C", "F", "step", "reversed", "foreign", "tensor"])
def test_round_trip(path, dtype, form):
    rows = np.random.default_rng(0).integers(0, 100, (7, 3, 2)).astype(dtype)
    rows.flags.writeable = False
    if form == "tensor":
        rows = torch.from_numpy(rows.copy())
    made = {"F": np.asfortranarray, "step": lambda r: np.repeat(r, 2, axis=2)[..., ::2], "reversed": lambda r: r[::-1]}
    made |= {"foreign": lambda r: r.astype(r.dtype.newbyteorder(">"))}
    rows = made.get(form, lambda r: r)(rows)
    write(path, rows)
    back, header = read_rows(path, "path")
    assert isinstance(back, np.memmap)
    assert not back.flags.writeable
    assert (back.dtype.name, back.dtype.isnative) == (dtype, True)
    assert back.ctypes.data % 64 == 0
    np.testing.assert_array_equal(back, rows)
    assert describe(back) == header["description"]


def test_round_trip_of_bfloat16(path):
    words = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    rows = words.view(torch.bfloat16).reshape(-1, 4)
    rows = rows[rows.isfinite().all(dim=1)].flip(1)     # not a view of what is stored
    write(path, rows.requires_grad_())
    back, header = read_rows(path, "path")
    assert back.dtype == torch.bfloat16
    assert torch.equal(back.view(torch.int16), rows.detach().view(torch.int16))     # -0.0, denormals: every bit
    assert header["description"]["dtype"] == "bfloat16"
    assert header["description"]["high"] == torch.finfo(torch.bfloat16).max
    before = path.read_bytes()
    back[0, 0] = 7.0
    assert path.read_bytes() == before


def test_written_and_read_in_blocks(path, monkeypatch):
    write(path, ROWS)
    whole = path.read_bytes()
    monkeypatch.setattr(row_file, "_BLOCK_BYTES", 7)
    write(path, ROWS)
    assert path.read_bytes() == whole
    np.testing.assert_array_equal(read_rows(path, "path")[0], ROWS)


def test_every_changed_byte_is_found(path):
    write(path, ROWS)
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :])
        with pytest.raises(ValueError, match=r"^train: "):
            read_rows(path, "train")


def test_every_cut_is_found(path):
    write(path, ROWS)
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"^train: "):
            read_rows(path, "train")
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match=rf"^train: .* is cut off or corrupted: want {len(data)} bytes, got {len(data) + 1}$"):
        read_rows(path, "train")


def test_a_later_version(path):
    write(path, ROWS)
    data = bytearray(path.read_bytes())
    data[8] = 3
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"^path: .*set\.biasgen has version 3, biasgen {__version__} reads versions 1 and 2$"):
        read_rows(path, "path")


def test_what_is_no_file_of_ours(path, tmp_path):
    with pytest.raises(ValueError, match=r"^path: no file "):
        read_rows(path, "path")
    with pytest.raises(ValueError, match=r"^path: cannot read "):
        read_rows(tmp_path, "path")
    for data in (b"", pickle.dumps(ROWS), b"\x93NUMPY" + bytes(100)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"^path: want a file that TrainingSet\.save wrote, got "):
            read_rows(path, "path")


def test_the_forgery_itself_is_sound(path):
    path.write_bytes(forged(sound()))
    assert read_rows(path, "path")[0].tolist() == [[5, 5]] * 3


def test_version_1_had_no_views(path):
    header = {field: value for field, value in sound().items() if field != "views"}
    path.write_bytes(forged(header, version=1))
    rows, read = read_rows(path, "path")
    assert rows.tolist() == [[5, 5]] * 3
    assert read["views"] == ("identity",)
    path.write_bytes(forged(header))
    with pytest.raises(ValueError, match=r"^path: .* has a header that is not one of version 2$"):
        read_rows(path, "path")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[" * 100_000,
        b"\xff\xfe",
        [],
        sound(shape=[6]),
        sound(shape=[3, -2]),
        sound(shape=[3, 2.0]),
        sound(shape=[True, 6]),
        sound(shape=[0, 2]),
        sound(shape=[6] + [1] * 32),
        sound(shape="32"),
        sound(dtype="object"),
        sound(dtype="V1"),
        sound(dtype=["uint8"]),
        sound(distance=None),
        sound(views=None),
        sound(views=["hflip"]),
        sound(views=[["identity"]]),
        sound(views=["identity", "hflip"]),     # of rows with one axis
        sound(low="5"),
        sound(mean=None),
        sound(sha256=5),
        sound(description=None),
        {"shape": [3, 2]},
    ],
)
def test_headers_that_make_no_sense(path, header):
    path.write_bytes(forged(header))
    with pytest.raises(ValueError, match=r"^path: .* has a header that is not one of version 2$"):
        read_rows(path, "path")


@pytest.mark.parametrize("changes", [{"shape": [3, 1]}, {"shape": [2**40, 2**40]}, {"dtype": "int16"}, {"sha256": "0" * 64}])
def test_headers_that_do_not_fit_the_rows(path, changes):
    path.write_bytes(forged(sound(**changes)))
    with pytest.raises(ValueError, match=r"^path: .* corrupted"):
        read_rows(path, "path")


@given(st.binary(max_size=200))
def test_noise_after_the_magic(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("noise") / "set.biasgen"
    for start in (b"biasgen\n", b"biasgen\n\2\0\0\0", b"biasgen\n\2\0\0\0\xff\xff\xff\xff"):
        path.write_bytes(start + noise)
        with pytest.raises(ValueError, match=r"^path: "):
            read_rows(path, "path")


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["as_stored", "os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_what_was_there(path, tmp_path, error, at):
    write(path, ROWS)
    target = f"biasgen.data.row_file.{at}" if at == "as_stored" else at
    with mock.patch(target, side_effect=error), pytest.raises(type(error)):
        write(path, ROWS + 1)
    assert os.listdir(tmp_path) == ["set.biasgen"]
    np.testing.assert_array_equal(read_rows(path, "path")[0], ROWS)


def test_rows_may_be_written_over_the_file_that_they_come_from(path):
    write(path, ROWS)
    back, _ = read_rows(path, "path")
    write(path, back[::-1])
    np.testing.assert_array_equal(back, ROWS)
    np.testing.assert_array_equal(read_rows(path, "path")[0], ROWS[::-1])


def test_the_name_must_say_what_it_is(tmp_path):
    with pytest.raises(ValueError, match=r"^path: want a name that ends in \.biasgen, got .*set\.npy$"):
        write(tmp_path / "set.npy", ROWS)
    assert os.listdir(tmp_path) == []
