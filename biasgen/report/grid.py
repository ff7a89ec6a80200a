"""Generated images above the training images nearest to them."""
from pathlib import Path

import numpy as np

from biasgen.report.figures import plt, save

_COLUMNS = 10
_GAP = 1 / 4     # white between pairs, in image widths; the title stands there
_INCHES = 1.1     # width of an image


def as_images(rows: np.ndarray) -> np.ndarray:
    """(N, H, W, C) with C = 1, 3 or 4, of rows (N, H, W), (N, H, W, C) or (N, C, H, W). ValueError for other shapes."""
    if rows.ndim == 3:
        return rows[..., None]
    if rows.ndim == 4 and rows.shape[3] in (1, 3, 4):
        return rows
    if rows.ndim == 4 and rows.shape[1] in (1, 3, 4):
        return np.moveaxis(rows, 1, 3)
    raise ValueError(f"grid: want images (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4, got shape {tuple(rows.shape)}")


def draw_pairs(gen: np.ndarray, train: np.ndarray, titles: list[str], path: str | Path, *, low: float, high: float) -> None:
    """PNG of gen[i] above train[i], in rows of ten, titles[i] above; values from low, black, to high, white, beyond cut off."""
    gen, train = ((np.clip(as_images(rows), low, high) - low) / ((high - low) or 1) for rows in (gen, train))
    n, H, W, C = gen.shape
    columns, gap, seam = min(n, _COLUMNS), int(np.ceil(W * _GAP)), max(1, H // 16)
    line, lines = 2 * H + seam + 2 * gap, -(-n // columns)
    canvas = np.ones((lines * line, columns * (W + gap), C))
    figure = plt.figure(figsize=(_INCHES * canvas.shape[1] / W, _INCHES * canvas.shape[0] / W))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    for i, title in enumerate(titles):
        top, left = i // columns * line + gap, i % columns * (W + gap) + gap // 2
        canvas[top : top + H, left : left + W] = gen[i]
        canvas[top + H + seam :][:H, left : left + W] = train[i]
        axis.text(left + W / 2 - 0.5, top - 1, title, ha="center", va="bottom", fontsize=6)
    axis.imshow(canvas[..., 0] if C == 1 else canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    save(figure, path)
