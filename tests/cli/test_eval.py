"""`biasgen eval` on real images with planted near-copies, on tokens, and with bad input."""
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from biasgen import TrainingSet, TreeGrammar
from biasgen.cli import main
from biasgen.distances import DISTANCES


@pytest.fixture
def evaluate(command):
    """`biasgen eval` on these sets, saved as .npy (None: not saved). (status, stdout, stderr)"""

    def run(*options, **sets):
        for name, rows in sets.items():
            if rows is not None:
                np.save(f"{name}.npy", rows)
        return command("eval", *(f"--{name}={name}.npy" for name in sets), *options)

    return run


def digits(planted):
    """599 train, 599 generated, 599 held-out real digits; the first planted generated rows are training rows, one pixel moved by 1."""
    images = load_digits().images.astype(np.uint8)[np.random.default_rng(0).permutation(1797)]
    train, gen, heldout = images[:599], images[599:1198].copy(), images[1198:]
    gen[:planted] = train[:planted]
    gen[:planted, 3, 3] += np.where(gen[:planted, 3, 3] < 16, 1, 255).astype(np.uint8)
    return {"train": train, "gen": gen, "heldout": heldout}


def test_planted_copies_are_found(evaluate, tmp_path):
    sets = digits(planted=18)   # 3 %
    status, out, err = evaluate("--json", "out.json", **sets)
    assert (status, err) == (0, "written: out.json\n")
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["schema"] == 1
    train = report["sets"]["train"]
    assert [train[name] for name in ("n", "distinct", "dtype", "low", "high")] == [599, 599, "uint8", 0, 16]
    assert len(report["sets"]["gen"]["sha256"]) == 64
    assert report["params"]["distance"] == "sqeuclidean"
    copies = report["metrics"]["near_copies"]
    assert copies["value"] >= 0.03 > copies["heldout"]
    assert copies["p_value"] < 0.01
    assert report["metrics"]["near_affinity"]["p_value"] < 0.01
    for name in report["metrics"]:
        assert name in out
    p = report["self_tests"]["heldout_affinity"]["p_value"]
    assert out.splitlines()[-1] == f"self-test (train against held-out): passed, p = {p:.4f} (heldout_affinity)"


def test_no_planted_copies_are_not_found(evaluate):
    status, out, err = evaluate("--json", "-", **digits(planted=0))
    assert (status, err) == (0, "")
    metrics = json.loads(out)["metrics"]
    assert all(metrics[name]["p_value"] > 0.01 for name in ("train_affinity", "near_affinity", "near_copies", "nn_divergence"))


def test_held_out_rows_of_another_pipeline(evaluate, tmp_path):
    sets = digits(0)
    sets["heldout"] = np.roll(sets["heldout"], 1, axis=2)
    status, out, _ = evaluate("--alpha", "0.05", "--json", "out.json", **sets)
    assert status == 1
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["params"]["alpha"] == 0.05
    assert out.splitlines()[-1] == report["warnings"][0]
    status, out, err = evaluate("--json", "-", **sets)
    assert status == 1
    assert json.loads(out)["warnings"] == report["warnings"]
    assert err == f"biasgen eval: {report['warnings'][0]}\n"


def test_tokens(evaluate):
    rows = TreeGrammar.random().sample(900)
    status, out, err = evaluate(train=rows[:300], gen=rows[300:600], heldout=rows[600:])
    assert (status, err) == (0, "")
    assert "hamming" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gen": np.zeros((5, 8, 8), np.float32)}, "gen: "),
        ({"gen": np.zeros((5, 7, 8), np.uint8)}, "gen: "),
        ({"gen": np.ones((5, 8, 8), np.uint8)}, "gen: want values on the scale of train, 0 .. 16, got 1 .. 1: all within 0 .. 1"),
        ({"heldout": np.zeros((0, 8, 8), np.uint8)}, "heldout: "),
        ({"train": None}, "train: no file"),
        ({"gen": np.array([{}], object)}, "gen: cannot read"),
    ],
)
def test_bad_sets(evaluate, change, message):
    status, out, err = evaluate(**(digits(0) | change))
    assert (status, out) == (2, "")
    assert err.startswith(f"biasgen eval: {message}")
    assert err.count("\n") == 1


def test_every_kind_of_input(evaluate, command, tmp_path):
    sets = digits(planted=18)
    _, whole, _ = evaluate("--json", "-", **sets)
    torch.save({"images": torch.from_numpy(sets["gen"]), "labels": torch.zeros(599)}, "gen.pt")
    (tmp_path / "gen").mkdir()
    for i, row in enumerate(sets["gen"]):
        Image.fromarray(row).save(f"gen/{i:03}.png")
    for gen, shape in (("gen.pt:images", (599, 8, 8)), ("gen", (599, 8, 8, 1))):     # images in a folder have channels
        TrainingSet(sets["train"].reshape(shape)).save("train.biasgen")
        np.savez("heldout.npz", labels=np.zeros(599), arr_0=sets["heldout"].reshape(shape))
        assert command("eval", "--train=train.biasgen", f"--gen={gen}", "--heldout=heldout.npz", "--json", "-") == (0, whole, "")


def test_bad_distance(evaluate):
    status, _, err = evaluate("--distance", "l2", **digits(0))
    assert status == 2
    assert "say 'sqeuclidean'" in err


def test_mirrored_copies_are_found_in_their_view(evaluate):
    sets = digits(planted=18)
    sets["gen"] = sets["gen"].copy()
    sets["gen"][:18] = sets["gen"][:18, :, ::-1]
    found = {}
    for views in ("identity", "identity,hflip"):
        status, out, err = evaluate("--json", "-", "--views", views, **sets)
        assert (status, err) == (0, "")
        report = json.loads(out)
        assert report["params"]["views"] == views.split(",")
        found[views] = report["metrics"]["near_copies"]["value"]
    assert found["identity,hflip"] >= 0.03 > found["identity"]
    assert "; views identity, hflip\n" in evaluate("--views", "identity,hflip", **sets)[1]


@pytest.mark.parametrize("verb", ["eval", "nn"])
def test_help_names_every_distance(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"{', '.join(DISTANCES)}; default: hamming" in text
