"""`biasgen eval` on real images with planted near-copies, on tokens, and with bad input."""
import json
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from biasgen import TreeGrammar

COMMAND = str(Path(sysconfig.get_path("scripts")) / "biasgen")


def evaluate(folder, *options, **sets):
    arguments = []
    for name, rows in sets.items():
        path = folder / f"{name}.npy"
        if rows is not None:
            np.save(path, rows)
        arguments += [f"--{name}", path]
    return subprocess.run([COMMAND, "eval", *arguments, *options], capture_output=True, text=True, timeout=120)


def digits(planted):
    """599 train, 599 generated, 599 held-out real digits; the first planted generated rows are training rows, one pixel moved by 1."""
    images = load_digits().images.astype(np.uint8)[np.random.default_rng(0).permutation(1797)]
    train, gen, heldout = images[:599], images[599:1198].copy(), images[1198:]
    gen[:planted] = train[:planted]
    gen[:planted, 3, 3] += np.where(gen[:planted, 3, 3] < 16, 1, 255).astype(np.uint8)
    return {"train": train, "gen": gen, "heldout": heldout}


def test_planted_copies_are_found(tmp_path):
    sets = digits(planted=18)   # 3 %
    result = evaluate(tmp_path, "--json", tmp_path / "out.json", **sets)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["schema"] == 1
    assert report["sets"]["train"] == {"n": 599, "distinct": 599, "dtype": "uint8", "sha256": report["sets"]["train"]["sha256"]}
    assert len(report["sets"]["gen"]["sha256"]) == 64
    assert report["params"]["distance"] == "sqeuclidean"
    copies = report["metrics"]["near_copies"]
    assert copies["value"] >= 0.03 > copies["heldout"]
    assert copies["p_value"] < 0.01
    assert report["metrics"]["near_affinity"]["p_value"] < 0.01
    for name in report["metrics"]:
        assert name in result.stdout


def test_no_planted_copies_are_not_found(tmp_path):
    result = evaluate(tmp_path, "--json", "-", **digits(planted=0))
    assert result.returncode == 0, result.stderr
    metrics = json.loads(result.stdout)["metrics"]
    assert all(metrics[name]["p_value"] > 0.01 for name in ("train_affinity", "near_affinity", "near_copies", "nn_divergence"))


def test_tokens(tmp_path):
    rows = TreeGrammar.random().sample(900)
    result = evaluate(tmp_path, train=rows[:300], gen=rows[300:600], heldout=rows[600:])
    assert result.returncode == 0, result.stderr
    assert "hamming" in result.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gen": np.zeros((5, 8, 8), np.float32)}, "gen: "),
        ({"gen": np.zeros((5, 7, 8), np.uint8)}, "gen: "),
        ({"heldout": np.zeros((0, 8, 8), np.uint8)}, "heldout: "),
        ({"train": None}, "train: no file"),
        ({"gen": np.array([{}], object)}, "gen: cannot read"),
    ],
)
def test_bad_sets(tmp_path, change, message):
    result = evaluate(tmp_path, **(digits(0) | change))
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_bad_distance(tmp_path):
    result = evaluate(tmp_path, "--distance", "l2", **digits(0))
    assert result.returncode == 2
    assert "say 'sqeuclidean'" in result.stderr
