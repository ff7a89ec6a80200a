"""evaluate: the same numbers as the metrics one by one, strict JSON, a table that lines up."""
import hashlib
import json

import numpy as np
import pytest

from biasgen.metrics.evaluate import evaluate
from biasgen.metrics.near_copies import near_copies
from biasgen.metrics.nn_divergence import nn_divergence
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
    assert list(report.metrics) == ["train_affinity", "near_affinity", "near_copies", "nn_divergence"]


def test_near_affinity_is_evaluated_at_the_threshold(sets):
    rng = np.random.default_rng(5)
    far = np.concatenate([sets["train"][:2], rng.integers(4, 8, (398, 8)).astype(np.int8)])     # held-out rows: two copies in 400
    report = evaluate(gen=sets["gen"], train=sets["train"], heldout=far, permutations=19)
    assert report.params["threshold"] == 0
    assert report.metrics["near_affinity"].value > 0.4
    assert report.metrics["near_copies"].p_value == report.metrics["near_affinity"].p_value


def test_json_is_strict_and_complete(sets, report):
    record = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert list(record) == ["schema", "params", "sets", "metrics"]
    assert record["schema"] == 1
    assert record["sets"]["train"] == {
        "n": 100,
        "distinct": len(np.unique(sets["train"], axis=0)),
        "dtype": "int8",
        "sha256": hashlib.sha256(sets["train"].tobytes()).hexdigest(),
    }
    assert record["metrics"]["train_affinity"]["null"]["mean"] == pytest.approx(1 / 3)
    assert record["params"]["seed"] == 3


def test_hash_does_not_depend_on_the_memory_layout(sets):
    fortran = {name: np.asfortranarray(rows) for name, rows in sets.items()}
    assert evaluate(**fortran, permutations=1).sets == evaluate(**sets, permutations=1).sets


def test_table_lines_up(report):
    lines = report.table().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines] == ["metric", "train_affinity", "near_affinity", "near_copies", "nn_divergence"]


def test_json_safe_replaces_what_json_does_not_have():
    result = Result(float("nan"), ci=(float("-inf"), np.float64(1.5)), per_sample=np.zeros(3), params={"v": np.int64(2), "a": np.arange(2)})
    record = Record(step=1, seconds=0.5, scalars={"loss": float("inf")}, metrics={"x": result}).as_dict()
    assert record["scalars"] == {"loss": None}
    assert record["metrics"]["x"]["value"] is None
    assert record["metrics"]["x"]["ci"] == [None, 1.5]
    assert record["metrics"]["x"]["params"] == {"v": 2, "a": [0, 1]}
    assert "per_sample" not in record["metrics"]["x"]
    json.dumps(json_safe(record), allow_nan=False)
