"""Folders of images: all of them, sorted by path, as stored; the first that differs is named."""
import os
import sys
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from biasgen.data.files import load_rows


def pixels(seed, shape=(4, 5, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def put(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.mark.parametrize(("shape", "channels"), [((4, 5), 1), ((4, 5, 3), 3), ((4, 5, 4), 4)])
def test_pixels_and_shape(tmp_path, shape, channels):
    for i in range(3):
        put(tmp_path / f"{i}.png", pixels(i, shape))
    rows = load_rows(tmp_path)
    assert (rows.dtype, rows.shape) == (np.uint8, (3, 4, 5, channels))
    np.testing.assert_array_equal(rows, np.stack([pixels(i, shape) for i in range(3)]).reshape(3, 4, 5, channels))


def test_sorted_by_path_with_all_folders(tmp_path, monkeypatch):
    names = ["a/2.png", "a/10.PNG", "a-b/1.bmp", "z.ppm", "B/b/x.webp"]
    for i, name in enumerate(names):
        put(tmp_path / "set" / name, pixels(i), **({"lossless": True} if "webp" in name else {}))
    (tmp_path / "set" / "._2.png").write_bytes(b"what a Mac leaves")
    put(tmp_path / "set" / ".thumbnails" / "2.png", pixels(9))
    (tmp_path / "set" / "labels.txt").write_text("0")
    (tmp_path / "elsewhere").mkdir()
    put(tmp_path / "elsewhere" / "l.png", pixels(5))
    (tmp_path / "set" / "m").symlink_to(tmp_path / "elsewhere")
    order = sorted(names, key=lambda name: name.split("/"))
    assert order == ["B/b/x.webp", "a/10.PNG", "a/2.png", "a-b/1.bmp", "z.ppm"]
    expected = np.stack([pixels(i) for i in (4, 1, 0, 2, 5, 3)])     # m/l.png before z.ppm
    np.testing.assert_array_equal(load_rows(tmp_path / "set"), expected)
    walk = os.walk

    def backwards(steps):
        for root, folders, files in steps:
            yield root, folders, sorted(files)[::-1]
            folders.sort(reverse=True)

    monkeypatch.setattr(os, "walk", lambda *args, **kw: backwards(walk(*args, **kw)))
    np.testing.assert_array_equal(load_rows(str(tmp_path / "set")), expected)     # whatever the order of the listing


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (pixels(9, (5, 4, 3)), r"want images of one size and mode, 5 x 4 RGB as .*a\.png, got 4 x 5 RGB in .*c\.png"),
        (pixels(9, (4, 5)), r"want images of one size and mode, 5 x 4 RGB as .*a\.png, got 5 x 4 L in .*c\.png"),
        (Image.fromarray(pixels(9)).convert("P"), r"cannot read .*c\.png: want one image of mode L, RGB, RGBA, got P"),
        (Image.fromarray(pixels(9)).convert("1"), r"cannot read .*c\.png: want one image of mode L, RGB, RGBA, got 1"),
        (Image.fromarray(np.zeros((4, 5), np.uint16)), r"cannot read .*c\.png: want one image of mode L, RGB, RGBA, got I;16"),
        (b"no image", r"cannot read .*c\.png: cannot identify"),
        (None, r"cannot read .*c\.png: "),
    ],
)
def test_the_first_that_differs_is_named(tmp_path, odd, message):
    for name in "abde":
        put(tmp_path / f"{name}.png", pixels(ord(name)))
    put(tmp_path / "e.png", pixels(0, (9, 9)))     # later: not the one named
    path = tmp_path / "c.png"
    if odd is None:
        path.write_bytes((tmp_path / "a.png").read_bytes()[:80])     # cut off
    elif isinstance(odd, bytes):
        path.write_bytes(odd)
    else:
        (Image.fromarray(odd) if isinstance(odd, np.ndarray) else odd).save(path)
    with pytest.raises(ValueError, match=f"^train: {message}"):
        load_rows(tmp_path, "train")


def test_several_frames_are_not_one_row(tmp_path):
    frames = [Image.fromarray(pixels(i)) for i in range(3)]
    frames[0].save(tmp_path / "a.tiff", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"^train: cannot read .*a\.tiff: want one image of mode L, RGB, RGBA, got RGB with 3 frames$"):
        load_rows(tmp_path, "train")


def test_no_images(tmp_path):
    (tmp_path / "labels.txt").write_text("0")
    with pytest.raises(ValueError, match=r"^train: want images \(\.bmp, .*\) in .*, got none$"):
        load_rows(tmp_path, "train")


def test_links_in_a_circle_are_an_error_not_repeats(tmp_path):
    put(tmp_path / "a.png", pixels(0))
    (tmp_path / "again").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"^train: want folders without links in a circle, got .*again$"):
        load_rows(tmp_path, "train")


def test_without_pillow(tmp_path):
    put(tmp_path / "a.png", pixels(0))
    message = r"^train: images need Pillow: pip install 'biasgen\[images\]'$"
    with mock.patch.dict(sys.modules, {"PIL": None}), pytest.raises(ValueError, match=message):
        load_rows(tmp_path, "train")
