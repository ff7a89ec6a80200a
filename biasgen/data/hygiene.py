"""What a set of rows is, byte for byte and in value range, and whether sets can have come from one pipeline."""
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from biasgen.ops._rows import dtype_name
from biasgen.ops._stream import blocks

ROW_TYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64"),
)
"""Names of the element types that rows may have; each distance takes some of them."""
_BLOCK_BYTES = 1 << 24     # of rows looked at together: the sets may be memory-mapped
_CENTERED = 0.05           # share of negative values from which a set is centered: overshoot of a resize stays below, dark images above
_OUTLIERS = 0.01           # share of values that a sampler which does not clip may throw far out


class ContentDisjoint:
    """Held-out rows from which those that occur in the training set were removed. `.rows` (h, ...) array or tensor.

    Losses may use them. Nearest-neighbor statistics refuse them: where the law repeats itself the repeats are part of it, and without them
    held-out rows lie farther from the training set than fresh rows do.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"ContentDisjoint({len(self)} rows)"


def contents(*sets: Any) -> np.ndarray:
    """(N,) int64: for each row of the sets (n, ...), joined, the index of the first row of the same bytes.

    Sets of several types are compared in the type that holds them all. Rows are compared by 128-bit BLAKE2b digests, so that a
    memory-mapped set is read once, in order. Memory: 16 bytes a row.
    """
    names = {dtype_name(rows, "rows") for rows in sets}
    common = np.result_type(*names) if len(names) > 1 else None
    parts = (block if common is None else _values(block).astype(common) for rows in sets for block in blocks(rows, _BLOCK_BYTES))
    digests = b"".join(_row_digests(part) for part in parts)
    _, first, inverse = np.unique(np.frombuffer(digests, dtype="V16"), return_index=True, return_inverse=True)
    return first[inverse]


def describe(rows: Any) -> dict[str, Any]:
    """n, distinct (rows of different bytes), dtype, low, high and mean of the values, sha256 over the rows' bytes as as_stored gives them.

    rows (N, ...) array or tensor with at least one value; may be memory-mapped: it is read once, in order. Memory: 16 bytes a row.
    """
    of_rows = Description()
    for block in blocks(rows, _BLOCK_BYTES):
        of_rows.add(block)
    return of_rows.result()


class Description:
    """describe of rows that come in blocks: add(block) for each, then result()."""

    def __init__(self) -> None:
        self._digest, self._row_digests, self._total, self._count, self._extremes = hashlib.sha256(), [], 0.0, 0, []

    def add(self, block: Any) -> None:
        """The next rows (n, ...), of one type and shape."""
        self._dtype = dtype_name(block, "rows")
        self._digest.update(as_stored(block))
        self._row_digests.append(_row_digests(block))
        values = _values(block)
        self._total += float(values.sum(dtype=np.float64))
        self._count += values.size
        self._extremes.append((values.min(), values.max()))

    def result(self) -> dict[str, Any]:
        """The description of all rows so far, at least one."""
        digests = np.frombuffer(b"".join(self._row_digests), dtype="V16")
        lows, highs = zip(*self._extremes, strict=True)
        return {
            "n": len(digests),
            "distinct": len(np.unique(digests)),
            "dtype": self._dtype,
            "low": np.min(lows).item(),
            "high": np.max(highs).item(),
            "mean": self._total / self._count,
            "sha256": self._digest.hexdigest(),
        }


def as_stored(block: Any) -> np.ndarray:
    """An array or tensor as files hold it: C order, little-endian, bfloat16 as int16 of the same bits."""
    if isinstance(block, torch.Tensor):
        block = block.detach().cpu()
        block = (block.view(torch.int16) if block.dtype == torch.bfloat16 else block).numpy()
    return np.ascontiguousarray(block, block.dtype.newbyteorder("<"))


def check_ranges(*, gen: Any, train: Any, heldout: Any) -> None:
    """ValueError where values of the sets cannot be on one scale: [0, 1], [-1, 1] and [0, 255] taken for one another, or not centered.

    Args:
        gen (n, ...), train (m, ...), heldout (h, ...): arrays or tensors of uint8 or floats, or a TrainingSet, whose recorded range is
            taken. Tokens (other integer types) have no scale: nothing is checked if one of the sets holds them.

    heldout and gen are refused for
    - values all within 0 .. 1 where train exceeds 2 and is not centered;
    - positive values and no negative one where train is centered (reaches -0.5, 5 % negative);
    - 1 % of values below -0.5 where train has no negative one;
    - 1 % of values farther from 0 than twice train's convention: 1, 255, or its largest magnitude where neither fits.

    A bad model on the right scale passes: gray, saturated, too dark, too bright, a few values thrown out by a sampler that does not clip.
    Refused with the wrong scales, since nothing tells them apart: samples all black in uint8 or on [0, 255], all brighter than gray on a
    centered scale. Not seen: scales within a factor of 2 (standardized rows against [-1, 1]), another order of channels, a shift, a resize.
    The self-test of evaluate sees those between train and heldout; between gen and train nothing can, for a bad model looks alike.

    NaN and infinities are refused too.
    """
    given = {"train": train, "heldout": heldout, "gen": gen}
    sets = {name: rows.rows if hasattr(rows, "prepared") else rows for name, rows in given.items()}
    if any(_is_token(rows) for rows in sets.values()):
        return
    ranges = {name: _range(rows, name) if rows is sets[name] else (rows.low, rows.high) for name, rows in given.items()}
    for name in ("heldout", "gen"):
        why = _mismatch(sets[name], ranges[name], sets["train"], ranges["train"])
        if why:
            (low, high), (train_low, train_high) = ranges[name], ranges["train"]
            scale = f"{train_low:g} .. {train_high:g}"
            raise ValueError(f"{name}: want values on the scale of train, {scale}, got {low:g} .. {high:g}: {why}")


def _mismatch(rows: Any, own: tuple[float, float], train: Any, of_train: tuple[float, float]) -> str | None:
    """Why `rows` are not on the scale of `train`, from (low, high) of both and, where these raise a doubt, shares of values."""
    low, high = own
    train_low, train_high = of_train
    centered = train_low <= -0.5 and _share(train, lambda values: values < 0) >= _CENTERED
    if centered and low >= 0 and high > 0:
        return "none is negative"
    if not centered and low >= 0 and high <= 1 and train_high > 2:
        return "all within 0 .. 1"
    if train_low >= 0 and low < -0.5 and _share(rows, lambda values: values < -0.5) >= _OUTLIERS:
        return "negative values"
    limit = 2 * _convention(train_low, train_high)
    if max(-low, high) > limit and _share(rows, lambda values: (values > limit) | (values < -limit)) >= _OUTLIERS:
        return f"values beyond {limit:g}"
    return None


def _convention(low: float, high: float) -> float:
    """Largest magnitude that a set of values from low to high is meant to have."""
    if max(-low, high) <= 1:
        return 1.0
    return 255.0 if low >= 0 and 2 < high <= 255 else max(-low, high)


def _range(rows: Any, name: str) -> tuple[float, float]:
    """(low, high); ValueError for no values, and with the first row where one is not finite."""
    if 0 in rows.shape:
        raise ValueError(f"{name}: want at least one value, got shape {tuple(rows.shape)}")
    lows, highs, start = [], [], 0
    for block in _blocks(rows):
        lows.append(float(block.min()))
        highs.append(float(block.max()))
        if not (np.isfinite(lows[-1]) and np.isfinite(highs[-1])):
            row = start + int(np.flatnonzero(~np.isfinite(block).reshape(len(block), -1).all(axis=1))[0])
            raise ValueError(f"{name}: want finite values, got NaN or an infinity in row {row}")
        start += len(block)
    return min(lows), max(highs)


def _share(rows: Any, chosen: Callable[[np.ndarray], np.ndarray]) -> float:
    """Share of all values that are `chosen`."""
    counts = [(np.count_nonzero(chosen(block)), block.size) for block in _blocks(rows)]
    return sum(count for count, _ in counts) / sum(size for _, size in counts)


def _is_token(rows: Any) -> bool:
    name = dtype_name(rows, "rows")
    return "float" not in name and name != "uint8"


def _blocks(rows: Any) -> Iterator[np.ndarray]:
    """Values of consecutive runs of the rows."""
    return (_values(block) for block in blocks(rows, _BLOCK_BYTES))


def _values(block: Any) -> np.ndarray:
    """The values of an array or tensor, bfloat16 as float32."""
    if isinstance(block, torch.Tensor):
        block = block.detach().cpu()
        return (block.float() if block.dtype == torch.bfloat16 else block).numpy()
    return block


def _row_digests(block: Any) -> bytes:
    """16 bytes for each row."""
    stored = as_stored(block)
    return b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in stored.reshape(len(stored), -1).view(np.uint8))
