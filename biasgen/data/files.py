"""Rows from files."""
import json
from pathlib import Path
from typing import Any

import numpy as np

from biasgen.data.hygiene import ContentDisjoint, describe

SPLIT = "split.json"
"""Name of the file that `biasgen split` writes beside the sets."""


def load_rows(path: str | Path, name: str, *, mapped: bool = False) -> np.ndarray:
    """Rows of a .npy file, (N, ...). `name` is the argument that errors speak of. Pickled contents are refused.

    mapped: leave them on disk, read-only, and read what is used.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"{name}: want a .npy file, got {path}")
    try:
        rows = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{name}: no file {path}") from None
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{name}: cannot read {path}: {error}") from None
    if not isinstance(rows, np.ndarray):
        raise ValueError(f"{name}: cannot read {path}: want one array, got an archive")
    return rows


def load_set(path: str | Path, name: str) -> np.ndarray | ContentDisjoint:
    """load_rows, marked ContentDisjoint where the split.json beside the file says that these rows were filtered by content."""
    rows = load_rows(path, name)
    filtered = {entry["sha256"] for entry in _split_sets(Path(path).with_name(SPLIT)).values() if entry["filtered_by_content"]}
    return ContentDisjoint(rows) if filtered and describe(rows)["sha256"] in filtered else rows


def _split_sets(path: Path) -> dict[str, dict[str, Any]]:
    """The sets of a split.json; none where the file is absent or another program's."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record["sets"] if "biasgen" in record else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
