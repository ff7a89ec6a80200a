"""Rows from a folder of images."""
import os
from pathlib import Path

import numpy as np

from biasgen._progress import Progress

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {"L": 1, "RGB": 3, "RGBA": 4}
"""Pillow's names of the modes that are taken -> C."""


def load_images(folder: Path, name: str) -> np.ndarray:
    """(N, H, W, C) uint8, all images of the folder and of the folders in it, links followed, sorted by path; C = 1, 3 or 4.

    Pixels are taken as stored: nothing is resized, converted or turned. Other files are left out, and files and folders whose name begins
    with a dot. Needs Pillow.

    Raises ValueError, beginning with `name`, for a folder without images or with links in a circle, an image that cannot be read or of
    another mode, and the first one whose size or mode is not that of the first image.
    """
    paths = _images(folder, name)
    if not paths:
        raise ValueError(f"{name}: want images ({', '.join(SUFFIXES)}) in {folder}, got none")
    first, mode = _read(paths[0], name)
    rows = np.empty((len(paths), *first.shape), np.uint8)
    with Progress(len(paths), "reading images") as bar:
        for i, path in enumerate(paths):
            pixels, own = _read(path, name)
            if pixels.shape != first.shape:
                wanted, got = (f"{array.shape[1]} x {array.shape[0]} {m}" for array, m in ((first, mode), (pixels, own)))
                raise ValueError(f"{name}: want images of one size and mode, {wanted} as {paths[0]}, got {got} in {path}")
            rows[i] = pixels
            bar.update(i + 1)
    return rows


def _images(folder: Path, name: str) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise ValueError(f"{name}: cannot read {folder}: {error}") from None

    paths = []
    for root, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [below for below in folders if below[0] != "."]     # os.walk goes where this list says
        if any(parent.samefile(root) for parent in Path(root).parents):
            raise ValueError(f"{name}: want folders without links in a circle, got {root}")
        paths += [path for path in (Path(root) / file for file in files) if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
    return sorted(paths, key=lambda path: path.parts)     # what Path's own order is depends on the version of Python


def _read(path: Path, name: str) -> tuple[np.ndarray, str]:
    """(H, W, C) uint8 and the mode."""
    try:
        from PIL import Image
    except ImportError:
        raise ValueError(f"{name}: images need Pillow: pip install 'biasgen[images]'") from None
    try:
        with Image.open(path) as image:
            if image.mode not in MODES or getattr(image, "n_frames", 1) > 1:
                frames = "" if image.mode not in MODES else f" with {image.n_frames} frames"
                raise ValueError(f"want one image of mode {', '.join(MODES)}, got {image.mode}{frames}")
            pixels = np.asarray(image)
    except Exception as error:     # what a damaged file makes Pillow raise has no common type
        raise ValueError(f"{name}: cannot read {path}: {error}") from None
    return pixels.reshape(*pixels.shape[:2], MODES[image.mode]), image.mode
