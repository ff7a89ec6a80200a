"""Grammars and the authors' data in files: every bit comes back, nothing in a file is run, bad files are one error."""
import io
import json
import os
import pickle
import pickletools
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biasgen.trees import LabeledData, TreeGrammar, load_grammar, load_labeled_data, save_grammar, save_labeled_data

GRAMMAR = TreeGrammar.random(depth=3)
SUFFIXES = (".json", ".safetensors")


def authors_entries(grammar=GRAMMAR, n=20, sigma=1.0):
    """What the authors put into their file, entry by entry."""
    leaves = np.ascontiguousarray(grammar.sample(n, seed=3).T)
    roots = np.random.default_rng(0).integers(0, grammar.q, n).astype(np.float64)
    forbidden = [tuple(row) for row in np.argwhere(grammar.transitions == 0)[:12]]
    return [grammar.q, grammar.depth, sigma, roots, leaves, grammar.transitions, forbidden]


def write(path, entries):
    array = np.empty(len(entries), object)
    for i, entry in enumerate(entries):
        array[i] = entry
    np.save(path, array, allow_pickle=True)
    return path


def pickled(path, contents, shape="(7,)"):
    """An .npy file whose header says objects, and whose pickle is `contents`."""
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + contents)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labeled_data_restrictedfixed_6_3_1.0_4_0.npy"


GENERAL = {
    "paper": TreeGrammar.random(),
    "one rule": TreeGrammar.random(2, 1, 1, seed=3),
    "deep": TreeGrammar.random(16, 10, 16, seed=3),
    "levels": TreeGrammar.random_hierarchy(v=5, m=3, s=3, depth=4, seed=1),
    "four children": TreeGrammar.random_hierarchy(v=3, m=2, s=4, depth=6, seed=1),
    "256 symbols": TreeGrammar.random_hierarchy(v=256, m=2, s=2, depth=12, seed=2),
    "root": TreeGrammar.from_rules(
        3, 2, [[0, 1, 1], [1, 2, 0], [2, 0, 0], [2, 0, 2]], np.array([1, 1, 1 / 3, 2 / 3]), root=np.array([0.1, 0.0, 0.9])
    ),
    "empty blocks": TreeGrammar.from_rules(
        2, 3, [[0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]], np.ones(4), level_offsets=np.array([0, 2, 2, 4])
    ),
    "BP_2": TreeGrammar.random(depth=4).factorized(2),
    "BP_depth": TreeGrammar.random_hierarchy(v=4, m=2, s=3, depth=2).factorized(2),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", GENERAL)
def test_a_grammar_comes_back_to_the_bit(tmp_path, suffix, name):
    grammar = GENERAL[name]
    file = tmp_path / f"grammar{suffix}"
    file.write_bytes(b"what was there before")
    save_grammar(grammar, file)
    back = load_grammar(str(file))
    assert list(tmp_path.iterdir()) == [file]
    os.remove(file)     # the arrays are not a map of it
    for field in fields(TreeGrammar):
        found, expected = getattr(back, field.name), getattr(grammar, field.name)
        if isinstance(expected, np.ndarray):
            assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
        else:
            assert (type(found), found) == (int, expected)
    np.testing.assert_array_equal(back.sample(3), grammar.sample(3))
    np.testing.assert_array_equal(back.channels, grammar.channels)


def test_what_the_files_hold(tmp_path):
    save_grammar(GRAMMAR, tmp_path / "g.json")
    held = json.loads((tmp_path / "g.json").read_text())
    assert (held["format"], held["version"], held["q"], held["depth"], held["top"]) == ("biasgen.TreeGrammar", 1, 6, 3, 0)
    for name in ("rules", "weights", "level_offsets", "root"):
        np.testing.assert_array_equal(held[name], getattr(GRAMMAR, name))
    save_grammar(GRAMMAR, tmp_path / "g.safetensors")
    data = (tmp_path / "g.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    assert header["__metadata__"] == {"format": "biasgen.TreeGrammar", "version": "1", "q": "6", "depth": "3", "top": "0"}
    begin, end = header["weights"]["data_offsets"]
    assert data[start + begin : start + end] == GRAMMAR.weights.astype("<f8").tobytes()
    assert (start + begin) % 8 == 0


def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch):
    for save, file in ((save_grammar, "g.json"), (save_grammar, "g.safetensors")):
        save(GRAMMAR, tmp_path / file)
    save_labeled_data(load_labeled_data(write(tmp_path / "d.npy", authors_entries())), tmp_path / "d.npy")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def no_room(_):
        raise OSError("no space left on device")

    data = load_labeled_data(tmp_path / "d.npy")
    monkeypatch.setattr(os, "fsync", no_room)
    other = TreeGrammar.random(seed=9)
    for call in (lambda: save_grammar(other, tmp_path / "g.json"), lambda: save_grammar(other, tmp_path / "g.safetensors"),
                 lambda: save_labeled_data(data, tmp_path / "d.npy")):
        with pytest.raises(OSError, match="no space"):
            call()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def edited(suffix, change):
    """The bytes of a grammar file after `change` of its JSON part."""
    def edit(file):
        data = file.read_bytes()
        if suffix == ".json":
            held = json.loads(data)
            change(held)
            file.write_text(json.dumps(held))
            return
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        held = header["__metadata__"]
        change(held)
        header["__metadata__"] = {name: str(value) for name, value in held.items()}
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    return edit


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.update(version=2), "it has version 2, this biasgen reads version 1"),
        (lambda held: held.pop("version"), "it has version None"),
        (lambda held: held.update(format="other"), "want a grammar that save_grammar wrote"),
        (lambda held: held.pop("depth"), "want q, depth, rules, weights, level_offsets, root, top, got "),
        (lambda held: held.update(more=1), "want q, depth, .*, got .*more"),
        (lambda held: held.update(depth=0), r"depth: want 1\.\.12 for nodes with 2 children, got 0"),
        (lambda held: held.update(depth=10**30), r"depth: want 1\.\.12"),
        (lambda held: held.update(q="six"), "q: want an integer, got 'six'"),
        (lambda held: held.update(top=4), r"top: want 0\.\.3, got 4"),
        (lambda held: held.update(depth=4), r"level_offsets: want \(5,\) integers"),
        (lambda held: held.update(q=257), r"q: want 1\.\.256, got 257"),
        (lambda held: held.update(q=5), r"rules: want symbols 0\.\.4"),
        (lambda held: held.update(q=7), "rules: want at least one rule for each of the 7"),
    ],
)
def test_grammar_files_that_will_not_do(tmp_path, suffix, change, message):
    file = tmp_path / f"g{suffix}"
    save_grammar(GRAMMAR, file)
    edited(suffix, change)(file)
    with pytest.raises(ValueError, match=rf"^path: cannot read {re.escape(str(file))}: {message}"):
        load_grammar(file)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"weights": [0.5]}, "weights: want"),
        ({"weights": [*GRAMMAR.weights[:-1], float("nan")]}, "weights: want"),
        ({"weights": [*GRAMMAR.weights[:-1], 0.5]}, "weights: want a sum of 1"),
        ({"root": [0.5] * 6}, "root: want .* that sum to 1"),
        ({"root": [1, 0, 0, 0, 0, 0]}, "root: want float64 values, got int64"),
        ({"level_offsets": [0, 24, 24, 23]}, "level_offsets: want ascending"),
        ({"top": -1}, r"top: want 0\.\.3, got -1"),
        ({"rules": [[0, 1, 2.5]]}, "rules: want int16 values, got float64"),
        ({"rules": [[0, 1, 70_000]]}, "rules: want int16 values"),
        ({"rules": [[0, 1, 2], [0, 1]]}, ""),
        ({"rules": ["a"]}, "rules: want int16 values"),
        ({"q": 6.0}, "q: want an integer"),
        ({"q": True}, "q: want an integer"),
    ],
)
def test_json_of_something_else(tmp_path, entries, message):
    file = tmp_path / "g.json"
    save_grammar(GRAMMAR, file)
    edited(".json", lambda held: held.update(entries))(file)
    with pytest.raises(ValueError, match=rf"^path: cannot read {re.escape(str(file))}: {message}"):
        load_grammar(file)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_cut_of_a_grammar_file_is_found(tmp_path, suffix):
    file = tmp_path / f"g{suffix}"
    save_grammar(GRAMMAR, file)
    data = file.read_bytes()
    for end in range(0, len(data), 3):
        file.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"^path: cannot read "):
            load_grammar(file)
    with pytest.raises(ValueError, match=r"^path: no file .*missing"):
        load_grammar(tmp_path / f"missing{suffix}")
    with pytest.raises(ValueError, match=r"^path: want a name that ends in \.json or \.safetensors, got g\.pkl"):
        save_grammar(GRAMMAR, "g.pkl")


def test_the_authors_file_comes_back_byte_for_byte(path):
    entries = authors_entries()
    data = load_labeled_data(write(path, entries))
    assert (data.grammar.q, data.grammar.depth, data.sigma) == (6, 3, 1.0)
    assert (data.leaves.shape, data.leaves.dtype, data.leaves.flags.c_contiguous) == ((20, 8), np.int8, True)
    np.testing.assert_array_equal(data.leaves, entries[4].T)
    np.testing.assert_array_equal(data.roots, entries[3])
    np.testing.assert_array_equal(data.forbidden, entries[6])
    np.testing.assert_array_equal(data.grammar.transitions, entries[5])
    assert data.grammar.is_grammatical(data.leaves).all()
    copy = path.with_name("copy.npy")
    save_labeled_data(data, copy)
    assert copy.read_bytes() == path.read_bytes()
    q, depth, sigma, roots, leaves, table, forbidden = np.load(copy, allow_pickle=True)
    assert (type(q), type(depth), type(sigma), type(forbidden)) == (int, int, float, list)
    assert (roots.dtype, leaves.dtype, leaves.shape, table.dtype) == (np.float64, np.int8, (8, 20), np.float64)
    assert {type(symbol) for pair in forbidden for symbol in pair} == {np.int64}


def test_a_file_without_forbidden_pairs_and_sequences(path):
    grammar = TreeGrammar.random(q=3, depth=2, q_eff=3)
    entries = authors_entries(grammar, n=1)
    entries[3:] = entries[3][:0], entries[4][:, :0].copy(), entries[5], []
    data = load_labeled_data(write(path, entries))
    assert (data.leaves.shape, data.forbidden.shape) == ((0, 4), (0, 3))
    copy = path.with_name("copy.npy")
    save_labeled_data(data, copy)
    assert copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("old", [False, True])
def test_protocols_and_the_names_of_old_numpy(path, protocol, old):
    entries = authors_entries()
    entries[6] = [pair[:2] for pair in entries[6]]
    array = np.empty(7, object)
    for i, entry in enumerate(entries):
        array[i] = entry
    contents = pickle.dumps(array, protocol)
    if old and protocol == 3:     # names are lines; NumPy 1 wrote them so
        contents = contents.replace(b"cnumpy._core.", b"cnumpy.core.")
    data = load_labeled_data(pickled(path, contents))
    np.testing.assert_array_equal(data.leaves, entries[4].T)
    np.testing.assert_array_equal(data.forbidden, entries[6])


def test_arrays_in_columns_and_foreign_byte_order(path):
    entries = authors_entries()
    entries[4] = np.asfortranarray(entries[4])
    entries[3] = entries[3].astype(">f8")
    with pytest.raises(ValueError, match=r"want roots float64 \(N\), got >f8"):
        load_labeled_data(write(path, entries))
    entries[3] = entries[3].astype("<f8")
    np.testing.assert_array_equal(load_labeled_data(write(path, entries)).leaves, entries[4].T)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "function", [os.system, eval, exec, getattr, print, open, np.load, np.frombuffer, np.memmap, np.zeros]
)
def test_a_malicious_pickle_is_refused(path, tmp_path, protocol, function):
    """Nothing runs: not the call itself, and not what NumPy would do with it."""
    victim = tmp_path / "touched"
    entries = authors_entries()
    entries[0] = Call(function, f"touch {victim}")
    array = np.empty(7, object)
    for i, entry in enumerate(entries):
        array[i] = entry
    pickled(path, pickle.dumps(array, protocol))
    with pytest.raises(ValueError, match=rf"^path: cannot read {re.escape(str(path))}: it wants to use .*, which is refused"):
        load_labeled_data(path)
    assert not victim.exists()


def test_names_inside_names_are_refused(path):
    """Protocol 4 resolves dotted names: numpy.dtype.__class__ ..., ndarray.tofile ..."""
    for module, name in (("numpy", "ndarray.tofile"), ("numpy", "_core"), ("numpy._core.multiarray", "ndarray"), ("numpy", "_reconstruct")):
        short = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)]
        contents = b"\x80\x04" + b"".join(short) + b"\x93."
        pickletools.dis(contents, out=io.StringIO())     # it is a pickle
        with pytest.raises(ValueError, match=rf"wants to use {re.escape(module)}\.{re.escape(name)}, which is refused"):
            load_labeled_data(pickled(path, contents))


def test_types_made_of_crafted_parts_are_refused(path):
    """What would reach into memory, were it given to NumPy: types with fields, objects made of bytes."""
    table = np.zeros(3, [("a", "f8"), ("b", "O")])
    for bad, message in ((table, "want arrays of numbers, got the type"), (np.array(["text"]), "got the type 'U4'"),
                         (np.zeros(2, "M8[s]"), "got the type 'M8'"), (np.zeros(2, complex), "got the type 'c16'")):
        entries = authors_entries()
        entries[3] = bad
        with pytest.raises(ValueError, match=rf"^path: cannot read .*{message}"):
            load_labeled_data(write(path, entries))
    pointer = Call(np._core.numeric._frombuffer, b"12345678", np.dtype("O"), (1,), "C")
    for made in (pointer, Call(np._core.multiarray.scalar, np.dtype("O"), b"12345678")):
        with pytest.raises(ValueError, match=r"^path: cannot read "):
            load_labeled_data(pickled(path, pickle.dumps(made, 4)))


def changed(index, value):
    entries = authors_entries()
    entries[index] = value
    return entries


TABLE = GRAMMAR.transitions


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (authors_entries()[:6], r"want a pickled array of 7 entries, got object of shape \(6,\)"),
        (changed(0, 6.0), "want q an integer"),
        (changed(0, 1), r"want q an integer in 2\.\.127, got 1"),
        (changed(1, 4), r"want leaves int8 \(16, N\), got int8 \(8, 20\)"),
        (changed(1, 10**20), "want l an integer"),
        (changed(2, -1.0), "want sigma a number >= 0"),
        (changed(3, np.zeros(19)), "want as many roots as sequences, got 19 and 20"),
        (changed(3, np.full(20, 0.5)), r"want symbols 0\.\.5 in leaves and roots"),
        (changed(4, np.full((8, 20), 6, np.int8)), r"want symbols 0\.\.5 in leaves and roots"),
        (changed(4, np.full((8, 20), -1, np.int8)), r"want symbols 0\.\.5 in leaves and roots"),
        (changed(4, np.zeros((8, 20), np.int16)), r"want leaves int8 \(8, N\), got int16"),
        (changed(4, [1, 2]), "want leaves .*, got list"),
        (changed(5, TABLE[:5]), r"want M float64 \(6, 6, 6\), got float64 \(5, 6, 6\)"),
        (changed(5, TABLE * 0.9), "weights: want a sum of 1"),
        (changed(5, np.where(TABLE > 0.5, np.nan, TABLE)), "weights: want finite"),
        (changed(6, 5), "want a list of tuples"),
        (changed(6, [(1, 2, 3, 4)]), "want a list of tuples"),
        (changed(6, [(1, 9)]), r"want symbols 0\.\.5 in the forbidden pairs"),
        (changed(6, [(1, 2), (1, 2, 3)]), "inhomogeneous"),
        (changed(6, [(1, 2.5)]), "want a list of tuples of integers"),
    ],
)
def test_files_of_something_else(path, entries, message):
    with pytest.raises(ValueError, match=rf"^path: cannot read {re.escape(str(path))}: .*{message}"):
        load_labeled_data(write(path, entries))


def test_files_that_are_none(path):
    np.save(path, np.zeros(7))
    with pytest.raises(ValueError, match=r"want a pickled array of 7 entries, got float64"):
        load_labeled_data(path)
    with pytest.raises(ValueError, match=r"^path: no file .*absent\.npy"):
        load_labeled_data("absent.npy")
    for contents in (b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps(None)):
        with pytest.raises(ValueError, match=r"^path: cannot read "):
            load_labeled_data(pickled(path, contents))
    data = load_labeled_data(write(path, authors_entries()))
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"it goes on behind the pickle"):
        load_labeled_data(path)
    with pytest.raises(ValueError, match=r"^path: want a name that ends in \.npy"):
        save_labeled_data(data, "data.bin")
    for name, got in (("levels", "3 children, levels with rules of their own"), ("empty blocks", "levels with rules of their own"),
                      ("root", "another root"), ("BP_2", "BP_2")):
        with pytest.raises(ValueError, match=rf"^data: want a binary tree .* uniform root, got {got}$"):
            save_labeled_data(replace(data, grammar=GENERAL[name]), path)
    wrong = LabeledData(data.grammar, data.leaves[:, :4], data.roots, data.sigma, data.forbidden)
    with pytest.raises(ValueError, match=r"^data: want leaves int8 \(8, N\), got int8 \(4, 20\)"):
        save_labeled_data(wrong, path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_changed_byte_gives_data_or_one_error(path, at, byte):
    data = bytearray(write(path, authors_entries(n=2)).read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(data)
    try:
        assert load_labeled_data(path).leaves.shape[1] == 8
    except ValueError as error:
        assert str(error).startswith(f"path: cannot read {path}: ")     # noqa: PT017
