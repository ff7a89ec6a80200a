"""BiasMonitor: what it records, and that training never notices it."""
import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from biasgen import BiasMonitor, TreeGrammar

GRAMMAR = TreeGrammar.random()
ROWS = GRAMMAR.sample(1200, seed=0)
SETS = {"train": ROWS[:200], "heldout": ROWS[400:]}


def fresh_rows(model, n, *, seed, offset=0):
    return GRAMMAR.sample(n, seed=seed + 100, offset=offset)


def copying(model, n, *, seed, offset=0):
    return np.resize(SETS["train"], (n, 16))


def careless(model, n, *, generator):
    """A sampler that moves every global generator, the module's buffers' mode, and reads gradients' mode."""
    assert not torch.is_grad_enabled()
    assert not model.training
    assert not any(m.training for m in model.modules())
    torch.randn(7)
    torch.rand(3, generator=generator)
    np.random.rand(5)
    random.random()
    return GRAMMAR.sample(n, seed=1)


def test_records(tmp_path):
    monitor = BiasMonitor(**SETS, sampler=fresh_rows, n_samples=300, every=10, record=tmp_path / "run" / "record.jsonl", params={"lr": 0.1})
    assert [step for step in range(41) if monitor.step(step, None, heldout_loss=1.5) is not None] == [10, 20, 30, 40]
    header, *lines = [json.loads(line) for line in (tmp_path / "run" / "record.jsonl").read_text().splitlines()]
    assert header["schema"] == 1
    assert header["params"]["lr"] == 0.1
    assert header["params"]["n_train"] == 200
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    for line, record in zip(lines, monitor.history, strict=True):
        assert set(line) == {"step", "seconds", "scalars", "metrics"}
        assert line["scalars"] == {"heldout_loss": 1.5}
        assert 0 < line["seconds"] < 60
        affinity = line["metrics"]["train_affinity"]
        assert affinity["value"] == record.metrics["train_affinity"].value
        assert affinity["null"]["mean"] == pytest.approx(200 / 1000)
        assert "per_sample" not in affinity
    assert sum(line["seconds"] for line in lines) == pytest.approx(monitor.seconds)
    assert lines[0]["metrics"] == lines[1]["metrics"], "the same model and seed must give the same numbers"


def test_copies_are_seen_and_fresh_rows_are_not():
    for sampler, low, high in ((copying, 0, 0.01), (fresh_rows, 0.02, 1)):
        record = BiasMonitor(**SETS, sampler=sampler, n_samples=500, every=1).step(1, None)
        assert low <= record.metrics["train_affinity"].p_value <= high


def test_twin():
    monitor = BiasMonitor(**SETS, twin_train=ROWS[200:400], sampler=fresh_rows, n_samples=300, every=[5])
    record = monitor.step(5, "a", twin="b")
    assert record.metrics["own_share"].null.mean == 0.5
    assert {"own_share", "near_own_share", "kl_own", "kl_placebo", "near_copies"} == set(record.metrics)


def test_extra_metrics():
    from biasgen.results import Result

    seen = {}

    def count(*, gen, train, heldout):
        seen.update(gen=len(gen), train=len(train), heldout=len(heldout))
        return {"count": Result(float(len(gen)))}

    record = BiasMonitor(**SETS, sampler=fresh_rows, n_samples=50, every=1, metrics=count).step(1, None)
    assert record.metrics["count"].value == 50
    assert seen == {"gen": 50, "train": 200, "heldout": 800}


def train(monitor_factory):
    """A few steps with BatchNorm, dropout and noise from all three global generators; returns the weights."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 16))
    model[2].eval()   # a mode of its own, which must come back
    optimizer = torch.optim.Adam(model.parameters())
    monitor = monitor_factory() if monitor_factory else None
    for step in range(1, 13):
        x = torch.from_numpy(SETS["train"][np.random.randint(0, 200, 32)]).float() + random.random()
        loss = (model(x + torch.randn_like(x)) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if monitor:
            monitor.step(step, model, train_loss=loss.item())
            assert model.training
            assert not model[2].training
            assert model[1].training
    if monitor:
        assert len(monitor.history) == 6
        assert all(np.isfinite(r.metrics["train_affinity"].value) for r in monitor.history)
    return torch.cat([p.detach().flatten() for p in [*model.parameters(), *model.buffers()]])


def test_training_does_not_notice():
    plain = train(None)
    monitored = train(lambda: BiasMonitor(**SETS, sampler=careless, n_samples=100, every=2))
    assert torch.equal(plain, monitored)


def test_modes_and_generators_come_back_after_an_error():
    def broken(model, n, *, seed, offset=0):
        torch.randn(3)
        raise RuntimeError("no samples today")

    model = nn.Dropout()
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no samples today"):
        BiasMonitor(**SETS, sampler=broken, every=1).step(1, model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"every": 0}, "every"),
        ({"every": [3, 2]}, "every"),
        ({"every": []}, "every"),
        ({"n_samples": 0}, "n_samples"),
        ({"train": ROWS[:0]}, "rows"),
        ({"heldout": ROWS[:9, :15]}, "heldout"),
        ({"distance": "l2"}, "distance"),
    ],
)
def test_bad_settings_are_refused_at_once(options, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        BiasMonitor(**(SETS | {"sampler": fresh_rows} | options))


def test_an_existing_record_is_not_overwritten(tmp_path):
    (tmp_path / "r.jsonl").write_text("kept")
    with pytest.raises(ValueError, match=r"^record: "):
        BiasMonitor(**SETS, sampler=fresh_rows, record=tmp_path / "r.jsonl")
    assert (tmp_path / "r.jsonl").read_text() == "kept"


def test_twin_goes_with_twin_train():
    with pytest.raises(ValueError, match=r"^twin: "):
        BiasMonitor(**SETS, sampler=fresh_rows, every=1).step(1, None, twin="b")


def test_a_sampler_that_returns_too_little():
    monitor = BiasMonitor(**SETS, sampler=lambda model, n, *, seed, offset=0: ROWS[: n - 1], n_samples=10, every=1)
    with pytest.raises(ValueError, match=r"^sampler: asked for 10 rows, got 9"):
        monitor.step(1, None)
