"""`biasgen split`: from one file to a folder that `biasgen eval` takes, or refuses where rows were filtered by content."""
import json

import numpy as np
import pytest

from biasgen import TreeGrammar
from biasgen.data.split import split_rows


@pytest.fixture(autouse=True)
def _rows(command):
    np.save("rows.npy", TreeGrammar.random(q=6, depth=2).sample(2000))     # 4 symbols: many repeats


def test_split_then_eval(command, tmp_path):
    status, out, err = command("split", "rows.npy", "--train", "0.25", "--heldout", 500, "--test", 1000, "--seed", 7)
    assert (status, err) == (0, "")
    expected = split_rows(np.load("rows.npy"), {"train": 500, "heldout": 500, "test": 1000}, seed=7)
    for name, rows in expected.items():
        np.testing.assert_array_equal(np.load(tmp_path / "split" / f"{name}.npy"), rows)
        assert f"split/{name}.npy: {len(rows)} rows" in out
    sets = (f"--{name}=split/{file}.npy" for name, file in (("train", "train"), ("gen", "test"), ("heldout", "heldout")))
    status, out, err = command("eval", *sets, "--json", "-")
    assert (status, err) == (0, "")
    assert list(json.loads(out)["self_tests"]) == ["heldout_affinity", "shared_rows"]
    status, _, err = command("split", "rows.npy", "--train", 5, "--heldout", 5)
    assert status == 2
    assert err.startswith("biasgen split: out: want a folder without the files of a split")
    assert err.count("\n") == 1


def test_eval_refuses_held_out_rows_filtered_by_content(command):
    status, out, _ = command("split", "rows.npy", "--train", 10, "--heldout", 1000, "--disjoint", "--out", "filtered")
    assert status == 0
    assert out.count("filtered by content, for losses only") == 1
    status, out, err = command("eval", "--train=filtered/train.npy", "--gen=rows.npy", "--heldout=filtered/heldout.npy")
    assert (status, out) == (2, "")
    assert err.startswith("biasgen eval: heldout: filtered by content")


def test_distinct(command, tmp_path):
    assert command("split", "rows.npy", "--train", "0.5", "--heldout", "0.5", "--distinct", "--out", "distinct")[0] == 0
    rows = np.concatenate([np.load(tmp_path / "distinct" / f"{name}.npy") for name in ("train", "heldout")])
    assert len(np.unique(rows, axis=0)) == len(rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train", "5", "--heldout", "none"], "argument --heldout: invalid size value: 'none'"),
        (["--train", "5"], "--heldout"),
        (["--train", "5", "--heldout", "5", "--distinct", "--disjoint"], "not allowed with"),
        (["--train", "-5", "--heldout", "5"], "train: want a number of rows >= 1"),
        (["--train", "1500", "--heldout", "501"], "sizes: want at most 2000 rows in all"),
        (["--train", "5", "--heldout", "5", "--seed", "-1"], "seed: want a whole number >= 0"),
    ],
)
def test_bad_options(command, tmp_path, options, message):
    status, _, err = command("split", "rows.npy", *options, "--out", "bad")
    assert status == 2
    assert message in err
    assert not (tmp_path / "bad").exists()


def test_no_source(command):
    status, _, err = command("split", "none.npy", "--train", 5, "--heldout", 5, "--out", "bad")
    assert (status, err) == (2, "biasgen split: data: no file none.npy\n")
