"""Checks of rows: arrays and tensors of any shape become contiguous (N, F) tensors, or an error that names the row."""
from typing import Any

import numpy as np
import torch

from biasgen import distances
from biasgen.backends._mode import searched_on

LARGEST = 1e150  # magnitude of a float: the square of no difference overflows, nor the sum of 10^7 of them


def dtype_name(rows: Any, name: str) -> str:
    """Name of the element type ("uint8"). TypeError for what is no array and no tensor."""
    if not isinstance(rows, np.ndarray | torch.Tensor):
        raise TypeError(f"{name}: want a NumPy array or a torch tensor, got {type(rows).__name__}")
    return str(rows.dtype).removeprefix("torch.") if isinstance(rows, torch.Tensor) else rows.dtype.name


def as_tensor(values: Any) -> torch.Tensor:
    """An array, or what NumPy makes one, as a tensor in host memory, whatever device torch makes
    tensors on by default. Not copied where torch can take it; a tensor is returned unchanged.
    """
    if isinstance(values, torch.Tensor):
        return values
    values = np.asarray(values)
    # torch takes neither foreign byte order nor negative strides, and warns of memory that it may
    # not write
    values = np.require(values, values.dtype.newbyteorder("="), ("C", "A", "W"))
    backwards = any(step < 0 for step in values.strides)  # an axis of length 1 keeps its stride
    return torch.from_numpy(values.copy() if backwards else values)


def widened(rows: torch.Tensor) -> torch.Tensor:
    """uint16 and uint32, for which torch has few operations, as int32 and int64; other types are returned unchanged."""
    return rows.to({torch.uint16: torch.int32, torch.uint32: torch.int64}.get(rows.dtype, rows.dtype))


def as_rows(rows: Any, name: str, distance: str, first: int = 0) -> torch.Tensor:
    """`rows` (N, ...) as a contiguous tensor (N, F), where they are searched (searched_on); not copied where they are that already.

    Integers become uint8, or where a token is beyond 255 the int16 of their 16 bits (torch has little for uint16); float64 and float32
    stay, float16 and bfloat16 become float32: nothing is rounded. first: number of the first row in the whole set, for errors.
    Errors: TypeError for another kind of object; ValueError for fewer than two dimensions, an empty set, an element type that
    `distance` does not take, a token outside 0..65535, a float that is not finite or beyond 1e150.
    """
    known = distances.get(distance)
    dtype = dtype_name(rows, name)
    if dtype not in known.dtypes:
        raise ValueError(f"{name}: {distance} takes {known.domain} ({', '.join(known.dtypes)}), got {dtype}")
    shape = tuple(rows.shape)
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"{name}: want at least one row, shape (rows, ...) without a zero, got shape {shape}")
    if dtype == "bfloat16" and isinstance(rows, np.ndarray):  # an extension of NumPy, unknown to torch
        rows = rows.astype(np.float32)
    rows = as_tensor(rows).detach().reshape(shape[0], -1)
    rows = rows.to(searched_on(rows.device))
    if dtype in distances.FLOATS:
        rows = rows.float() if rows.dtype.itemsize == 2 else rows
        smallest, largest = (float(value) for value in rows.aminmax())
        if not (smallest >= -LARGEST and largest <= LARGEST):
            row, column = (~(rows.double().abs() <= LARGEST)).nonzero()[0].tolist()
            raise ValueError(f"{name}: want finite numbers of at most {LARGEST:g}, got {rows[row, column].item()} in row {first + row}")
        return rows.contiguous()
    if rows.dtype == torch.uint8:
        return rows.contiguous()
    if rows.dtype == torch.uint16:
        bits = rows.view(torch.int16)
        smallest, largest = (int(value) for value in bits.aminmax())
        return (bits.to(torch.uint8) if smallest >= 0 and largest <= 255 else bits).contiguous()
    rows = widened(rows)
    smallest, largest = (int(value) for value in rows.aminmax())
    if smallest < 0 or largest > distances.LARGEST_TOKEN:
        wide = rows.long()  # a comparison with the limit in a narrow type would wrap around
        row, column = ((wide < 0) | (wide > distances.LARGEST_TOKEN)).nonzero()[0].tolist()
        raise ValueError(f"{name}: want tokens in 0..{distances.LARGEST_TOKEN}, got {rows[row, column].item()} in row {first + row}")
    return rows.to(torch.uint8 if largest <= 255 else torch.int16).contiguous()
