"""Tensors of a .safetensors file, memory-mapped: 8 bytes of header length, a JSON header, raw little-endian data."""
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biasgen.data.row_file import item_size, map_rows

_MAX_HEADER = 100_000_000     # the format's own limit
_TYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32", "U64": "uint64",
    "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
}  # fmt: skip


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """(name -> entry of each tensor, byte where the data begin). ValueError for what is not the format; OSError as open raises it."""
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
    header.pop("__metadata__", None)
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
