"""A partition is disjoint, random and written whole or not at all; equal rows are kept, dropped for all sets, or filtered and marked."""
import hashlib
import json
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biasgen._version import __version__
from biasgen.data import split as module
from biasgen.data.hygiene import describe
from biasgen.data.split import split_rows, write_split


@pytest.fixture
def source(tmp_path):
    """200 rows, 120 distinct: rows 120 .. 199 repeat rows 0 .. 79."""
    rows = np.arange(120 * 4, dtype=np.int16).reshape(120, 2, 2)
    np.save(tmp_path / "rows.npy", np.concatenate([rows, rows[:80]]))
    return tmp_path / "rows.npy"


def loaded(folder):
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


def ids(rows):
    return rows[:, 0, 0] // 4


@given(st.integers(3, 60), st.data(), st.integers(0, 2**40))
def test_a_partition(n, data, seed):
    train = data.draw(st.integers(1, n - 2))
    heldout = data.draw(st.integers(1, n - train - 1))
    rows = np.arange(2 * n).reshape(n, 2)
    sets = split_rows(rows, {"train": train, "heldout": heldout, "test": n - train - heldout}, seed=seed)
    assert [len(part) for part in sets.values()] == [train, heldout, n - train - heldout]
    assert all(np.all(np.diff(part[:, 0]) > 0) for part in sets.values())     # in the order of the source
    np.testing.assert_array_equal(np.sort(np.concatenate(list(sets.values())), axis=0), rows)


def test_every_row_is_as_likely_in_every_set():
    rows = np.arange(20).reshape(10, 2)
    counts = np.zeros((2, 10))
    for seed in range(1000):
        for i, part in enumerate(split_rows(rows, {"train": 3, "heldout": 5}, seed=seed).values()):
            counts[i, part[:, 0] // 2] += 1
    expected = np.array([[300.0], [500.0]])
    assert np.all(np.abs(counts - expected) < 4 * np.sqrt(expected * (1 - expected / 1000)))


def test_shares_are_of_the_rows_and_rounded_down():
    sizes = {name: len(part) for name, part in split_rows(np.zeros((100, 2)), {"a": 0.29, "b": 0.5, "c": 0.219}, seed=0).items()}
    assert sizes == {"a": 29, "b": 50, "c": 21}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": 0}, "train: want a number of rows >= 1"),
        ({"train": True}, "train: want a number of rows >= 1"),
        ({"train": 5, "heldout": 1.0}, "heldout: want a number of rows >= 1, or a share"),
        ({"train": 5, "heldout": 0.05}, "heldout: want .* at least one of 10 rows, got 0.05"),
        ({"train": float("nan")}, "train: want"),
        ({"train": 6, "heldout": 0.5}, r"sizes: want at most 10 rows in all, got train 6 \+ heldout 5 = 11"),
    ],
)
def test_sizes_that_will_not_do(sizes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        split_rows(np.zeros((10, 2)), sizes, seed=0)


def test_a_seed_that_will_not_do():
    with pytest.raises(ValueError, match=r"^seed: want a whole number >= 0, got -1$"):
        split_rows(np.zeros((10, 2)), {"train": 2}, seed=-1)


def test_files_and_their_record(source, tmp_path):
    sizes = {"train": 0.5, "heldout": 60, "test": 10}
    record = write_split(source, tmp_path / "out", sizes, seed=3)
    sets = loaded(tmp_path / "out")
    for name, rows in split_rows(np.load(source), sizes, seed=3).items():
        np.testing.assert_array_equal(sets[name], rows)
        assert sets[name].dtype == np.int16
        entry = record["sets"][name]
        assert entry == {"shape": rows.shape} | describe(rows) | {"filtered_by_content": False}
        assert entry["sha256"] == hashlib.sha256(rows.tobytes()).hexdigest()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["heldout.npy", "split.json", "test.npy", "train.npy"]
    written = json.loads((tmp_path / "out" / "split.json").read_text())
    assert written == json.loads(json.dumps(record))     # tuples are lists there
    assert (written["schema"], written["biasgen"], written["seed"], written["distinct"]) == (1, __version__, 3, False)
    assert written["source"] == {"name": "rows.npy", "shape": [200, 2, 2]} | describe(np.load(source))


def test_every_source_gives_the_same_sets(source, tmp_path):
    rows, sizes = np.load(source), {"train": 90, "heldout": 60}
    np.savez(tmp_path / "two.npz", a=rows, b=rows[:5])
    sources = {"npz": f"{tmp_path}/two.npz:a", "array": rows, "tensor": torch.from_numpy(rows), "blocks": (row[None] for row in rows)}
    whole = write_split(source, tmp_path / "whole", sizes)
    for name, other in sources.items():
        record = write_split(other, tmp_path / name, sizes)
        assert record["sets"] == whole["sets"]
        assert record["source"] == whole["source"] | {"name": "two.npz:a" if name == "npz" else None}
        for part, expected in loaded(tmp_path / "whole").items():
            np.testing.assert_array_equal(loaded(tmp_path / name)[part], expected)


def test_rows_that_npy_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match=r"^data: want .* a type that \.npy has, got torch\.bfloat16 of shape \(5, 2\)$"):
        write_split(torch.zeros(5, 2, dtype=torch.bfloat16), tmp_path / "out", {"train": 1})


def test_copies_in_blocks(source, tmp_path, monkeypatch):
    write_split(source, tmp_path / "whole", {"train": 90, "heldout": 90})
    monkeypatch.setattr(module, "_BLOCK_BYTES", 20)
    write_split(source, tmp_path / "blocks", {"train": 90, "heldout": 90})
    for name, rows in loaded(tmp_path / "whole").items():
        np.testing.assert_array_equal(loaded(tmp_path / "blocks")[name], rows)


def test_equal_rows_are_kept(source, tmp_path):
    write_split(source, tmp_path / "out", {"train": 0.5, "heldout": 0.5})
    sets = loaded(tmp_path / "out")
    assert len(np.intersect1d(ids(sets["train"]), ids(sets["heldout"]))) > 20     # of 80 pairs half are cut in two


def test_distinct_holds_for_all_sets(source, tmp_path):
    record = write_split(source, tmp_path / "out", {"train": 0.5, "heldout": 0.25, "test": 0.25}, distinct=True)
    sets = loaded(tmp_path / "out")
    assert {name: len(rows) for name, rows in sets.items()} == {"train": 60, "heldout": 30, "test": 30}
    assert len(np.unique(np.concatenate([ids(rows) for rows in sets.values()]))) == 120
    assert record["distinct"]
    assert not any(entry["filtered_by_content"] for entry in record["sets"].values())


def test_disjoint_filters_held_out_rows_only_and_marks_them(source, tmp_path):
    sizes = {"train": 100, "heldout": 50, "test": 50}
    plain = split_rows(np.load(source), sizes, seed=0)
    record = write_split(source, tmp_path / "out", sizes, disjoint=True)
    sets = loaded(tmp_path / "out")
    np.testing.assert_array_equal(sets["train"], plain["train"])
    for name in ("heldout", "test"):
        np.testing.assert_array_equal(sets[name], plain[name][~np.isin(ids(plain[name]), ids(plain["train"]))])
        assert 0 < len(sets[name]) < 50
        assert record["sets"][name]["n"] == len(sets[name])
    assert {name: entry["filtered_by_content"] for name, entry in record["sets"].items()} == {"train": False, "heldout": True, "test": True}


def test_disjoint_may_leave_nothing(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((10, 2)))
    with pytest.raises(ValueError, match=r"^disjoint: want rows of heldout that do not occur in train, got none$"):
        write_split(tmp_path / "rows.npy", tmp_path / "out", {"train": 5, "heldout": 5}, disjoint=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["train.npy", "heldout.npy", "test.npy", "split.json"])
def test_a_folder_that_holds_a_split_is_refused(source, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"^out: want a folder without the files of a split, got .* with {name}$"):
        write_split(source, tmp_path / "out", {"train": 5, "heldout": 5})
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_split_that_failed(source, tmp_path, error):
    with mock.patch.object(module, "_entry", side_effect=error), pytest.raises(type(error)):     # train.npy.part is written by then
        write_split(source, tmp_path / "out", {"train": 5, "heldout": 5})
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("rows", [np.zeros(5), np.zeros((0, 2)), np.zeros((5, 2), complex), np.array([["a", "b"]])])
def test_sources_that_will_not_do(tmp_path, rows):
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(ValueError, match=r"^data: "):
        write_split(tmp_path / "rows.npy", tmp_path / "out", {"train": 1, "heldout": 1})
