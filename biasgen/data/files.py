"""Rows from files."""
from pathlib import Path

import numpy as np


def load_rows(path: str | Path, name: str) -> np.ndarray:
    """Rows of a .npy file, (N, ...). `name` is the argument that errors speak of. Pickled contents are refused."""
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"{name}: want a .npy file, got {path}")
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{name}: no file {path}") from None
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{name}: cannot read {path}: {error}") from None
