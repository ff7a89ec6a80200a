"""Rows from every kind of source, what is refused, and the mark that split.json puts on some of them."""
import json
import os
import pickle

import numpy as np
import pytest
import torch

import biasgen
from biasgen.data.files import load_rows, load_set
from biasgen.data.hygiene import ContentDisjoint
from biasgen.data.split import write_split
from biasgen.data.training_set import TrainingSet

ROWS = np.arange(24, dtype=np.int16).reshape(4, 3, 2)


class Malicious:
    """Its pickle makes a folder called "owned" where it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def saved(path, rows=ROWS):
    """Write rows in the form that the name of the file asks for."""
    tensor = torch.from_numpy(rows.copy())
    if path.suffix == ".npz":
        np.savez(path, labels=np.arange(4), arr_0=rows)
    elif path.suffix == ".biasgen":
        TrainingSet(rows).save(path)
    else:
        (lambda p: np.save(p, rows) if p.suffix == ".npy" else torch.save(tensor, p))(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """A split of 40 rows, of which every one occurs twice, with content-disjoint held-out rows."""
    rows = np.random.default_rng(0).integers(0, 256, (20, 3)).astype(np.uint8)
    np.save(tmp_path / "rows.npy", np.concatenate([rows, rows]))
    write_split(tmp_path / "rows.npy", tmp_path, {"train": 20, "heldout": 20}, disjoint=True)
    return tmp_path


@pytest.mark.parametrize("name", ["rows.npy", "rows.npz", "rows.pt", "rows.pth", "rows.biasgen", "rows.NPY"])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_files(tmp_path, name, kind):
    path = tmp_path / name
    if name == "rows.NPY":
        saved(tmp_path / "rows.npy").rename(path)
    else:
        saved(path)
    rows = load_rows(kind(path))
    assert rows.dtype == np.int16
    np.testing.assert_array_equal(rows, ROWS)
    assert isinstance(rows, np.memmap) == (name in ("rows.npy", "rows.NPY", "rows.biasgen"))
    assert biasgen.load_rows is load_rows


def test_mapped_rows_are_read_only(tmp_path):
    rows = load_rows(saved(tmp_path / "rows.npy"))
    assert not rows.flags.writeable
    np.save(tmp_path / "fortran.npy", np.asfortranarray(ROWS))
    np.testing.assert_array_equal(load_rows(tmp_path / "fortran.npy"), ROWS)


def test_names_in_an_archive(tmp_path):
    path = tmp_path / "two.npz"
    np.savez(path, a=ROWS, b=ROWS + 1)
    np.testing.assert_array_equal(load_rows(f"{path}:b"), ROWS + 1)
    with pytest.raises(ValueError, match=r"^gen: cannot read .*two\.npz: want one of a, b \(say which .*\), got no name$"):
        load_rows(path, "gen")
    with pytest.raises(ValueError, match=r"want one of a, b .*, got c$"):
        load_rows(f"{path}:c", "gen")
    np.savez(path, ROWS, np.arange(4))     # as ADM writes samples and labels
    np.testing.assert_array_equal(load_rows(path), ROWS)
    np.savez_compressed(path, anything=ROWS)
    np.testing.assert_array_equal(load_rows(path), ROWS)


def test_names_in_a_checkpoint(tmp_path):
    path = tmp_path / "two.pt"
    torch.save({"step": 3, "images": torch.from_numpy(ROWS)}, path)
    np.testing.assert_array_equal(load_rows(path), ROWS)
    torch.save({"a": torch.zeros(2, 2), "b": torch.nn.Parameter(torch.ones(2, 2))}, path)
    np.testing.assert_array_equal(load_rows(f"{path}:b"), np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"^gen: .*want one of a, b .*, got no name$"):
        load_rows(path, "gen")
    torch.save(torch.zeros(2, 2), path)
    with pytest.raises(ValueError, match=r"^gen: .*it holds one tensor without a name, not 'b'$"):
        load_rows(f"{path}:b", "gen")
    torch.save([torch.zeros(2, 2)], path)
    with pytest.raises(ValueError, match=r"^gen: .*want an array"):
        load_rows(path, "gen")


def test_a_name_with_a_colon_may_be_a_file(tmp_path):
    np.savez(tmp_path / "a:b.npz", rows=ROWS)
    np.testing.assert_array_equal(load_rows(tmp_path / "a:b.npz"), ROWS)
    np.testing.assert_array_equal(load_rows(f"{tmp_path}/a:b.npz:rows"), ROWS)
    np.savez(tmp_path / "a.npz:b.npz", rows=ROWS + 1)
    np.testing.assert_array_equal(load_rows(tmp_path / "a.npz:b.npz"), ROWS + 1)


def test_bfloat16_stays_bfloat16(tmp_path):
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.save(rows, tmp_path / "rows.pt")
    assert torch.equal(load_rows(tmp_path / "rows.pt"), rows)


def test_arrays_and_tensors_are_returned_as_they_are(tmp_path):
    for rows in (ROWS, torch.from_numpy(ROWS), ROWS[::2, ::-1], np.load(saved(tmp_path / "rows.npy"), mmap_mode="r")[:, 1:]):
        assert load_rows(rows) is rows
    meta = torch.zeros(2, 2, device="meta")
    assert load_rows(meta) is meta


@pytest.mark.parametrize("make", [list, iter, lambda parts: (part for part in parts)])
def test_blocks_are_joined(make):
    parts = [ROWS[:1], ROWS[1:1], ROWS[1:]]
    np.testing.assert_array_equal(load_rows(make(parts)), ROWS)
    joined = load_rows(make([torch.from_numpy(part) for part in parts]))
    assert torch.equal(joined, torch.from_numpy(ROWS))


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([], ValueError, "want at least one block, got none"),
        ([[1, 2], [3, 4]], TypeError, r"want blocks that are arrays or tensors \(n, ...\), got list as block 0"),
        ([ROWS, ROWS[0, 0]], TypeError, "want blocks .* as block 1"),
        ([ROWS, ROWS[:, :1]], ValueError, r"want an array of int16 rows of shape \(3, 2\) as block 0, got .* of shape \(1, 2\) as block 1"),
        ([ROWS, ROWS.astype(np.int32)], ValueError, "want an array of int16 .*, got an array of int32 .* as block 1"),
        ([ROWS, torch.from_numpy(ROWS)], ValueError, "want an array .* as block 0, got a tensor on cpu .* as block 1"),
        ([torch.zeros(1, 2), torch.zeros(1, 2, device="meta")], ValueError, "want a tensor on cpu .*, got a tensor on meta"),
    ],
)
def test_blocks_that_do_not_fit(parts, error, message):
    with pytest.raises(error, match=f"^gen: {message}"):
        load_rows(iter(parts), "gen")


@pytest.mark.parametrize("source", [5, None, b"rows.npy", {"rows": ROWS}])
def test_what_is_no_source(source):
    with pytest.raises(TypeError, match=r"^gen: want a path, an array, a tensor or an iterable of these, got "):
        load_rows(source, "gen")


@pytest.mark.parametrize("rows", [np.zeros(5), np.array(3.0), np.zeros((2, 2), complex), np.array([["a"]]), torch.zeros(2, 2).cfloat()])
def test_what_are_no_rows(tmp_path, rows):
    with pytest.raises(ValueError, match=r"^gen: want numbers of shape \(rows, ...\), got "):
        load_rows(rows, "gen")
    if isinstance(rows, np.ndarray):
        np.save(tmp_path / "rows.npy", rows)
        with pytest.raises(ValueError, match=r"^gen: want numbers of shape \(rows, ...\), got .* in .*rows\.npy$"):
            load_rows(tmp_path / "rows.npy", "gen")


@pytest.mark.parametrize("name", ["rows.npy", "rows.npz", "rows.pt", "rows.pth", "rows.safetensors", "rows.biasgen", "legacy.pt"])
def test_pickles_are_refused_and_not_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    objects = np.array([[Malicious()]], dtype=object)
    if name == "rows.npy":
        np.save(path, objects)
    elif name == "rows.npz":
        np.savez(path, objects)
    elif path.suffix in (".pt", ".pth"):
        torch.save({"rows": torch.zeros(2, 2), "more": Malicious()}, path, _use_new_zipfile_serialization=name != "legacy.pt")
    else:
        path.write_bytes(pickle.dumps(Malicious()))
    message = r"^gen: [^\n]*" + ("objects other than tensors, which are refused$" if path.suffix in (".pt", ".pth") else "$")
    with pytest.raises(ValueError, match=message):
        load_rows(path, "gen")
    path.write_bytes(pickle.dumps(Malicious(), protocol=2))     # nor a bare pickle under that name
    with pytest.raises(ValueError, match=message):
        load_rows(path, "gen")
    assert not (tmp_path / "owned").exists()


def test_the_malicious_pickle_would_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Malicious()))
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["rows.npy", "rows.npz", "rows.pt", "rows.biasgen"])
def test_files_that_are_cut_off(tmp_path, name):
    path = saved(tmp_path / name)
    data = path.read_bytes()
    for end in range(0, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=rf"^gen: [^\n]*{name}"):
            load_rows(path, "gen")


def test_names_that_will_not_do(tmp_path):
    with pytest.raises(ValueError, match=r"^gen: want a file of type \.npy, .* or a folder of images, got .*rows\.csv$"):
        load_rows(tmp_path / "rows.csv", "gen")
    for name in ("rows.npy", "rows.npz", "rows.npz:a", "rows.biasgen", "rows.safetensors"):
        with pytest.raises(ValueError, match=rf"^gen: no file {tmp_path}/{name.partition(':')[0]}$"):
            load_rows(tmp_path / name, "gen")
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, rows=ROWS)
    with pytest.raises(ValueError, match=r"^gen: cannot read .*archive\.npy: "):
        load_rows(tmp_path / "archive.npy", "gen")
    np.save(tmp_path / "one.npy", ROWS)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match=r"^gen: cannot read .*one\.npz: want an archive, got one array$"):
        load_rows(tmp_path / "one.npz", "gen")


def test_a_saved_set_is_loaded_as_one(tmp_path):
    TrainingSet(ROWS.astype(np.uint8), "hamming").save(tmp_path / "train.biasgen")
    train = load_set(tmp_path / "train.biasgen", "train")
    assert isinstance(train, TrainingSet)
    assert train.distance == "hamming"
    with pytest.raises(ValueError, match=r"^train: no file "):
        load_set(tmp_path / "none.biasgen", "train")


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
