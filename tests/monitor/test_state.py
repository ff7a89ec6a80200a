"""A monitor in a training checkpoint: it continues where it was, and its record with it."""
import json

import numpy as np
import pytest
import torch

from biasgen import BiasMonitor, TreeGrammar

GRAMMAR = TreeGrammar.random()
ROWS = GRAMMAR.sample(900, seed=0)
SETS = {"train": ROWS[:200], "twin_train": ROWS[200:400], "heldout": ROWS[400:]}


def sampler(model, n, *, seed, offset=0):
    return GRAMMAR.sample(n, seed=seed + model, offset=offset)


def monitor_of(path=None, **options):
    return BiasMonitor(**SETS | {"sampler": sampler, "n_samples": 200, "every": 2, "record": path} | options)


def run(monitor, steps):
    for step in steps:
        monitor.step(step, step, twin=step + 100, loss=1 / step)


def without_seconds(path):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def test_interrupted_and_continued_equals_in_one_go(tmp_path):
    whole = monitor_of(tmp_path / "whole.jsonl")
    run(whole, range(1, 13))
    whole.close()

    first = monitor_of(tmp_path / "parts.jsonl")
    run(first, range(1, 7))
    torch.save(first.state_dict(), tmp_path / "checkpoint.pt")
    run(first, range(7, 10))     # lost with the crash: the checkpoint is older
    first.close()

    second = monitor_of(tmp_path / "parts.jsonl")
    second.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert [r.step for r in second.history] == [2, 4, 6]
    assert len(without_seconds(tmp_path / "parts.jsonl")) == 4
    run(second, range(7, 13))
    second.close()
    assert without_seconds(tmp_path / "parts.jsonl") == without_seconds(tmp_path / "whole.jsonl")
    assert second.onset == whole.onset
    assert second.turning_point == whole.turning_point
    assert second.seconds > sum(r.seconds for r in second.history)
    old = monitor_of()
    old.load_state_dict(second.state_dict() | {"seconds": 10.0, "elapsed": 1010.0})
    assert old.fraction == pytest.approx(0.01, rel=0.05), "the budget counts the time before the interruption"
    np.testing.assert_array_equal(second.history[1].metrics["kl_own"].per_sample, whole.history[1].metrics["kl_own"].per_sample)


def test_an_existing_record_is_not_overwritten(tmp_path):
    (tmp_path / "r.jsonl").write_text("kept")
    with pytest.raises(ValueError, match=r"^record: "):
        monitor_of(tmp_path / "r.jsonl")
    assert (tmp_path / "r.jsonl").read_text() == "kept"


def test_another_run_is_not_overwritten(tmp_path):
    run(monitor_of(tmp_path / "r.jsonl"), [2])
    before = (tmp_path / "r.jsonl").read_text()
    with pytest.raises(ValueError, match=r"^record: .* not of this run"):
        monitor_of(tmp_path / "r.jsonl", seed=1)
    forgotten = monitor_of(tmp_path / "r.jsonl")     # the state was not loaded: the first step says so
    with pytest.raises(ValueError, match=r"^record: .*load_state_dict"):
        forgotten.step(1, 1, twin=2)
    forgotten.close()
    assert (tmp_path / "r.jsonl").read_text() == before


def test_state_of_other_rows():
    with pytest.raises(ValueError, match=r"^state: was saved with sets = "):
        monitor_of(train=ROWS[1:201]).load_state_dict(monitor_of().state_dict())


@pytest.mark.parametrize(("name", "options"), [("seed", {"seed": 5}), ("n_samples", {"n_samples": 100}), ("every", {"every": 3})])
def test_state_of_other_settings(name, options):
    with pytest.raises(ValueError, match=f"^state: was saved with {name} = "):
        monitor_of(**options).load_state_dict(monitor_of().state_dict())


def test_state_of_another_schema():
    with pytest.raises(ValueError, match=r"^state: want schema"):
        monitor_of().load_state_dict(monitor_of().state_dict() | {"schema": 99})
