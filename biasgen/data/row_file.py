"""The file of a training set: a checked header, then the rows as they lie in memory.

Layout, all numbers little-endian:

    0    8 bytes   b"biasgen\\n"
    8    uint32    version of the layout, 2
    12   uint32    H, bytes of the header; 48 + H is a multiple of 64
    16   32 bytes  SHA-256 of the header
    48   H bytes   header, a JSON object in UTF-8, filled up with spaces
    48+H           rows in C order, to the end of the file; bfloat16 as its 16-bit words

Header: biasgen (version that wrote it), shape, distance, views (version 1 has none: ["identity"]), and description: dtype, sha256 of the
rows' bytes and the other fields of data.hygiene.describe. The two digests cover every byte. Nothing in the file
is run, nothing is packed for one machine.
"""
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from biasgen._version import __version__
from biasgen.data.hygiene import ROW_TYPES, Description, as_stored
from biasgen.ops._rows import dtype_name
from biasgen.ops._stream import blocks
from biasgen.ops._views import checked_views

SUFFIX = ".biasgen"
VERSION = 2
_VERSIONS = (1, 2)     # that are read
_MAGIC = b"biasgen\n"
_FIXED = 48     # bytes before the header
_ROWS_BEGIN = 4096     # in a file that is written: longer than any header, and a page
_MAX_HEADER = 1 << 20
_BLOCK_BYTES = 1 << 24     # of rows read or written together
_FIELDS = {"biasgen": str, "shape": list, "distance": str, "views": list, "description": dict}     # of the header: name -> type
_DESCRIPTION = {"n": int, "distinct": int, "dtype": str, "low": int | float, "high": int | float, "mean": float, "sha256": str}


def write_rows(path: str | Path, parts: Iterable[Any], distance: str, views: tuple[str, ...]) -> dict[str, Any]:
    """Write the file of rows that come in blocks (n, ...), arrays or tensors of one type and shape; returns data.hygiene.describe of them.

    It appears under its name when it is whole; an interrupted write leaves nothing. Memory: one block and 16 bytes a row. ValueError for
    a name that does not end in .biasgen.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"path: want a name that ends in {SUFFIX}, got {path}")
    described = Description()
    with whole_file(path) as file:
        file.seek(_ROWS_BEGIN)
        for block in parts:
            file.write(as_stored(block).data)
            described.add(block)
        description = described.result()
        shape = (description["n"], *block.shape[1:])
        header = {"biasgen": __version__, "shape": shape, "distance": distance, "views": views, "description": description}
        text = json.dumps(header, allow_nan=False).encode().ljust(_ROWS_BEGIN - _FIXED)
        file.seek(0)
        file.write(_MAGIC + VERSION.to_bytes(4, "little") + len(text).to_bytes(4, "little") + hashlib.sha256(text).digest() + text)
    return description


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under its name when it is whole; an interrupted write leaves nothing, and what was there before."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")     # processes that save one set at once do not meet
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())     # else a crash may leave the name without the contents
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def alike(parts: Iterable[Any], name: str) -> Iterator[Any]:
    """The blocks (n, ...) of an iterable, at least one, all of one type and shape; else TypeError or ValueError beginning with `name`."""
    kind = None
    for i, block in enumerate(parts):
        if not isinstance(block, np.ndarray | torch.Tensor) or block.ndim < 2:
            raise TypeError(f"{name}: want blocks that are arrays or tensors (n, ...), got {type(block).__name__} as block {i}")
        kind = kind or _kind(block)
        if _kind(block) != kind:
            raise ValueError(f"{name}: want {kind} as block 0, got {_kind(block)} as block {i}")
        yield block
    if kind is None:
        raise ValueError(f"{name}: want at least one block, got none")


def _kind(block: np.ndarray | torch.Tensor) -> str:
    """What blocks must have in common, in words."""
    what = f"a tensor on {block.device}" if isinstance(block, torch.Tensor) else "an array"
    return f"{what} of {dtype_name(block, 'block')} rows of shape {tuple(block.shape[1:])}"


def read_rows(path: str | Path, name: str) -> tuple[np.memmap | torch.Tensor, dict[str, Any]]:
    """(rows (N, ...), memory-mapped; header) of a file that write_rows wrote; bfloat16 rows are a tensor on the CPU.

    Every byte is read once, to check it. Raises ValueError, beginning with `name`, for a file that is missing, cut off, corrupted,
    something else, or of a later version.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            fixed = file.read(_FIXED)
            length = int.from_bytes(fixed[12:16], "little")
            text = file.read(min(length, _MAX_HEADER))
    except FileNotFoundError:
        raise ValueError(f"{name}: no file {path}") from None
    except OSError as error:
        raise ValueError(f"{name}: cannot read {path}: {error}") from None
    if fixed[:8] != _MAGIC:
        raise ValueError(f"{name}: want a file that TrainingSet.save wrote, got {path}")
    version = int.from_bytes(fixed[8:12], "little")
    if version not in _VERSIONS:
        read = " and ".join(map(str, _VERSIONS))
        raise ValueError(f"{name}: {path} has version {version}, biasgen {__version__} reads versions {read}")
    if len(text) != length or hashlib.sha256(text).digest() != fixed[16:]:
        raise ValueError(f"{name}: {path} is cut off or corrupted in its header")
    header = _parse(text, version)
    if header is None:
        raise ValueError(f"{name}: {path} has a header that is not one of version {version}")
    offset = _FIXED + length
    dtype, shape = header["description"]["dtype"], header["shape"]
    expected = offset + math.prod(shape) * item_size(dtype)
    if size != expected:
        raise ValueError(f"{name}: {path} is cut off or corrupted: want {expected} bytes, got {size}")
    digest = hashlib.sha256()
    for block in blocks(np.memmap(path, np.uint8, "r", offset), _BLOCK_BYTES):
        digest.update(block)
    if digest.hexdigest() != header["description"]["sha256"]:
        raise ValueError(f"{name}: {path} is corrupted: its rows do not have the SHA-256 in its header")
    return map_rows(path, dtype, shape, offset), header


def map_rows(path: Path, dtype: str, shape: list[int], offset: int) -> np.memmap | torch.Tensor:
    """Rows that lie in a file from byte `offset` on, little-endian, memory-mapped: a read-only array, or for bfloat16 a tensor."""
    if dtype == "bfloat16":     # NumPy has none. Mode "c": torch wants memory that may be written, the file stays as it is
        words = np.require(np.memmap(path, "<i2", "c", offset, tuple(shape)), requirements="A")
        return torch.from_numpy(words).view(torch.bfloat16)
    return np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r", offset, tuple(shape))


def item_size(dtype: str) -> int:
    """Bytes of one value."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _parse(text: bytes, version: int) -> dict[str, Any] | None:
    """The header, if it is one."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if version == 1 and isinstance(header, dict):
        header["views"] = ["identity"]
    if not _has(header, _FIELDS) or not _has(header["description"], _DESCRIPTION):
        return None
    shape = header["shape"]
    sound = 2 <= len(shape) <= 32 and all(type(n) is int and n > 0 for n in shape) and header["description"]["dtype"] in ROW_TYPES
    if not sound:
        return None
    try:
        header["views"] = checked_views(header["views"], tuple(shape[1:]))
    except (ValueError, TypeError):     # a list of lists has no set
        return None
    return header


def _has(entries: Any, fields: dict[str, Any]) -> bool:
    return isinstance(entries, dict) and all(isinstance(entries.get(field), kind) for field, kind in fields.items())
