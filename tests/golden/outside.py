"""Golden calls of files, the command line, and what is refused."""

import contextlib
import dataclasses
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

import biasgen
from biasgen import (
    BiasMonitor,
    EmpiricalDenoiser,
    Level,
    Schedule,
    TrainingSet,
    TreeDenoiser,
    TreeGrammar,
    load_rows,
)
from biasgen.cli import main
from biasgen.data.hygiene import contents, describe
from biasgen.data.safetensors import read_tensors, write_tensors
from biasgen.data.split import split_rows, write_split
from biasgen.trees import (
    LabeledData,
    load_grammar,
    load_labeled_data,
    save_grammar,
    save_labeled_data,
)
from tests.golden.numbers import SETTINGS, three

DOUBLE = 1e-9  # as in trees.py


def calls():
    """(name, function, tolerance) of each call."""
    yield from _files()
    yield from _verbs()
    for name, function in _refused():
        yield f"refused: {name}", function, None


def _in_folder(function):
    """function(folder), its text without the folder's name."""

    def call():
        with tempfile.TemporaryDirectory() as name:
            value = function(Path(name))
            return value.replace(name, "FOLDER") if isinstance(value, str) else value

    return call


def _files():
    grammar = TreeGrammar.random_hierarchy(5, 2, 3, 2, seed=4)

    def saved_grammar(suffix):
        def call(folder):
            path = folder / f"grammar{suffix}"
            save_grammar(grammar, path)
            read = load_grammar(path)
            return (
                path.read_bytes(),
                dataclasses.replace(read).rules,
                read.weights,
                read.level_offsets,
            )

        return call

    for suffix in (".json", ".safetensors"):
        yield f"grammar in {suffix}", _in_folder(saved_grammar(suffix)), None
    yield "labeled data", _in_folder(_labeled), None
    yield "TrainingSet in a file", _in_folder(_saved_set), None
    yield "TrainingSet from blocks", _in_folder(_from_blocks), None
    for suffix in (".npy", ".npz", ".pt", ".safetensors"):
        yield f"load_rows {suffix}", _in_folder(lambda folder, s=suffix: _loaded(folder, s)), None
    images = three("images")["gen"]
    yield "describe", lambda: describe(images), DOUBLE
    yield "contents", lambda: contents(images, three("images")["train"]), None
    sizes = {"train": 0.5, "heldout": 20}
    yield "split_rows", lambda: split_rows(images, sizes, seed=2), None
    yield "write_split", _in_folder(lambda folder: _split(folder, images, sizes)), DOUBLE


def _labeled(folder):
    grammar = TreeGrammar.random(q=4, depth=3, q_eff=2, seed=1)
    pairs = np.array([[0, 1], [2, 3]])
    path = folder / "data.npy"
    save_labeled_data(LabeledData(grammar, grammar.sample(6), np.arange(6) % 4, 1.0, pairs), path)
    read = load_labeled_data(path)
    return path.read_bytes(), read.leaves, read.roots, read.sigma, read.forbidden


def _saved_set(folder):
    TrainingSet(three("images")["train"], views=("identity", "hflip")).save(folder / "set.biasgen")
    read = TrainingSet.load(folder / "set.biasgen")
    return np.asarray(read.rows), read.distance, read.views, read.description, repr(read)


def _from_blocks(folder):
    parts = np.split(three("float32")["train"], 4)
    read = TrainingSet.from_blocks(parts, folder / "set.biasgen", "cosine", max_memory=3000)
    return np.asarray(read.rows), read.distance, read.streamed, read.knn(parts[1][:5], 2).indices


def _loaded(folder, suffix):
    rows = three("float32")["gen"]
    path = folder / f"rows{suffix}"
    if suffix == ".npy":
        np.save(path, rows)
    elif suffix == ".npz":
        np.savez(path, rows)
    elif suffix == ".pt":
        torch.save({"rows": torch.from_numpy(rows).bfloat16()}, path)
    else:
        write_tensors(path, {"rows": rows}, {"kind": "golden"})
        return np.asarray(load_rows(f"{path}:rows")), read_tensors(path)
    loaded = load_rows(path)
    return loaded if isinstance(loaded, torch.Tensor) else np.asarray(loaded)


def _split(folder, images, sizes):
    record = write_split(images, folder / "split", sizes, seed=1, distinct=True)
    written = json.loads((folder / "split" / "split.json").read_text())
    assert record.pop("biasgen") == written.pop("biasgen")
    return record, written, np.load(folder / "split" / "heldout.npy")


def _verbs():
    flips = ["--views", "identity,hflip"]
    for kind, options in (("tokens", []), ("images", flips), ("float32", ["--distance", "cosine"])):
        yield (
            f"biasgen eval {kind}",
            _in_folder(lambda folder, k=kind, o=options: _evaluated(folder, k, o)),
            DOUBLE,
        )
    yield "biasgen nn", _in_folder(_listed), None


def _run(folder, kind, verb):
    """(status, standard output) of a verb whose words {gen}, {train}, {heldout} are files."""
    paths = {name: folder / f"{name}.npy" for name in ("gen", "train", "heldout")}
    for name, path in paths.items():
        np.save(path, three(kind)[name])
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        status = main([word.format(**paths) for word in verb])
    return status, out.getvalue()


def _evaluated(folder, kind, options):
    sets = ["--gen", "{gen}", "--train", "{train}", "--heldout", "{heldout}"]
    settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
    status, text = _run(folder, kind, ["eval", *sets, *settings, *options, "--json", "-"])
    return status, json.loads(text)


def _listed(folder):
    return str(_run(folder, "tokens", ["nn", "{gen}", "{train}", "--top", "12"]))


def _refused():
    sets, floats = three("tokens"), three("float32")
    grammar, schedule = TreeGrammar.random(), Schedule.linear(100)
    field = np.zeros((2, 16, 6))
    a, b = floats["gen"], floats["train"]
    with_nan = a.copy()
    with_nan[4, 2] = np.nan
    cut = dict(sets, heldout=sets["heldout"][:, :8])
    yield "no array", lambda: biasgen.knn([[1, 2]], b)
    yield "k of 0", lambda: biasgen.knn(a, b, 0)
    yield "k above 64", lambda: biasgen.knn(a, b, 65)
    yield "another width", lambda: biasgen.knn(a[:, :3], b)
    yield "floats among integers", lambda: biasgen.knn(a, b.astype(np.uint8))
    yield "NaN", lambda: biasgen.knn(with_nan, b)
    yield "a negative token", lambda: biasgen.knn(sets["gen"], sets["train"] - np.int8(5))
    yield "bins", lambda: biasgen.distance_histogram(a, b, [2, 1])
    yield "radius", lambda: biasgen.range_count(a, b, float("nan"))
    yield "no views", lambda: TrainingSet(b, views=("hflip",))
    yield "sigma of 0", lambda: EmpiricalDenoiser(b)(a, Level(1.0, 0.0))
    yield "bytes without encode", lambda: EmpiricalDenoiser(three("images")["train"])
    yield "permutations", lambda: biasgen.train_affinity(**sets, permutations=0)
    yield "alpha", lambda: biasgen.evaluate(**sets, alpha=1.0)
    yield "other rows held out", lambda: biasgen.evaluate(**cut)
    yield "t beyond T", lambda: schedule.at(101)
    yield "depth", lambda: TreeGrammar.random(depth=13)
    yield "weights", lambda: TreeGrammar.from_rules(1, 1, np.zeros((1, 3), int), np.array([0.5]))
    yield "levels", lambda: grammar.posterior(field, levels="roots")
    yield "temperature", lambda: grammar.posterior(field, temperature=0.0)
    yield "a field of NaN", lambda: grammar.posterior(np.full((2, 16, 6), np.nan))
    yield "BP_5", lambda: TreeDenoiser(grammar, factorized=5)
    yield "every", lambda: BiasMonitor(train=b, heldout=a, sampler=print, every=0)
