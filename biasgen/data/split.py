"""Training, held-out and test rows as a random partition of one source, so that they come from one pipeline."""
import json
import os
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biasgen._numbers import is_whole
from biasgen._version import __version__
from biasgen.data.files import SPLIT, load_rows
from biasgen.data.hygiene import contents, describe
from biasgen.ops._rows import dtype_name
from biasgen.results import SCHEMA, json_safe

_NAMES = ("train", "heldout", "test")
_BLOCK_BYTES = 1 << 24     # of rows copied together


def split_rows(rows: np.ndarray, sizes: Mapping[str, int | float], *, seed: int) -> dict[str, np.ndarray]:
    """Disjoint random subsets of the rows, each in the order of the source.

    Args:
        rows (N, ...): the source; may be memory-mapped. Rows beyond the sizes are left out.
        sizes: name -> number of rows, or a share of N in (0, 1), rounded down.
        seed: of the partition.

    Returns:
        name -> (size, ...) copy. Equal rows of the source may fall into different sets: that is how the law repeats itself.

    Raises ValueError for sizes that are none or more than the rows.
    """
    return {name: rows[chosen] for name, chosen in _partition(len(rows), sizes, seed).items()}


def write_split(
    source: Any,
    out: str | Path,
    sizes: Mapping[str, int | float],
    *,
    seed: int = 0,
    distinct: bool = False,
    disjoint: bool = False,
) -> dict[str, Any]:
    """Write train.npy, heldout.npy and, where asked for, test.npy, with split.json; returns what that holds.

    Args:
        source: rows (N, ...), or what data.files.load_rows takes; memory-mapped ones are read as needed.
        out: folder, made if absent. It may hold none of the four files.
        sizes: of "train", "heldout" and perhaps "test", as in split_rows; shares are of the rows that take part.
        seed: of the partition.
        distinct: only the first of equal rows takes part. That changes the law, for all sets alike: nearest-neighbor statistics stay valid.
        disjoint: rows of heldout and test that occur in train are removed after the partition. That changes the law of these sets only:
            they are marked filtered_by_content, and nearest-neighbor statistics refuse them.

    split.json: schema, biasgen (version), seed, distinct, disjoint, source and sets: name, shape and data.hygiene.describe of each.
    Files appear under their names when all are written. Raises ValueError for a source, sizes or a folder that will not do.
    """
    out = Path(out)
    held = [name for name in (*(f"{name}.npy" for name in _NAMES), SPLIT) if (out / name).exists()]
    if held:
        raise ValueError(f"out: want a folder without the files of a split, got {out} with {', '.join(held)}")
    rows = load_rows(source, "data")
    if 0 in rows.shape or dtype_name(rows, "data") == "bfloat16":
        got = f"{rows.dtype} of shape {tuple(rows.shape)}"
        raise ValueError(f"data: want a shape (rows, ...) without a zero and a type that .npy has, got {got}")
    rows = rows.detach().cpu().numpy() if isinstance(rows, torch.Tensor) else rows
    same = contents(rows) if distinct or disjoint else None
    part = np.flatnonzero(same == np.arange(len(rows))) if distinct else np.arange(len(rows))
    chosen = {name: part[index] for name, index in _partition(len(part), sizes, seed).items()}
    if disjoint:
        for name in chosen.keys() - {"train"}:
            chosen[name] = chosen[name][~np.isin(same[chosen[name]], same[chosen["train"]])]
            if len(chosen[name]) == 0:
                raise ValueError(f"disjoint: want rows of {name} that do not occur in train, got none")

    out.mkdir(parents=True, exist_ok=True)
    written = {out / f"{name}.npy": _part(out / f"{name}.npy") for name in chosen} | {out / SPLIT: _part(out / SPLIT)}
    try:
        sets = {}
        for name, index in chosen.items():
            _copy(rows, index, written[out / f"{name}.npy"])
            copy = np.load(written[out / f"{name}.npy"], mmap_mode="r")
            sets[name] = _entry(copy) | {"filtered_by_content": disjoint and name != "train"}
        record = {
            "schema": SCHEMA,
            "biasgen": __version__,
            "seed": seed,
            "distinct": distinct,
            "disjoint": disjoint,
            "source": {"name": Path(source).name if isinstance(source, str | Path) else None} | _entry(rows),
            "sets": sets,
        }
        written[out / SPLIT].write_text(json.dumps(json_safe(record), indent=1) + "\n", encoding="utf-8")
        for path, temporary in written.items():
            os.replace(temporary, path)
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)
    return record


def _partition(n: int, sizes: Mapping[str, int | float], seed: int) -> dict[str, np.ndarray]:
    """name -> sorted indices of disjoint random subsets of n rows."""
    if not is_whole(seed, 0):
        raise ValueError(f"seed: want a whole number >= 0, got {seed!r}")
    counts = {name: _count(size, n, name) for name, size in sizes.items()}
    if sum(counts.values()) > n:
        wanted = " + ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"sizes: want at most {n} rows in all, got {wanted} = {sum(counts.values())}")
    order = np.random.default_rng(seed).permutation(n)
    ends = np.cumsum([0, *counts.values()])
    return {name: np.sort(order[start:end]) for name, start, end in zip(counts, ends[:-1], ends[1:], strict=True)}


def _count(size: int | float, n: int, name: str) -> int:
    share = isinstance(size, Real) and not isinstance(size, Integral) and 0 < size < 1
    count = int(size * n + 1e-9) if share else size     # .29 * 100 is 28.999...
    if not is_whole(count, 1):
        raise ValueError(f"{name}: want a number of rows >= 1, or a share in (0, 1) that is at least one of {n} rows, got {size!r}")
    return int(count)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _copy(rows: np.ndarray, index: np.ndarray, path: Path) -> None:
    """rows[index] as a .npy file, in blocks. Written, not memory-mapped: a full disk is an error then, not a crash."""
    header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": (len(index), *rows.shape[1:])}
    step = max(1, _BLOCK_BYTES // rows[:1].nbytes)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(index), step):
            file.write(np.ascontiguousarray(rows[index[start : start + step]]).tobytes())


def _entry(rows: np.ndarray) -> dict[str, Any]:
    return {"shape": rows.shape} | describe(rows)
