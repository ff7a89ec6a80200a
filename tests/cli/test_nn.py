"""`biasgen nn`: the nearest pairs, in order, from every kind of input, and their picture."""
import re

import numpy as np
import pytest
import torch
from matplotlib import image as reader
from PIL import Image
from sklearn.datasets import load_digits

from biasgen import TrainingSet
from biasgen.oracle import knn as oracle

RNG = np.random.default_rng(0)
IMAGES = load_digits().images.astype(np.uint8)
GEN, TRAIN = IMAGES[:40].copy(), IMAGES[40:240].copy()
TRAIN[7] = TRAIN[150]
GEN[30], GEN[12] = TRAIN[99], TRAIN[150]
GEN[12, 0, 0] += 1


@pytest.fixture(autouse=True)
def _sets(command):
    np.save("gen.npy", GEN)
    np.save("train.npy", TRAIN)


def pairs(out):
    """The table as integers."""
    lines = out.split("distance  ties\n")[1].split("\n\n")[0].splitlines()
    return [[int(cell) for cell in line.split()] for line in lines]


def expected(gen, train, distance, top):
    distances, indices, ties = (values.reshape(len(gen), -1)[:, 0] for values in oracle.knn(gen, train, 1, distance))
    order = np.lexsort((np.arange(len(gen)), distances))[:top]
    return np.stack([order, indices[order], distances[order], ties[order]], axis=1)


@pytest.mark.parametrize("top", [1, 5, 1000])
def test_pairs(command, top):
    status, out, err = command("nn", "gen.npy", "train.npy", "--top", top)
    assert (status, err) == (0, "")
    assert out.startswith("40 generated rows, 200 training rows (199 distinct); distance sqeuclidean\n\ngenerated")
    np.testing.assert_array_equal(pairs(out), expected(GEN, TRAIN, "sqeuclidean", top))
    assert pairs(out)[:2] == [[30, 99, 0, 1], [12, 7, 1, 2]][:top]


def test_tokens(command):
    gen, train = RNG.integers(0, 3, (20, 8)), RNG.integers(0, 3, (30, 8))
    np.save("gen.npy", gen)
    np.save("train.npy", train)
    status, out, _ = command("nn", "gen.npy", "train.npy", "--top", 20)
    assert status == 0
    assert "distance hamming" in out
    np.testing.assert_array_equal(pairs(out), expected(gen, train, "hamming", 20))


def test_every_kind_of_input(command, tmp_path):
    whole = command("nn", "gen.npy", "train.npy")[1]
    np.savez("gen.npz", GEN, np.zeros(40))
    torch.save({"a": torch.from_numpy(GEN), "b": torch.zeros(1)}, "gen.pt")
    TrainingSet(TRAIN).save("train.biasgen")
    for gen, train in (("gen.npz", "train.npy"), ("gen.pt:a", "train.biasgen")):
        assert command("nn", gen, train) == (0, whole, "")
    for name, rows in (("gen", GEN), ("train", TRAIN)):
        (tmp_path / name).mkdir()
        for i, row in enumerate(rows):
            Image.fromarray(row).save(f"{name}/{i:03}.png")
    assert command("nn", "gen", "train") == (0, whole, "")


def test_the_distance_of_a_saved_set_is_kept(command):
    TrainingSet(TRAIN, "hamming").save("train.biasgen")
    _, out, _ = command("nn", "gen.npy", "train.biasgen")
    np.testing.assert_array_equal(pairs(out), expected(GEN, TRAIN, "hamming", 40))
    assert command("nn", "gen.npy", "train.npy", "--distance", "hamming")[1] == out
    status, _, err = command("nn", "gen.npy", "train.biasgen", "--distance", "sqeuclidean")
    assert (status, err.startswith("biasgen nn: distance: want 'hamming'")) == (2, True)


@pytest.mark.parametrize("layout", ["gray", "last", "first"])
def test_grid(command, tmp_path, layout):
    """Twelve pairs in ten columns, all of the darkest training row."""
    shape = {"gray": (8, 8), "last": (8, 8, 3), "first": (3, 8, 8)}[layout]
    train = np.full((12, *shape), 200, np.uint8)
    gen = np.full_like(train, 10)
    np.save("train.npy", np.concatenate([train, gen[:1]]))     # their lowest value is black
    np.save("gen.npy", gen)
    status, out, err = command("nn", "gen.npy", "train.npy", "--grid", "worst.png")
    assert (status, err) == (0, "")
    assert out.endswith("\nwritten: worst.png\n")
    picture = reader.imread(tmp_path / "worst.png")[..., :3]
    assert picture.shape[0] < picture.shape[1]
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []
    dark = (picture.max(axis=2) < 0.05).mean()     # twelve of 2 x 10 places, which have gaps
    assert 12 / 20 * 0.6 < dark < 12 / 20


def test_generated_row_above_training_row(tmp_path):
    from biasgen.report.grid import draw_pairs

    gen, train = np.zeros((1, 8, 8)), np.ones((1, 8, 8))
    draw_pairs(gen, train, [""], tmp_path / "pair.png", low=0.0, high=1.0)
    column = reader.imread(tmp_path / "pair.png")[:, :, 0].mean(axis=1)
    dark = np.flatnonzero(column < 0.5)
    assert len(dark) == pytest.approx(len(column) * 8 / 21, abs=3)
    assert dark.min() == pytest.approx(len(column) * 2 / 21, abs=3)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, ["--top", "0"], "--top: want at least 1 pair, got 0"),
        ({}, ["--distance", "l2"], "distance: unknown 'l2'"),
        ({"gen": GEN[:, :7]}, [], r"gen: want rows of shape \(8, 8\) as in train"),
        ({"gen": GEN.astype(int)}, [], "gen: want uint8 rows as in train, got int64"),
        ({"gen": (GEN > 8).astype(np.uint8)}, [], "gen: want values on the scale of train"),
        ({"gen": GEN.reshape(40, -1), "train": TRAIN.reshape(200, -1)}, ["--grid", "g.png"], "grid: want images .* got shape"),
        ({"gen": GEN.reshape(40, 2, 16, 2), "train": TRAIN.reshape(200, 2, 16, 2)}, ["--grid", "g.png"], "grid: want images"),
    ],
)
def test_bad_input(command, tmp_path, change, options, message):
    for name, rows in change.items():
        np.save(f"{name}.npy", rows)
    status, out, err = command("nn", "gen.npy", "train.npy", *options)
    assert (status, out) == (2, "")
    assert re.match(f"biasgen nn: {message}", err)
    assert not (tmp_path / "g.png").exists()


def test_no_file(command):
    assert command("nn", "none.npy", "train.npy")[::2] == (2, "biasgen nn: gen: no file none.npy\n")


def test_views(command):
    np.save("gen.npy", GEN[..., ::-1])
    table = np.minimum(oracle.distances(GEN, TRAIN, "sqeuclidean"), oracle.distances(GEN[..., ::-1].copy(), TRAIN, "sqeuclidean"))
    order = np.argsort(table.min(1), kind="stable")[:5]
    wanted = [[n, table[n].argmin(), table[n].min(), (table[n] == table[n].min()).sum()] for n in order]
    status, out, _ = command("nn", "gen.npy", "train.npy", "--top", 5, "--views", "identity,hflip")
    assert status == 0
    assert out.splitlines()[0].endswith("distance sqeuclidean; views identity, hflip")
    np.testing.assert_array_equal(pairs(out), wanted)
    TrainingSet(TRAIN, views=("identity", "hflip")).save("train.biasgen")
    assert command("nn", "gen.npy", "train.biasgen", "--top", 5)[1] == out
    assert command("nn", "gen.npy", "train.biasgen", "--top", 5, "--views", "hflip,identity")[1] == out
    status, _, err = command("nn", "gen.npy", "train.biasgen", "--views", "identity")
    assert (status, err) == (2, "biasgen nn: --views: want identity,hflip, which the training set was saved with, got identity\n")
    status, _, err = command("nn", "gen.npy", "train.npy", "--views", "vflip")
    assert status == 2
    assert err.startswith("biasgen nn: views: want some of ('identity', 'hflip'), each once, with 'identity', got ('vflip',)")
