"""BiasMonitor: what it records, when it says that bias began, what it may cost."""
import json
from types import SimpleNamespace

import numpy as np
import pytest

from biasgen import BiasMonitor, EmpiricalDenoiser, Schedule, TreeDenoiser, TreeGrammar
from biasgen.report.records import read_record
from biasgen.results import Onset

GRAMMAR, SCHEDULE = TreeGrammar.random(), Schedule.linear()
ROWS = GRAMMAR.sample(1200, seed=0)
SETS = {"train": ROWS[:200], "heldout": ROWS[400:]}


def fresh_rows(model, n, *, seed, offset=0):
    return GRAMMAR.sample(n, seed=seed + 100, offset=offset)


def copying(model, n, *, seed, offset=0):
    return np.resize(SETS["train"], (n, 16))


def test_records(tmp_path):
    monitor = BiasMonitor(**SETS, sampler=fresh_rows, n_samples=300, every=10, record=tmp_path / "run" / "record.jsonl", params={"lr": 0.1})
    assert [step for step in range(41) if monitor.step(step, None, heldout_loss=1.5) is not None] == [10, 20, 30, 40]
    header, *lines = [json.loads(line) for line in (tmp_path / "run" / "record.jsonl").read_text().splitlines()]
    assert header["schema"] == 1
    assert header["params"]["lr"] == 0.1
    assert header["params"]["sets"]["train"]["n"] == 200
    assert header["params"]["sets"]["heldout"]["high"] == 5
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    for line, record in zip(lines, monitor.history, strict=True):
        assert set(line) == {"step", "seconds", "scalars", "metrics"}
        assert line["scalars"] == {"heldout_loss": 1.5}
        assert 0 < line["seconds"] < 60
        affinity = line["metrics"]["train_affinity"]
        assert affinity["value"] == record.metrics["train_affinity"].value
        assert affinity["null"]["mean"] == pytest.approx(200 / 1000)
        assert "per_sample" not in affinity
    assert 0 < sum(line["seconds"] for line in lines) < monitor.seconds, "preparing counts too"
    assert lines[0]["metrics"] == lines[1]["metrics"], "the same model and seed must give the same numbers"


def test_copies_are_seen_and_fresh_rows_are_not():
    for sampler, low, high in ((copying, 0, 0.01), (fresh_rows, 0.02, 1)):
        record = BiasMonitor(**SETS, sampler=sampler, n_samples=500, every=1).step(1, None)
        assert low <= record.metrics["train_affinity"].p_value <= high


def test_twin():
    monitor = BiasMonitor(**SETS, twin_train=ROWS[200:400], sampler=fresh_rows, n_samples=300, every=[5])
    record = monitor.step(5, "a", twin="b")
    assert record.metrics["own_share"].null.mean == 0.5
    assert set(record.metrics) == {
        *("own_share", "near_own_share", "kl_own", "kl_placebo", "auc_own", "auc_placebo", "near_copies", "twin_distance")
    }


def test_extra_metrics():
    from biasgen.results import Result

    seen = {}

    def count(*, gen, train, heldout):
        seen.update(gen=len(gen), train=len(train), heldout=len(heldout))
        return {"count": Result(float(len(gen)))}

    record = BiasMonitor(**SETS, sampler=fresh_rows, n_samples=50, every=1, metrics=count).step(1, None)
    assert record.metrics["count"].value == 50
    assert seen == {"gen": 50, "train": 200, "heldout": 800}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"every": 0}, "every"),
        ({"every": [3, 2]}, "every"),
        ({"every": []}, "every"),
        ({"n_samples": 0}, "n_samples"),
        ({"probe_rows": 0}, "probe_rows"),
        ({"looks": 0}, "looks"),
        ({"alpha": 1.0}, "alpha"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"max_fraction": 0.0}, "max_fraction"),
        ({"sampler": None}, "sampler, denoiser"),
        ({"schedule": SCHEDULE}, "denoiser, schedule"),
        ({"denoiser": fresh_rows}, "denoiser, schedule"),
        ({"denoiser": lambda model, x_t, level: x_t, "schedule": SCHEDULE, "probe_t": 0}, "probe_t"),
        ({"denoiser": lambda x_t, level: x_t, "schedule": SCHEDULE}, "denoiser"),
        ({"sampler": lambda model, n: ROWS[:n]}, "sampler"),
        ({"sampler": None, "denoiser": lambda model, x_t, level: x_t, "schedule": SCHEDULE, "distance": "hamming"}, "distance, metrics"),
        ({"heldout": SETS["train"].copy()}, "heldout"),
        ({"twin_train": SETS["train"]}, "twin_train"),
        ({"train": ROWS[:200].astype(np.uint8) * 40, "heldout": ROWS[400:].astype(np.uint8) % 2}, "heldout"),
        ({"train": ROWS[:0]}, "train"),
        ({"heldout": ROWS[:9, :15]}, "heldout"),
        ({"distance": "l2"}, "distance"),
    ],
)
def test_bad_settings_are_refused_at_once(options, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        BiasMonitor(**(SETS | {"sampler": fresh_rows} | options))


def test_twin_goes_with_twin_train():
    with pytest.raises(ValueError, match=r"^twin: "):
        BiasMonitor(**SETS, sampler=fresh_rows, every=1).step(1, None, twin="b")


def test_a_sampler_that_returns_too_little():
    monitor = BiasMonitor(**SETS, sampler=lambda model, n, *, seed, offset=0: ROWS[: n - 1], n_samples=10, every=1)
    with pytest.raises(ValueError, match=r"^sampler: asked for 10 rows, got 9"):
        monitor.step(1, None)


def doses(shares, **options):
    """Monitor of a run whose sample at step i holds that share of training rows; evaluated at 1..len(shares)."""

    def sampler(share, n, *, seed, offset=0):
        rows = GRAMMAR.sample(n, seed=seed + 100, offset=offset)
        copies = round(share * n)
        rows[:copies] = np.resize(SETS["train"], (copies, 16))
        return rows

    monitor = BiasMonitor(**SETS | {"sampler": sampler, "n_samples": 500, "every": 1, "looks": len(shares)} | options)
    for step, share in enumerate(shares, start=1):
        monitor.step(step, share)
    return monitor


def test_onset_detected_none_inconclusive():
    onset = doses([0, 0, 0, 0.4, 0.4, 0.4, 0.5, 0.5]).onset
    assert (onset.status, onset.step, onset.looks, onset.alpha) == ("detected", 4, 8, 0.05)
    assert onset.statistic in ("train_affinity", "near_affinity")
    assert not onset.censored
    assert onset.interval[0] > 0
    assert doses([0.4, 0] * 4).onset.status == "none", "two in a row are asked for"
    none = doses([0] * 8).onset
    assert (none.status, none.step) == ("none", None)
    assert none.interval[0] < 0 < none.interval[1]
    assert doses([0] * 7).onset.status == "inconclusive"
    assert doses([0.4] * 3, looks=10).onset.status == "detected"
    assert doses([0.4] * 3, looks=10).onset.censored, "it may have begun before the first evaluation"
    assert doses([0.4] * 8, tolerance=0.9).onset.status == "none"
    assert doses([], looks=8).onset == Onset("inconclusive", None, None, "train_affinity", 0.05, 0)


def test_a_small_share_of_copies_is_seen_by_near_affinity():
    assert doses([0.05] * 8).onset.statistic == "near_affinity"


def test_the_record_ends_in_the_onset(tmp_path):
    monitor = doses([0] * 8, record=tmp_path / "r.jsonl")
    assert read_record(tmp_path / "r.jsonl")[2] is None
    with monitor:
        pass
    monitor.close()
    assert len(read_record(tmp_path / "r.jsonl")[1]) == 8, "the second time it writes nothing"
    with pytest.raises(ValueError, match=r"^step: the monitor was closed"):
        monitor.step(9, 0)
    assert read_record(tmp_path / "r.jsonl")[2] == json.loads(json.dumps(monitor.onset.as_dict()))
    assert len(read_record(tmp_path / "r.jsonl")[1]) == 8


def test_turning_point():
    monitor = doses([0.6, 0.3, 0, 0.3, 0.6])
    point = monitor.turning_point
    assert point.step == 3
    assert point.interval[0] <= 3 <= point.interval[1]
    assert not point.censored
    assert point.inside_null
    assert not doses([0.6, 0.5, 0.6]).turning_point.inside_null
    assert doses([0.6, 0.3]).turning_point.censored
    assert doses([0.1]).turning_point is None


def probe_monitor(**options):
    exact, memorized = TreeDenoiser(GRAMMAR), EmpiricalDenoiser(SETS["train"], encode=None)

    def denoiser(weight, x_t, level):
        return (1 - weight) * exact(x_t, level) + weight * memorized(x_t, level)

    return BiasMonitor(**SETS, denoiser=denoiser, schedule=SCHEDULE, probe_rows=300, every=1, looks=8, **options)


def test_probe_mode_needs_no_sampler():
    monitor = probe_monitor()
    for step, weight in enumerate([0, 0, 0, 0.5, 0.5, 0.6, 0.7, 0.8], start=1):
        monitor.step(step, weight)
    values = [r.metrics["alignment"].value for r in monitor.history]
    assert set(monitor.history[0].metrics) == {"alignment"}
    assert values[0] == values[1] == values[2]
    np.testing.assert_allclose(values[3:], [w + (1 - w) * values[0] for w in (0.5, 0.5, 0.6, 0.7, 0.8)], atol=1e-4)
    assert (monitor.onset.status, monitor.onset.step, monitor.onset.statistic) == ("detected", 4, "alignment")
    assert monitor.turning_point is None


def test_sets_of_two_pipelines_are_called_so():
    other = np.where(np.arange(len(ROWS[400:]))[:, None] % 2, ROWS[400:], (ROWS[400:] + 1) % 6)
    with pytest.warns(RuntimeWarning, match="self-test"):
        BiasMonitor(train=ROWS[:400], heldout=other, sampler=fresh_rows)


def images(seed, n=300):
    return np.random.default_rng(seed).integers(0, 256, size=(n, 4, 4), dtype=np.uint8)


def test_samples_on_another_scale():
    """An error at the first evaluation, which can be mended; a warning later, when the model may have collapsed."""
    sets = {"train": images(0), "heldout": images(1)}
    monitor = BiasMonitor(**sets, sampler=lambda scale, n, *, seed, offset=0: images(2, n) // scale, n_samples=50, every=1)
    with pytest.raises(ValueError, match=r"^gen: want values on the scale of train"):
        monitor.step(1, 255)
    monitor.step(2, 1)
    with pytest.warns(RuntimeWarning, match=r"^gen: want values on the scale of train"):
        monitor.step(3, 255)
    assert len(monitor.history) == 2


def test_twin_sets_of_two_pipelines_are_called_so():
    with pytest.warns(RuntimeWarning, match="self-test"):
        BiasMonitor(train=images(0), twin_train=images(3) // 2 + 60, heldout=images(1), sampler=fresh_rows)


def test_no_threshold_is_said():
    with pytest.warns(RuntimeWarning, match=r"^heldout: .*at least 100"):
        BiasMonitor(train=SETS["train"], heldout=SETS["heldout"][:40], sampler=fresh_rows)


def test_beyond_the_plan_alpha_grows_and_that_is_said():
    monitor = doses([0] * 8)
    with pytest.warns(RuntimeWarning, match=r"^looks: 8 evaluations were planned"):
        monitor.step(9, 0)
    assert monitor.onset.alpha == pytest.approx(0.05 * 9 / 8)


def test_steps_increase():
    monitor = BiasMonitor(**SETS, sampler=fresh_rows, n_samples=50, every=5)
    monitor.step(10, None)
    for step in (10, 5):
        with pytest.raises(ValueError, match=rf"^step: want increasing steps, got {step} after 10; .*load_state_dict"):
            monitor.step(step, None)
    assert monitor.step(7, None) is None, "not due"
    assert monitor.onset.looks == 1


def test_tokens_of_any_integer_type():
    monitor = BiasMonitor(**SETS, sampler=lambda model, n, *, seed, offset=0: ROWS[:n].astype(np.int64), n_samples=50, every=1)
    assert monitor.step(1, None).metrics["train_affinity"].n_gen == 50


def test_twins_that_do_not_differ_are_not_biased():
    options = {"twin_train": ROWS[200:400], "denoiser": lambda model, x_t, level: x_t.softmax(-1), "schedule": SCHEDULE}
    result = BiasMonitor(**SETS, **options, probe_rows=100, every=1).step(1, "a", twin="b").metrics["alignment"]
    assert (result.value, result.p_value) == (0.0, 1.0)


def test_the_rows_that_are_noised_are_not_the_reference(monkeypatch):
    seen = []
    monkeypatch.setattr("biasgen.monitor.evaluation.AlignmentProbe", lambda **options: seen.append(options))
    sets = {"train": np.arange(100)[:, None], "heldout": np.arange(100, 400)[:, None]}
    options = {"denoiser": lambda model, x_t, level: x_t, "schedule": SCHEDULE}
    BiasMonitor(**sets, **options, probe_rows=1000)
    BiasMonitor(**sets, **options, twin_train=np.arange(400, 500)[:, None], probe_rows=60)
    one, two = ({name: set(options[name].ravel().tolist()) for name in ("train", "heldout", "probe")} for options in seen)
    assert len(one["probe"]) == 150, "at most half of the held-out rows"
    assert one["probe"] | one["heldout"] == set(range(100, 400))
    assert not one["probe"] & one["heldout"]
    assert two["heldout"] == set(range(400, 500))
    assert len(two["probe"]) == 60
    assert two["probe"] < set(range(100, 400))


def test_permutations_reach_the_level():
    record = BiasMonitor(**SETS, sampler=fresh_rows, n_samples=50, every=1, looks=200).step(1, None)
    assert record.metrics["train_affinity"].params["permutations"] == 39_999     # 5 / (.05 / (2 * 200)) - 1


def test_power():
    power = BiasMonitor(**SETS, sampler=fresh_rows, n_samples=400, looks=10).power
    assert (power.n, power.m, power.h, power.looks, power.statistics, power.null) == (400, 200, 800, 10, 2, 0.2)
    assert power.hubness > 1.2, "some training rows are nearest more often than others"
    assert 0.2 < power.affinity < 0.6
    assert "400 samples" in power.sentence()
    assert probe_monitor().power is None


def test_with_both_modes_samples_decide():
    monitor = probe_monitor(sampler=lambda weight, n, *, seed, offset=0: GRAMMAR.sample(n, seed=9), n_samples=200)
    monitor.step(1, 0.0)
    assert monitor.watched == ("train_affinity", "near_affinity")
    assert {"alignment", *monitor.watched} < set(monitor.history[0].metrics)


@pytest.fixture
def budgeted(monkeypatch):
    """Runs 40 steps of 2 s by a clock of its own, on which drawing samples takes 1 s and nothing else takes any time."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("biasgen.monitor.core.time", SimpleNamespace(perf_counter=lambda: clock.now))

    def sampler(model, n, *, seed, offset=0):
        clock.now += 1
        return GRAMMAR.sample(n, seed=1)

    def run(max_fraction, looks=40):
        monitor = BiasMonitor(**SETS, sampler=sampler, n_samples=20, every=1, looks=looks, max_fraction=max_fraction)
        for step in range(1, 41):
            clock.now += 2
            monitor.step(step, None)
        return monitor

    return run


def test_budget_counts_sampling(budgeted):
    """A quarter of the training time pays for one evaluation of 1 s in two steps of 2 s; the first is due before its cost is known."""
    monitor = budgeted(0.25)
    assert [r.step for r in monitor.history] == [1, *range(4, 41, 2)]
    assert monitor.seconds == 20
    assert sorted([*monitor.skipped, *(r.step for r in monitor.history)]) == list(range(1, 41))


def test_budget_leaves_out_but_not_below_eight(budgeted):
    with pytest.warns(RuntimeWarning, match="max_fraction") as caught:
        monitor = budgeted(1e-6)
    assert [r.step for r in monitor.history] == [1, 10, 15, 20, 25, 30, 35, 40], "the fewest that the plan needs, spread over it"
    assert len(monitor.skipped) == 32
    assert all("of the training time so far" in str(w.message) for w in caught)
    assert monitor.onset.looks == 8
    assert monitor.onset.status != "inconclusive"


def test_budget_without_a_plan_makes_the_first_eight(budgeted):
    with pytest.warns(RuntimeWarning, match="max_fraction"):
        monitor = budgeted(1e-6, looks=None)
    assert [r.step for r in monitor.history] == list(range(1, 9))


def test_budget_that_suffices_leaves_nothing_out(budgeted):
    assert not budgeted(1.0).skipped
    assert not budgeted(None).skipped
