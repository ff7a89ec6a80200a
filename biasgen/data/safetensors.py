"""Tensors of a .safetensors file, written, and read memory-mapped: 8 bytes of header length, a JSON header, raw little-endian data."""
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biasgen.data.row_file import item_size, map_rows, whole_file

_MAX_HEADER = 100_000_000     # the format's own limit
_TYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32", "U64": "uint64",
    "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
}  # fmt: skip


def write_tensors(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write arrays and texts by name, whole or not at all; each array begins at a multiple of 8 bytes where the ones before it do."""
    kinds = {dtype: kind for kind, dtype in _TYPES.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    parts, end = [], 0
    for name in sorted(arrays, key=lambda name: -arrays[name].itemsize):
        part = np.ascontiguousarray(arrays[name]).astype(arrays[name].dtype.newbyteorder("<")).tobytes()
        header[name] = {"dtype": kinds[arrays[name].dtype.name], "shape": arrays[name].shape, "data_offsets": [end, end + len(part)]}
        parts.append(part)
        end += len(part)
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(parts))


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray | torch.Tensor], dict[str, str]]:
    """(name -> tensor, mapped; the metadata). ValueError for what is not the format."""
    header, start = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata are not texts by name")
    return {name: map_tensor(path, entry, start) for name, entry in header.items()}, metadata


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """(name -> entry of each tensor, byte where the data begin). ValueError for what is not the format; OSError as open raises it."""
    header, start = _read_header(path)
    header.pop("__metadata__", None)
    return header, start


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > min(size - 8, _MAX_HEADER):
            raise ValueError("it is cut off or no safetensors file")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise ValueError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header, 8 + length


def map_tensor(path: Path, entry: Any, start: int) -> np.memmap | torch.Tensor:
    """The tensor of one header entry; data begin at byte `start`. ValueError for an entry that does not fit the file or has a type that
    rows do not have."""
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole or len(shape) > 32:
        raise ValueError("its header has an entry without dtype, shape and data_offsets")
    if kind not in _TYPES:
        raise ValueError(f"want one of the types {', '.join(_TYPES)}, got {kind!r}")
    dtype = _TYPES[kind]
    if begin + math.prod(shape) * item_size(dtype) != end or start + end > path.stat().st_size:
        raise ValueError(f"{kind} of shape {shape} does not fit the bytes {begin} .. {end} of its data")
    return map_rows(path, dtype, shape, start + begin)
