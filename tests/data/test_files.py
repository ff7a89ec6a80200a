"""Rows from files, and the mark that split.json puts on some of them."""
import json

import numpy as np
import pytest

from biasgen.data.files import load_rows, load_set
from biasgen.data.hygiene import ContentDisjoint
from biasgen.data.split import write_split


@pytest.fixture
def folder(tmp_path):
    """A split of 40 rows, of which every one occurs twice, with content-disjoint held-out rows."""
    rows = np.random.default_rng(0).integers(0, 256, (20, 3)).astype(np.uint8)
    np.save(tmp_path / "rows.npy", np.concatenate([rows, rows]))
    write_split(tmp_path / "rows.npy", tmp_path, {"train": 20, "heldout": 20}, disjoint=True)
    return tmp_path


def test_filtered_rows_are_marked(folder):
    marked = load_set(folder / "heldout.npy", "heldout")
    assert isinstance(marked, ContentDisjoint)
    np.testing.assert_array_equal(marked.rows, load_rows(folder / "heldout.npy", "heldout"))
    assert isinstance(load_set(folder / "train.npy", "train"), np.ndarray)


def test_the_mark_belongs_to_the_rows_not_to_the_name(folder):
    (folder / "heldout.npy").rename(folder / "other.npy")
    np.save(folder / "heldout.npy", np.zeros((4, 3), np.uint8))
    assert isinstance(load_set(folder / "other.npy", "heldout"), ContentDisjoint)
    assert isinstance(load_set(folder / "heldout.npy", "heldout"), np.ndarray)


@pytest.mark.parametrize("text", ["", "[1]", "{}", json.dumps({"sets": {"heldout": ["a.png"]}}), b"\xff"])
def test_a_split_json_of_another_program_says_nothing(folder, text):
    (folder / "split.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert isinstance(load_set(folder / "heldout.npy", "heldout"), np.ndarray)


def test_mapped_rows_stay_on_disk(folder):
    rows = load_rows(folder / "train.npy", "train", mapped=True)
    assert isinstance(rows, np.memmap)
    assert not rows.flags.writeable
    np.testing.assert_array_equal(rows, load_rows(folder / "train.npy", "train"))


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=r"^gen: want a \.npy file, got .*rows\.csv$"):
        load_rows(tmp_path / "rows.csv", "gen")
    with pytest.raises(ValueError, match=r"^gen: no file "):
        load_rows(tmp_path / "rows.npy", "gen")
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, rows=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"^gen: cannot read .*: want one array, got an archive$"):
        load_rows(tmp_path / "archive.npy", "gen")
