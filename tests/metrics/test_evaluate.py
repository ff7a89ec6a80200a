"""evaluate: the same numbers as the metrics one by one, the checks of the sets, strict JSON, a table that lines up."""
import hashlib
import json
from unittest import mock

import numpy as np
import pytest
import torch

from biasgen.data.hygiene import ContentDisjoint
from biasgen.data.training_set import TrainingSet
from biasgen.metrics import evaluate as module
from biasgen.metrics.evaluate import evaluate
from biasgen.metrics.near_copies import near_copies
from biasgen.metrics.nn_divergence import nn_divergence
from biasgen.metrics.self_test import self_test
from biasgen.metrics.train_affinity import train_affinity
from biasgen.results import Record, Result, json_safe


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    gen, train, heldout = (rng.integers(0, 3, (n, 8)).astype(np.int8) for n in (300, 100, 200))
    gen[:10] = train[:10]
    return {"gen": gen, "train": train, "heldout": heldout}


@pytest.fixture(scope="module")
def report(sets):
    return evaluate(**sets, permutations=199, seed=3)


def test_numbers_are_those_of_the_metrics(sets, report):
    settings = {"permutations": 199, "seed": 3}
    copies = near_copies(**sets, **settings)
    assert copies.params["threshold"] is None or copies.params["threshold"] >= 0
    expected = {
        "train_affinity": train_affinity(**sets, **settings),
        "near_copies": copies,
        "nn_divergence": nn_divergence(**sets, **settings),
    }
    if copies.params["threshold"] is not None:
        expected["near_affinity"] = train_affinity(**sets, within=copies.params["threshold"], **settings)
    for name, result in expected.items():
        assert report.metrics[name].as_dict() == result.as_dict()
    assert list(report.metrics) == ["train_affinity", "near_affinity", "near_copies", "nn_divergence", "nn_auc"]


def test_near_affinity_is_evaluated_at_the_threshold(sets):
    rng = np.random.default_rng(5)
    far = np.concatenate([sets["train"][:2], rng.integers(4, 8, (398, 8)).astype(np.int8)])     # held-out rows: two copies in 400
    report = evaluate(gen=sets["gen"], train=sets["train"], heldout=far, permutations=19)
    assert report.params["threshold"] == 0
    assert report.metrics["near_affinity"].value > 0.4
    assert report.metrics["near_copies"].p_value == report.metrics["near_affinity"].p_value


def test_a_saved_training_set_gives_the_same_report(sets, report, tmp_path):
    TrainingSet(sets["train"]).save(tmp_path / "train.biasgen")
    train = TrainingSet.load(tmp_path / "train.biasgen")
    read = module.describe
    with mock.patch.object(module, "describe", side_effect=lambda rows: 1 / 0 if rows is train else read(rows)):
        again = evaluate(**(sets | {"train": train}), permutations=199, seed=3)
    assert again.to_json() == report.to_json()


def test_bfloat16_rows_are_compared_as_the_numbers_they_are():
    rows = (torch.randint(0, 16, (90, 4, 4), generator=torch.Generator().manual_seed(0)) / 16).bfloat16()
    narrow, wide = (evaluate(gen=r[:30], train=r[30:60], heldout=r[60:], permutations=99) for r in (rows, rows.float()))
    assert narrow.table() == wide.table()
    assert narrow.sets["gen"]["dtype"] == "bfloat16"


def test_json_is_strict_and_complete(sets, report):
    record = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert list(record) == ["schema", "params", "sets", "metrics", "self_tests", "warnings"]
    assert record["schema"] == 1
    assert record["sets"]["train"] == {
        "n": 100,
        "distinct": len(np.unique(sets["train"], axis=0)),
        "dtype": "int8",
        "low": 0,
        "high": 2,
        "mean": pytest.approx(sets["train"].mean()),
        "sha256": hashlib.sha256(sets["train"].tobytes()).hexdigest(),
    }
    assert record["metrics"]["train_affinity"]["null"]["mean"] == pytest.approx(1 / 3)
    assert record["params"]["seed"] == 3
    assert record["warnings"] == []
    tests = self_test(train=sets["train"], heldout=sets["heldout"], seed=3)
    assert record["self_tests"] == {name: test.as_dict() for name, test in tests.items()}


def test_hash_does_not_depend_on_the_memory_layout(sets):
    fortran = {name: np.asfortranarray(rows) for name, rows in sets.items()}
    assert evaluate(**fortran, permutations=1).sets == evaluate(**sets, permutations=1).sets


def test_table_lines_up(report):
    lines = report.table().splitlines()[:-1]
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines] == ["metric", "train_affinity", "near_affinity", "near_copies", "nn_divergence", "nn_auc"]


def test_table_ends_with_the_self_test(report):
    affinity, shared = (report.self_tests[name].p_value for name in ("heldout_affinity", "shared_rows"))
    expected = f"self-test (train against held-out): passed, p = {affinity:.4f} (heldout_affinity), p = {shared:.4f} (shared_rows)"
    assert report.table().splitlines()[-1] == expected
    rows = np.zeros((1, 8), np.int8)
    single = evaluate(gen=rows, train=rows + 1, heldout=rows + 2, permutations=1)
    assert single.table().splitlines()[-1] == "self-test (train against held-out): not run, too few held-out rows"


def test_held_out_rows_of_another_pipeline_are_told(sets):
    report = evaluate(**sets | {"heldout": sets["heldout"] + 4}, permutations=19)
    [warning] = report.warnings
    assert warning.startswith("self-test (train against held-out) failed")
    assert "held-out rows are nearer to each other than to training rows" in warning
    assert report.table().splitlines()[-1] == warning
    assert json.loads(report.to_json())["warnings"] == [warning]


def test_alpha_is_that_of_near_copies(sets):
    report = evaluate(**sets, alpha=0.3, permutations=19)
    assert report.params["alpha"] == 0.3
    assert report.metrics["near_copies"].as_dict() == near_copies(**sets, alpha=0.3, permutations=19).as_dict()
    with pytest.raises(ValueError, match=r"^alpha: want a share in \(0, 1\), got 1$"):
        evaluate(**sets, alpha=1)


def test_sets_on_another_scale_are_refused_unless_they_are_symbols():
    images = np.random.default_rng(0).integers(0, 256, (60, 5)).astype(np.uint8)
    scaled = {"gen": images[:20] // 255, "train": images[20:40], "heldout": images[40:]}
    with pytest.raises(ValueError, match=r"^gen: want values on the scale of train, .*: all within 0 \.\. 1$"):
        evaluate(**scaled)
    assert evaluate(**scaled, distance="hamming", permutations=1).params["distance"] == "hamming"


def test_rows_filtered_by_content_are_refused(sets):
    with pytest.raises(ValueError, match=r"^heldout: filtered by content"):
        evaluate(**sets | {"heldout": ContentDisjoint(sets["heldout"])})


def test_json_safe_replaces_what_json_does_not_have():
    result = Result(float("nan"), ci=(float("-inf"), np.float64(1.5)), per_sample=np.zeros(3), params={"v": np.int64(2), "a": np.arange(2)})
    record = Record(step=1, seconds=0.5, scalars={"loss": float("inf")}, metrics={"x": result}).as_dict()
    assert record["scalars"] == {"loss": None}
    assert record["metrics"]["x"]["value"] is None
    assert record["metrics"]["x"]["ci"] == [None, 1.5]
    assert record["metrics"]["x"]["params"] == {"v": 2, "a": [0, 1]}
    assert "per_sample" not in record["metrics"]["x"]
    json.dumps(json_safe(record), allow_nan=False)
