"""The registry: a metric of a file of its own is found everywhere; what cannot be is refused."""

import importlib
import json
import sys

import numpy as np
import pytest

import biasgen
from biasgen.cli import main
from biasgen.metrics import register, registry
from biasgen.results import Result

RNG = np.random.default_rng(0)
GEN, TRAIN, HELDOUT = (RNG.integers(0, 3, (n, 8)).astype(np.int8) for n in (60, 40, 50))
SETS = {"gen": GEN, "train": TRAIN, "heldout": HELDOUT}
DEFAULT = ["train_affinity", "near_affinity", "near_copies", "nn_divergence", "nn_auc"]

DEMONSTRATION = '''"""Coverage: the share of held-out rows that have a generated row within a distance."""

from biasgen.metrics import register
from biasgen.results import Result


@register("demo_coverage")
def measure(comparison, *, radius=2):
    """Share of the held-out rows whose nearest generated row lies within `radius`."""
    distances = comparison.nearest("heldout", "gen").distances[:, 0]
    return Result(float((distances <= radius).mean()), params=comparison.params | {"radius": radius})
'''


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What a test registers is gone after it."""
    registry.known()
    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed(module, text, name): a package of one module, with the metric as its entry point."""

    def install(module, text, name):
        (tmp_path / f"{module}.py").write_text(text)
        folder = tmp_path / f"{module}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[biasgen.metrics]\n{name} = {module}\n")
        monkeypatch.setitem(sys.modules, module, None)  # the module is forgotten after the test
        del sys.modules[module]
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()

    return install


def sampler(model, n, *, seed, offset=0):
    return GEN[:n]


def monitor_of(**options):
    options = {"sampler": sampler, "n_samples": 60, "every": 1} | options
    return biasgen.BiasMonitor(train=TRAIN, heldout=HELDOUT, **options)


def monitored(**options):
    monitor = monitor_of(**options)
    monitor.step(1, None)
    return monitor


@pytest.mark.filterwarnings("ignore:heldout. its smallest distances:RuntimeWarning")
def test_a_metric_of_its_own_file_is_seen_everywhere(installed, tmp_path, monkeypatch, capsys):
    installed("demo_coverage_file", DEMONSTRATION, "demo_coverage")
    gap = (HELDOUT[:, None] != GEN).sum(2).min(1)
    value = float((gap <= 2).mean())

    report = biasgen.evaluate(**SETS, metrics=["demo_coverage", "nn_auc"])
    assert list(report.metrics) == ["demo_coverage", "nn_auc"]
    assert report.metrics["demo_coverage"].value == value
    assert report.metrics["nn_auc"].as_dict() == biasgen.nn_auc(**SETS).as_dict()
    assert "demo_coverage" in report.table()
    written = json.loads(report.to_json())["metrics"]["demo_coverage"]
    assert (written["value"], written["params"]["radius"]) == (value, 2)
    exact = biasgen.evaluate(**SETS, metrics={"demo_coverage": {"radius": 0}}).metrics
    assert exact["demo_coverage"].value == (gap == 0).mean()

    monitor = monitored(metrics=["demo_coverage"], record=tmp_path / "record.jsonl")
    assert list(monitor.history[0].metrics) == [*DEFAULT, "demo_coverage"]
    line = json.loads((tmp_path / "record.jsonl").read_text().splitlines()[1])
    assert line["metrics"]["demo_coverage"]["value"] == value
    again = monitored(metrics={"demo_coverage": {}})
    again.load_state_dict(monitor.state_dict())
    assert again.history[0].metrics["demo_coverage"].value == value

    monkeypatch.chdir(tmp_path)
    for name, rows in SETS.items():
        np.save(f"{name}.npy", rows)
    files = [f"--{name}={name}.npy" for name in SETS]
    assert main(["eval", *files, "--metrics", "demo_coverage,nn_auc", "--json", "out.json"]) == 0
    assert "demo_coverage" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["metrics"]["demo_coverage"] == written
    assert main(["eval", *files, "--metrics", "nn_auc,coverage"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("biasgen eval: metrics: unknown 'coverage', want some of demo_coverage,")


def test_what_is_installed_does_not_change_the_default(installed):
    installed("demo_installed", DEMONSTRATION.replace("demo_coverage", "demo_installed"), "demo_installed")
    assert "demo_installed" in registry.known()
    assert list(biasgen.evaluate(**SETS, permutations=9).metrics) == DEFAULT


def test_an_entry_point_that_registers_nothing_is_named(installed):
    installed("demo_empty", '"""Nothing."""\n', "demo_nothing")
    with pytest.raises(ValueError, match=r"^metrics: entry point 'demo_nothing' \(demo_empty\)"):
        biasgen.evaluate(**SETS, metrics=["demo_nothing"])


def test_every_metric_of_this_package_is_known():
    assert {*DEFAULT, "nn_ks", "nn_wasserstein", "split_comparison"} <= set(registry.known())
    sets = SETS | {"gen": np.concatenate([GEN[:20], np.repeat(TRAIN[:4], 15, axis=0)])}
    settings = {"exact_copies": {"expected": 0.1}, "leakage": {"level": 0.2}}
    found = biasgen.evaluate(**sets, metrics=settings).metrics
    rows = biasgen.leakage(**sets, level=0.2).rows
    assert sorted(rows) == [0, 1, 2, 3]
    assert found["leakage"].value == 4
    assert found["leakage"].params["rows"] == rows.tolist()
    assert found["exact_copies"].value == (sets["gen"][:, None] == TRAIN).all(2).any(1).mean()


@pytest.mark.filterwarnings("ignore:heldout. its smallest distances:RuntimeWarning")
def test_settings_are_those_of_the_public_function():
    paper = biasgen.nn_divergence(**SETS, compat="paper", permutations=99)
    asked = {"nn_divergence": {"compat": "paper"}, "near_copies": {"alpha": 0.3}}
    report = biasgen.evaluate(**SETS, metrics=asked, permutations=99)
    copies = biasgen.near_copies(**SETS, alpha=0.3, permutations=99)
    assert report.metrics["nn_divergence"].as_dict() == paper.as_dict()
    assert report.metrics["near_copies"].as_dict() == copies.as_dict()
    assert report.params["alpha"] == 0.3
    assert "alpha" not in biasgen.evaluate(**SETS, metrics=["nn_auc"], permutations=9).params
    metrics = monitored(metrics=asked).history[0].metrics
    assert list(metrics) == DEFAULT
    assert metrics["nn_divergence"].params["compat"] == "paper"


def test_a_function_of_the_sets_is_a_metric_too():
    seen = {}

    def sizes(**sets):
        seen.update(sets)
        return {"size": Result(float(len(sets["gen"])))}

    assert biasgen.evaluate(**SETS, metrics=sizes).metrics["size"].value == 60
    assert seen == SETS


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        (["nn_aux"], ValueError, r"^metrics: unknown 'nn_aux', want some of exact_copies, .*nn_auc"),
        ("nn_aux", ValueError, r"^metrics: unknown 'nn_aux'"),
        ({"nn_auc": {"level": 1}}, ValueError, r"^metrics: settings of 'nn_auc': .*'level'"),
        (["exact_copies"], ValueError, r"^metrics: settings of 'exact_copies': .*'expected'"),
        ({"nn_auc": 0.1}, TypeError, r"^metrics: want a dict of settings of 'nn_auc', got 0.1"),
        (3, TypeError, r"^metrics: want names, \{name: settings\} or a function, got 3"),
        ([{"nn_auc": {}}], TypeError, r"^metrics: want names, \{name: settings\} or a function"),
        (
            ["split_comparison"],
            ValueError,
            r"^metrics: 'split_comparison' needs twin_gen and twin_train, not given here",
        ),
    ],
)
def test_metrics_that_cannot_be_measured_are_refused_before_any_work(
    metrics, error, message, monkeypatch
):
    monkeypatch.setattr("biasgen.metrics.comparison.knn", lambda *_, **__: pytest.fail("searched"))
    monkeypatch.setattr("biasgen.monitor.core.describe", lambda *_: pytest.fail("read"))
    with pytest.raises(error, match=message):
        biasgen.evaluate(**SETS, metrics=metrics)
    with pytest.raises(error, match=message):
        monitored(metrics=metrics)


@pytest.mark.filterwarnings("ignore:heldout. its smallest distances:RuntimeWarning")
@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (0.5, TypeError, "returned float, want a Result or {name: Result}"),
        (None, TypeError, "returned NoneType, want"),
        ({"x": 0.5}, TypeError, "returned float for 'x', want"),
        ({3: Result(0.5)}, TypeError, "returned Result for 3, want"),
        (Result("high"), TypeError, "returned a Result whose value is str, want a number"),
        ({"nn_auc": Result(0.5)}, ValueError, "returned nn_auc, which another metric returned"),
    ],
)
def test_what_a_metric_returns_is_checked_before_it_is_recorded(returned, error, message):
    register("demo")(lambda comparison: returned)
    with pytest.raises(error) as raised:
        biasgen.evaluate(**SETS, metrics=["nn_auc", "demo"], permutations=9)
    assert str(raised.value).startswith(f"metrics: 'demo' {message}")

    def of_sets(**sets):
        return returned

    for metrics, name in ((["demo"], "demo"), (of_sets, "of_sets")):
        monitor = monitor_of(metrics=metrics)
        with pytest.raises(error) as raised:
            monitor.step(1, None)
        assert str(raised.value).startswith(f"metrics: {name!r} {message}")
        assert monitor.history == []


def test_register():
    def one(comparison):
        return Result(1.0)

    assert register("demo_one", needs=["gen"])(one) is one
    assert registry.find("demo_one").needs == ("gen",)
    register("demo_one")(one)  # a notebook's cell may run twice
    assert biasgen.evaluate(**SETS, metrics="demo_one").metrics["demo_one"].value == 1
    other = lambda comparison: Result(2.0)  # noqa: E731
    other.__module__ = "another.module"
    with pytest.raises(ValueError, match=r"^name: 'demo_one' is a metric of both .* and another.mod"):
        register("demo_one")(other)
    with pytest.raises(ValueError, match=r"^name: want an identifier, got 'demo one'"):
        register("demo one")
    with pytest.raises(ValueError, match=r"^needs: want some of gen, .*, got 'tarin'"):
        register("demo_two", needs=("gen", "tarin"))
