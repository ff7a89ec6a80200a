"""Rows from wherever they are: arrays, blocks, files, folders of images."""
import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biasgen.data.hygiene import ROW_TYPES, ContentDisjoint, describe
from biasgen.data.images import load_images
from biasgen.data.row_file import SUFFIX, alike, read_rows
from biasgen.data.safetensors import map_tensor, read_header
from biasgen.data.training_set import TrainingSet
from biasgen.ops._rows import dtype_name

SPLIT = "split.json"
"""Name of the file that `biasgen split` writes beside the sets."""
_ARCHIVES = (".npz", ".pt", ".pth", ".safetensors")     # which may hold several arrays


def load_rows(source: Any, name: str = "source") -> np.ndarray | torch.Tensor:
    """Rows (N, ...) of numbers, in the type they are stored in. Every function of biasgen that wants rows takes them.

    Args:
        source: a path, an array or tensor (returned as it is, on its device), or an iterable of blocks, arrays or tensors (n, ...) of one
            type and shape, which are joined (twice their bytes at that time). A path leads to

            - .npy, .safetensors or .biasgen (TrainingSet.save): memory-mapped, read-only; do not change the file while the rows are used;
            - .npz, .pt, .pth: read into memory;
            - a folder of images: uint8 (N, H, W, C), see data.images.load_images.

            Where a file holds several arrays say which, "samples.npz:labels"; of .npz without that, arr_0.
        name: of the argument, for errors.

    Returns:
        An array; a tensor for a tensor, for blocks of tensors, and for bfloat16, which NumPy does not have.

    Raises:
        ValueError: no file, not readable, no numbers, not (N, ...), several arrays. Pickled objects are refused, nothing in a file is run.
        TypeError: neither path nor rows nor blocks.
    """
    if isinstance(source, str | Path):
        rows, place = _read(source, name), f" in {source}"
    elif isinstance(source, np.ndarray | torch.Tensor):
        rows, place = source, ""
    elif isinstance(source, Iterable) and not isinstance(source, bytes | dict):
        rows, place = _join(source, name), ""
    else:
        raise TypeError(f"{name}: want a path, an array, a tensor or an iterable of these, got {type(source).__name__}")
    dtype = dtype_name(rows, name)
    if rows.ndim < 2 or dtype not in ROW_TYPES:
        raise ValueError(f"{name}: want numbers of shape (rows, ...), got {dtype} of shape {tuple(rows.shape)}{place}")
    return rows


def load_set(path: str | Path, name: str) -> np.ndarray | torch.Tensor | TrainingSet | ContentDisjoint:
    """load_rows of a path; a TrainingSet where one was saved; ContentDisjoint where the split.json beside the file says that these rows
    were filtered by content."""
    if Path(path).suffix == SUFFIX:
        return TrainingSet.load(path, name)
    rows = load_rows(path, name)
    filtered = {entry["sha256"] for entry in _split_sets(Path(path).parent / SPLIT).values() if entry["filtered_by_content"]}
    return ContentDisjoint(rows) if filtered and describe(rows)["sha256"] in filtered else rows


def _read(source: str | Path, name: str) -> Any:
    path, entry = Path(source), None
    if not path.exists():
        file, _, after = str(source).rpartition(":")
        if Path(file).suffix.lower() in _ARCHIVES:
            path, entry = Path(file), after
    suffix = path.suffix.lower()
    if path.is_dir():
        return load_images(path, name)
    if suffix not in (".npy", SUFFIX, *_ARCHIVES):
        raise ValueError(f"{name}: want a file of type .npy, {SUFFIX}, {', '.join(_ARCHIVES)} or a folder of images, got {path}")
    if not path.exists():
        raise ValueError(f"{name}: no file {path}")
    if suffix == SUFFIX:
        return read_rows(path, name)[0]
    read = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}.get(suffix, _torch)
    try:
        return read(path, entry)
    except Exception as error:     # what a damaged file makes its reader raise has no common type
        reason, *_ = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{name}: cannot read {path}: {reason}") from None


def _npy(path: Path, _: None) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="r")


def _npz(path: Path, entry: str | None) -> np.ndarray:
    with path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("want an archive, got one array")
        return archive[_choose(archive.files, entry, "arr_0")]     # the name that np.savez gives, and ADM's samples have


def _torch(path: Path, entry: str | None) -> np.ndarray | torch.Tensor:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("it is damaged or holds objects other than tensors, which are refused") from None
    if not isinstance(held, torch.Tensor):
        tensors = {key: value for key, value in held.items() if isinstance(value, torch.Tensor)} if isinstance(held, dict) else {}
        held = tensors[_choose(list(tensors), entry)]
    elif entry is not None:
        raise ValueError(f"it holds one tensor without a name, not {entry!r}")
    held = held.detach()
    return held if held.dtype == torch.bfloat16 else held.numpy()


def _safetensors(path: Path, entry: str | None) -> np.ndarray | torch.Tensor:
    header, start = read_header(path)
    return map_tensor(path, header[_choose(list(header), entry)], start)


def _choose(names: list[str], entry: str | None, default: str | None = None) -> str:
    """`entry`, else the only one of `names`, else the default."""
    if entry is None and (len(names) == 1 or default in names):
        return names[0] if len(names) == 1 else default
    if entry not in names:
        wanted = f"one of {', '.join(names)}" if names else "an array"
        raise ValueError(f"want {wanted} (say which after a colon: FILE:NAME), got {entry or 'no name'}")
    return entry


def _join(parts: Iterable[Any], name: str) -> np.ndarray | torch.Tensor:
    blocks = list(alike(parts, name))
    return torch.cat(blocks) if isinstance(blocks[0], torch.Tensor) else np.concatenate(blocks)


def _split_sets(path: Path) -> dict[str, dict[str, Any]]:
    """The sets of a split.json; none where the file is absent or another program's."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record["sets"] if "biasgen" in record else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
