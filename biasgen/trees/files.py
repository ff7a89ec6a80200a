"""Grammars and labeled sequences in files: JSON, safetensors, and the .npy of the paper's authors, of which nothing is run."""
import json
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biasgen.data.row_file import whole_file
from biasgen.data.safetensors import read_tensors, write_tensors
from biasgen.trees.grammar import TreeGrammar

VERSION = 1
_FORMAT = "biasgen.TreeGrammar"
_SUFFIXES = (".json", ".safetensors")
_TYPES = {"rules": "int16", "weights": "float64", "level_offsets": "int64", "root": "float64"}     # of a grammar's arrays
_FIELDS = ("q", "depth", *_TYPES, "top")
"""Of a file; top: how the format names the level that is factorized."""


@dataclass(frozen=True, eq=False)
class LabeledData:
    """What a file of the authors holds. grammar: binary, the same rules at every level, uniform root. leaves (N, L) int8: the sequences,
    a row each. roots (N,) int64: the symbol that each grew from. sigma: of the normal logits that the grammar was drawn with. forbidden
    (n, 2 or 3) int64: their list of pairs without probability, in its order, as they wrote it."""

    grammar: TreeGrammar
    leaves: np.ndarray
    roots: np.ndarray
    sigma: float
    forbidden: np.ndarray


def save_grammar(grammar: TreeGrammar, path: str | Path) -> None:
    """Write a grammar to a .json or .safetensors file, whole or not at all; every bit of it comes back.

    Both hold format, version, the numbers q, depth and top (in safetensors as metadata; top is the
    k of BP_k), and the arrays rules, weights, level_offsets and root. ValueError for another
    suffix."""
    path = _grammar_path(path)
    arrays = {name: getattr(grammar.tree.arrays, name) for name in _TYPES}
    sizes = {"q": grammar.q, "depth": grammar.depth, "top": grammar.k}
    numbers = {
        "format": _FORMAT,
        "version": VERSION,
        **{name: int(value) for name, value in sizes.items()},
    }
    if path.suffix == ".json":
        text = json.dumps(numbers | {name: array.tolist() for name, array in arrays.items()}, allow_nan=False)
        with whole_file(path) as file:
            file.write(text.encode())
    else:
        write_tensors(path, arrays, {name: str(value) for name, value in numbers.items()})


def load_grammar(path: str | Path) -> TreeGrammar:
    """The grammar that save_grammar wrote.

    Raises ValueError, beginning with `path` and naming the file, where it is missing, damaged, something else, of a later version, or
    holds what is no grammar (TreeGrammar.from_rules, factorized).
    """
    path = _grammar_path(path)
    with _reading(path):
        if path.suffix == ".json":
            numbers = json.loads(path.read_bytes())
            if not isinstance(numbers, dict):
                raise ValueError("want a JSON object")
            arrays = {name: numbers.pop(name) for name, value in list(numbers.items()) if isinstance(value, list)}
        else:
            arrays, metadata = read_tensors(path)
            numbers = {name: int(text) if text.isdecimal() else text for name, text in metadata.items()}
        return _checked_grammar(numbers, arrays)


def load_labeled_data(path: str | Path) -> LabeledData:
    """The sequences and the grammar of an .npy file as the paper's authors write and publish it: a pickled object array of 7 entries.

    The pickle is read as data: its arrays, types and scalars are rebuilt here, and a file that names anything else is refused. Memory:
    three times the file. ValueError, beginning with `path` and naming the file, for one that is missing, damaged or of another content.

    Source: arXiv 2603.03469, labeled_data_restrictedfixed_{q}_{depth}_{sigma}_{q_eff}_{seed}.npy.
    """
    path = Path(path)
    with _reading(path):
        return _checked_data(_object_array(path))


def save_labeled_data(data: LabeledData, path: str | Path) -> None:
    """Write the .npy file that the authors' code reads, whole or not at all: for a file of theirs, its bytes.

    ValueError for a name that does not end in .npy and for data that the layout cannot hold: other than binary trees with the same rules
    at every level and a uniform root, leaves of another shape, symbols outside 0 .. q - 1, q above 127.
    """
    path, grammar = Path(path), data.grammar
    if path.suffix != ".npy":
        raise ValueError(f"path: want a name that ends in .npy, got {path}")
    others = {
        f"{grammar.arity} children": grammar.arity != 2,
        "levels with rules of their own": not grammar.tree.shared,
        "another root": (grammar.tree.arrays.root != 1 / grammar.q).any(),
        f"BP_{grammar.k}": grammar.k,
    }
    if any(others.values()):
        got = ", ".join(name for name, is_so in others.items() if is_so)
        raise ValueError(f"data: want a binary tree with the same rules at every level and a uniform root, got {got}")
    forbidden = [tuple(row) for row in np.asarray(data.forbidden, np.int64)]
    leaves = np.ascontiguousarray(np.asarray(data.leaves).T)
    entries = [grammar.q, grammar.depth, float(data.sigma), np.asarray(data.roots, np.float64), leaves, grammar.transitions, forbidden]
    try:
        _checked_data(entries)
    except ValueError as error:
        raise ValueError(f"data: {error}") from None
    with whole_file(path) as file:
        np.save(file, _objects(entries), allow_pickle=True)


def _grammar_path(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"path: want a name that ends in {' or '.join(_SUFFIXES)}, got {path}")
    return path


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes one ValueError that names the file."""
    if not path.is_file():
        raise ValueError(f"path: no file {path}")
    try:
        yield
    except Exception as error:     # what a damaged file makes its reader raise has no common type
        reason, *_ = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"path: cannot read {path}: {reason}") from None


def _checked_grammar(numbers: dict[str, Any], arrays: dict[str, Any]) -> TreeGrammar:
    if numbers.pop("format", None) != _FORMAT:
        raise ValueError(f"want a grammar that save_grammar wrote, with format {_FORMAT!r}")
    version = numbers.pop("version", None)
    if version != VERSION:
        raise ValueError(f"it has version {version}, this biasgen reads version {VERSION}")
    if sorted([*numbers, *arrays]) != sorted(_FIELDS):
        raise ValueError(f"want {', '.join(_FIELDS)}, got {', '.join([*numbers, *arrays])}")
    for name, number in numbers.items():
        if type(number) is not int:
            raise ValueError(f"{name}: want an integer, got {number!r:.50}")
    typed = {}
    for name, values in arrays.items():
        array = np.asarray(values)     # lists that are no table raise here
        wanted = np.dtype(_TYPES[name])
        if array.dtype.kind != ("f" if wanted.kind == "f" else "i") or not np.array_equal(array.astype(wanted), array):
            raise ValueError(f"{name}: want {wanted} values, got {array.dtype}")
        typed[name] = np.array(array, wanted, order="C")
    top = numbers.pop("top")
    grammar = TreeGrammar.from_rules(**numbers, **typed)
    if not 0 <= top <= grammar.depth:
        raise ValueError(f"top: want 0..{grammar.depth}, got {top}")
    return grammar.factorized(top)


def _checked_data(entries: list[Any]) -> LabeledData:
    """The seven entries of the authors' file; ValueError for what is not one."""
    q, depth, sigma, roots, leaves, table, forbidden = entries
    for name, value, least, most in (("q", q, 2, 127), ("l", depth, 1, 12)):
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"want {name} an integer in {least}..{most}, got {value!r:.50}")
    if type(sigma) is not float or not 0 <= sigma < np.inf:
        raise ValueError(f"want sigma a number >= 0, got {sigma!r:.50}")
    for name, array, dtype, shape in (
        ("leaves", leaves, "int8", (2**depth, None)), ("roots", roots, "float64", (None,)), ("M", table, "float64", (q, q, q)),
    ):
        sizes = ", ".join("N" if n is None else str(n) for n in shape)
        fits = isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == len(shape)
        if not fits or any(n not in (None, size) for n, size in zip(shape, array.shape, strict=True)):
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"want {name} {dtype} ({sizes}), got {got}")
    N = leaves.shape[1]
    if len(roots) != N:
        raise ValueError(f"want as many roots as sequences, got {len(roots)} and {N}")
    if N and not (leaves.min() >= 0 and leaves.max() < q and np.isin(roots, np.arange(q)).all()):
        raise ValueError(f"want symbols 0..{q - 1} in leaves and roots")
    tuples = isinstance(forbidden, list) and all(isinstance(pair, tuple) and len(pair) in (2, 3) for pair in forbidden)
    if not tuples or not all(isinstance(symbol, int | np.integer) for pair in forbidden for symbol in pair):
        raise ValueError("want a list of tuples of integers as the forbidden pairs")
    pairs = np.array(forbidden, np.int64).reshape(len(forbidden), len(forbidden[0]) if forbidden else 3)
    if pairs.size and not (pairs.min() >= 0 and pairs.max() < q):
        raise ValueError(f"want symbols 0..{q - 1} in the forbidden pairs")
    grammar = TreeGrammar.from_transitions(depth, table)
    return LabeledData(grammar, np.ascontiguousarray(leaves.T), roots.astype(np.int64), sigma, pairs)


def _object_array(path: Path) -> list[Any]:
    """The seven entries of the pickled array in an .npy file."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if not dtype.hasobject or shape != (7,):
            raise ValueError(f"want a pickled array of 7 entries, got {dtype} of shape {shape}")
        array = _Unpickler(file).load()
        if file.read(1):
            raise ValueError("it goes on behind the pickle")
    if not isinstance(array, _Array) or array.value.shape != (7,) or array.value.dtype != object:
        raise ValueError("want a pickled array of 7 entries")
    return [entry.value if isinstance(entry, _Array) else entry for entry in array.value]


def _objects(entries: list[Any]) -> np.ndarray:
    """(n,) object array; assigned one by one, because NumPy would look into lists."""
    array = np.empty(len(entries), object)
    for i, entry in enumerate(entries):
        array[i] = entry
    return array


class _Dtype:
    """Stands for a numpy.dtype in a pickle: a number of one of a few types, or an object."""

    def __init__(self, code: str, *_: bool) -> None:
        if not isinstance(code, str) or not re.fullmatch("[iu][1248]|f[48]|O8?", code):
            raise ValueError(f"want arrays of numbers, got the type {code!r:.50}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise ValueError("want arrays of numbers, got a type with fields")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for a numpy.ndarray in a pickle."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, held = state
        if kind.dtype == object:
            self.value = _objects(held)
        else:
            self.value = np.frombuffer(held, kind.dtype)
        self.value = self.value.reshape(shape, order="F" if fortran else "C")


def _reconstruct(kind: type, *_: Any) -> _Array:
    return kind.__new__(kind)


def _from_buffer(held: bytes, kind: _Dtype, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", held))
    return array


def _scalar(kind: _Dtype, held: bytes) -> np.generic:
    return np.frombuffer(held, kind.dtype)[0]


_STANDS_FOR = {"ndarray": _Array, "dtype": _Dtype, "_reconstruct": _reconstruct, "scalar": _scalar, "_frombuffer": _from_buffer}
_HOMES = {"ndarray": ("numpy",), "dtype": ("numpy",)} | {
    name: (f"numpy._core.{module}", f"numpy.core.{module}")     # of NumPy 2, and of 1
    for name, module in (("_reconstruct", "multiarray"), ("scalar", "multiarray"), ("_frombuffer", "numeric"))
}


class _Unpickler(pickle.Unpickler):
    """Knows five names, and none of them is NumPy's own: types with fields and arrays made of crafted bytes never reach it."""

    def find_class(self, module: str, name: str) -> Any:
        if module not in _HOMES.get(name, ()):
            raise ValueError(f"it wants to use {module}.{name}, which is refused: want arrays and numbers only")
        return _STANDS_FOR[name]
