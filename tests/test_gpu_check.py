"""`make gpu-check` without a GPU: its plan, its exit status, steps that are ended and resumed.

The steps here are stand-ins; tests/test_gpu_steps.py runs what the real ones do.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import check
from benchmarks.gpu.check import Step
from benchmarks.gpu.folder import Folder

PYTHON = [sys.executable, "-c"]
ABOUT = {"device": "Some GPU 80GB", "driver": "580", "torch": "2", "triton": "3", "nvcc": "13.0"}
WITHOUT = """
import runpy, sys
for name in ("torch", "triton", "numpy", "biasgen", "pytest"):
    sys.modules[name] = None
sys.argv[1:] = ["--plan"]
runpy.run_module("benchmarks.gpu.check", run_name="__main__")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return Folder(tmp_path / "out", "key")


def environment():
    """Of toy steps; without pytest's plugins, which take longer to import than the tests to run."""
    return os.environ | {"PYTHONPATH": str(check.ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def states(folder):
    return [(line["step"], line["state"]) for line in folder.lines() if "state" in line]


def items(folder, kind="passed"):
    return [line[kind] for line in folder.lines() if kind in line]


def test_the_plan_wants_neither_device_nor_packages(tmp_path):
    done = subprocess.run(
        [*PYTHON, WITHOUT],
        cwd=check.ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *lines, last = (line.rsplit(maxsplit=2) for line in done.stdout.splitlines())
    assert [name for name, _, _ in lines] == [step.name for step in check.steps()]
    assert {unit for *_, unit in [*lines, last]} == {"s"}
    assert last[0] == "sum"
    assert int(last[1]) == sum(int(seconds) for _, seconds, _ in lines) <= 480


def test_steps_have_their_order_and_their_shares():
    listed = check.steps("python")
    assert [step.name for step in listed[:5]] == [
        "build",
        "CUDA trees",
        "Triton conformance",
        "sanitizer",
        "measure",
    ]
    assert sum(step.share for step in listed) == pytest.approx(1)
    for step in listed:
        assert step.seconds <= step.share * check.BUDGET, step.name
        module = step.command[2] if step.command[2].startswith("benchmarks.") else None
        assert module is None or (check.ROOT / (module.replace(".", "/") + ".py")).exists()
    conformance = listed[2]
    assert conformance.environment == {"OMP_NUM_THREADS": "2"}
    assert {path for path in conformance.command if path.startswith("tests/")} == {
        str(path.relative_to(check.ROOT))
        for path in (check.ROOT / "tests/interpreted").glob("*.py")
    }
    # Eight files at most come back from some machines: the logs, record.jsonl and details.zip.
    assert len({check._log(step) for step in listed}) == 6


def test_workers_are_used_where_there_are(monkeypatch):
    for found, wanted in ((None, False), (object(), True)):
        monkeypatch.setattr(check.importlib.util, "find_spec", lambda name, found=found: found)
        assert (check.steps()[2].command[4:6] == ["-n", "8"]) == wanted


def test_what_is_built_is_imported_then_what_the_caller_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    found = check.environment(tmp_path)
    assert found["PYTHONPATH"].split(os.pathsep) == [str(tmp_path), str(check.ROOT), "/elsewhere"]
    assert found["BIASGEN_CUDA"] == "ON"
    monkeypatch.delenv("PYTHONPATH")
    assert check.environment(tmp_path)["PYTHONPATH"].split(os.pathsep) == [
        str(tmp_path),
        str(check.ROOT),
    ]


def test_steps_are_timed_named_and_independent(folder, capfd):
    listed = [
        Step("first", ["sh", "-c", "sleep 300 & echo $!; wait"], 1, 0.005),
        Step("second", [*PYTHON, "import sys; print('to the log'); sys.exit(3)"], 1, 0.5),
        Step(
            "third one", [*PYTHON, "import os; print(os.environ['OWN'])"], 1, 0.495, {"OWN": "set"}
        ),
    ]
    begin = time.monotonic()
    assert check.run(listed, folder, environment(), 400) == 1
    assert time.monotonic() - begin < 200
    assert states(folder) == [
        ("first", "unfinished"),
        ("second", "failed"),
        ("third one", "passed"),
    ]
    said = capfd.readouterr().out
    assert "== second: failed (exit status 3), " in said
    assert "to the log" in said
    assert "== first: unfinished (longer than its share), " in said
    logs = {path.name: path.read_text().splitlines()[1:] for path in folder.path.glob("*.log")}
    assert logs.keys() == {"1-first.log", "2-second.log", "3-third-one.log"}
    assert logs["3-third-one.log"] == ["set"]
    child = int(logs["1-first.log"][0])
    deadline = time.monotonic() + 60
    while is_running(child):
        assert time.monotonic() < deadline, "a step's child outlived it"
        time.sleep(0.05)


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_time_that_is_left_goes_to_later_steps(folder, monkeypatch):
    """And no step gets time of an earlier one: it ends where the shares up to its own do."""
    given, now = [], [0.0]
    takes = {"a": (10, 0), "b": (60, None), "c": (0, 0)}

    def execute(step, env, seconds, log):
        given.append(seconds)
        now[0] += takes[step.name][0]
        return takes[step.name][1]

    monkeypatch.setattr(check, "execute", execute)
    monkeypatch.setattr(check.time, "monotonic", lambda: now[0])
    listed = [Step(name, [], 1, share) for name, share in (("a", 0.4), ("b", 0.3), ("c", 0.3))]
    assert check.run(listed, folder, {}, 100) == 3
    assert given == pytest.approx([40, 60, 30])


def outcome(statuses, folder, monkeypatch):
    """The exit status of steps that end with a status, are ended (None), or after a failed item."""

    def execute(step, env, seconds, log):
        log.touch()
        if isinstance(statuses[step.name], str):
            folder.add(step=step.name, failed=statuses[step.name], why="")
            return None
        return statuses[step.name]

    monkeypatch.setattr(check, "execute", execute)
    return check.run([Step(name, [], 1, 0.1) for name in statuses], folder, {}, 100)


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ([0, 0], 0),
        ([0, 1], 1),
        ([None, 0], 3),
        ([None, 1], 1),
        ([1, None], 1),
        ([-11, 0], 1),
        (["a test", 0], 1),
        ([3, 0], 1),
    ],
)
def test_the_exit_status(ends, status, folder, monkeypatch):
    assert outcome({f"step {i}": end for i, end in enumerate(ends)}, folder, monkeypatch) == status


def test_a_step_that_passed_is_left_out_until_the_key_changes(folder, monkeypatch):
    assert outcome({"a": 0, "b": None}, folder, monkeypatch) == 3
    assert outcome({"a": 1, "b": 0}, folder, monkeypatch) == 0  # a does not run
    assert outcome({"a": 1, "b": 1}, folder, monkeypatch) == 0
    assert outcome({"a": 1, "b": 0}, Folder(folder.path, "another key"), monkeypatch) == 1


def test_what_a_step_makes_is_made_anew_and_made_again_where_it_is_gone(folder, tmp_path):
    made = tmp_path / "site"
    made.mkdir()
    (made / "old").touch()
    step = Step("build", ["mkdir", str(made)], 1, 1, makes=made)  # fails where the old one is there
    for _ in range(2):
        assert check.run([step], folder, environment(), 100) == 0
    shutil.rmtree(made)
    assert check.run([step], folder, environment(), 100) == 0
    assert states(folder) == 2 * [("build", "passed")]
    assert made.exists()


BACKEND = """
import zipfile

INFO = {
    "METADATA": "Metadata-Version: 2.1\\nName: toy\\nVersion: 1\\n",
    "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "RECORD": "toy.py,,\\ntoy-1.dist-info/METADATA,,\\ntoy-1.dist-info/WHEEL,,\\n",
}


def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("toy.py", "")
        for part, text in INFO.items():
            wheel.writestr(f"toy-1.dist-info/{part}", text)
    return name
"""


def test_the_build_installs_a_toy_project(folder, tmp_path):
    toy, site = tmp_path / "toy", tmp_path / "site"
    toy.mkdir()
    (toy / "backend.py").write_text(BACKEND)
    (toy / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    build = check.steps(site=site)[0]
    step = Step(build.name, [*build.command[:-1], str(toy)], 1, 1, makes=site)
    assert check.run([step], folder, environment(), 300) == 0, (
        folder.path / "1-build.log"
    ).read_text()
    assert (site / "toy.py").exists()


TESTS = """
import pathlib
import time

import pytest


@pytest.mark.parametrize("number", [1, 2])
def test_quick(number):
    pass


def test_slow():
    while not pathlib.Path(__file__).with_name("go").exists():
        time.sleep(0.01)


def test_skipped():
    pytest.skip("not here")
"""


def conformance(tmp_path, text):
    """The step of the Triton conformance, on tests of its own, without workers."""
    (tmp_path / "test_toy.py").write_text(text)
    command = check.steps()[2].command
    command = [
        word
        for word in command
        if not word.startswith("tests/") and word not in ("-n", str(check.WORKERS))
    ]
    return Step("conformance", [*command, "-c", "/dev/null", str(tmp_path / "test_toy.py")], 1, 1)


def test_a_step_that_is_ended_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    """It is ended after two of its tests; then only the others run; then none is left."""
    wait, step = subprocess.Popen.wait, conformance(tmp_path, TESTS)

    def impatient(process, timeout=None):
        while timeout is not None and len(items(folder)) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        if timeout is None:
            return wait(process)
        raise subprocess.TimeoutExpired(process.args, timeout)

    with monkeypatch.context() as patched:
        patched.setattr(subprocess.Popen, "wait", impatient)
        assert check.run([step], folder, environment(), 100) == 3
    quick = [f"test_toy.py::test_quick[{number}]" for number in (1, 2)]
    assert [name.split("/")[-1] for name in items(folder)] == quick
    (tmp_path / "go").touch()
    assert check.run([step], folder, environment(), 300) == 0
    assert [name.split("/")[-1] for name in items(folder)] == [*quick, "test_toy.py::test_slow"]
    log = (folder.path / "1-conformance.log").read_text()
    assert "1 passed, 1 skipped, 2 deselected" in log
    assert states(folder) == [("conformance", "unfinished"), ("conformance", "passed")]


def test_where_every_test_is_proved_the_step_passes(folder, tmp_path):
    step = conformance(tmp_path, "def test_one():\n    pass\n")
    assert check.run([step], folder, environment(), 300) == 0
    with open(folder.record, "a") as file:
        file.write(json.dumps({"key": "key", "step": "conformance", "state": "unfinished"}) + "\n")
    assert check.run([step], folder, environment(), 300) == 0
    assert "1 deselected" in (folder.path / "1-conformance.log").read_text()


BAD_TESTS = """
import pytest


@pytest.fixture
def left():
    yield
    raise OSError("left")


def test_good():
    pass


def test_bad():
    assert 1 == 2, "no"


def test_torn(left):
    pass
"""


def test_failed_tests_are_named(folder, tmp_path):
    assert check.run([conformance(tmp_path, BAD_TESTS)], folder, environment(), 300) == 1
    assert [name.split("::")[1] for name in items(folder)] == ["test_good"]
    assert [name.split("::")[1] for name in items(folder, "failed")] == ["test_bad", "test_torn"]
    assert "no" in items(folder, "why")[0]
    broken = conformance(tmp_path, "import nothing_like_it\n")
    assert check.run([broken], folder, environment(), 300) == 1
    assert items(folder, "failed")[-1].endswith("test_toy.py")


def test_the_key_is_of_sources_and_machine(tmp_path):
    (tmp_path / "csrc/cuda").mkdir(parents=True)
    (tmp_path / "CMakeLists.txt").write_text("")
    (tmp_path / "csrc/cuda/a.cu").write_text("x")
    keys = [check.key(ABOUT, tmp_path)]
    (tmp_path / "notes.md").write_text("no source")
    assert check.key(ABOUT, tmp_path) == keys[0]
    for name in ABOUT:
        keys.append(check.key(ABOUT | {name: "another"}, tmp_path))
    (tmp_path / "csrc/cuda/a.cu").write_text("y")
    keys.append(check.key(ABOUT, tmp_path))
    (tmp_path / "csrc/cuda/a.cu").rename(tmp_path / "csrc/cuda/b.cu")
    keys.append(check.key(ABOUT, tmp_path))
    assert len(set(keys)) == len(keys)
    used = {path.relative_to(check.ROOT).as_posix() for path in check._sources(check.ROOT)}
    assert {
        "benchmarks/gpu/check.py",
        "tests/interpreted/triton_search.py",
        "csrc/cuda/any_tree.cu",
    } <= used


def test_device_and_versions_are_asked_for(tmp_path, monkeypatch):
    for name, text in (
        ("nvidia-smi", 'echo "Some GPU 80GB, 580.1 $3"'),
        ("nvcc", "echo Cuda release 13.0, V13.0.88"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(check.importlib.metadata, "version", lambda name: f"{name} 1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert check.about() == {
        "device": "Some GPU 80GB",
        "driver": "580.1 --id=2",
        "torch": "torch 1",
        "triton": "triton 1",
        "nvcc": "13.0",
    }


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        ("nvcc", "nvcc is not on PATH"),
        ("g++", "g++ is not on PATH"),
        ("nvidia-smi", "nvidia-smi is not on PATH"),
        (None, "no CUDA device here; "),
    ],
)
def test_refuses_where_it_cannot_run(monkeypatch, missing, why):
    pytest.importorskip("triton")
    monkeypatch.setattr(
        check.shutil, "which", lambda tool: None if tool == missing else f"/usr/bin/{tool}"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        check.main([])
    assert str(caught.value).startswith(f"gpu-check: {why}")


def command(*words):
    """The exit status of the command line."""
    with pytest.raises(SystemExit) as caught:
        check.main(words)
    return caught.value.code


def test_the_command(monkeypatch, tmp_path, capsys):
    """From the first run, which is ended, to the last; with --out and without."""
    ends = {"fast": None}
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "BUILD", tmp_path / "build")
    (tmp_path / "build/of-old-sources").mkdir(parents=True)
    monkeypatch.setattr(check, "refusal", lambda: None)
    monkeypatch.setattr(check, "about", lambda: ABOUT)
    monkeypatch.setattr(check, "steps", lambda site: [Step("fast", [], 1, 1.0)])
    budgets = []

    def execute(step, env, seconds, log):
        log.touch()
        budgets.append(seconds)
        Folder(log.parent, json.loads(env["GPU_CHECK"])[1], "fast").once(
            "copy", lambda: {"value": 3.0, "unit": "GB/s"}
        )
        return ends["fast"]

    monkeypatch.setattr(check, "execute", execute)
    out = tmp_path / "deep/out"
    assert command("--out", str(out)) == 3
    assert budgets.pop() == pytest.approx(480, abs=60)
    assert not (tmp_path / "build/of-old-sources").exists()
    said = capsys.readouterr().out
    assert "| copy | 3 GB/s | - | - | - | - |" in said
    assert said.endswith("gpu-check: unfinished: go on with --resume\n")
    assert "holds an earlier run; add --resume" in command("--out", str(out))
    ends["fast"] = 1
    assert command("--out", str(out), "--resume", "--budget", "1000") == 1
    assert budgets.pop() == pytest.approx(1000, abs=60)
    ends["fast"] = 0
    assert command("--out", str(out), "--resume") == 0
    assert command("--out", str(out), "--resume") == 0
    assert len(budgets) == 1
    lines = [json.loads(line) for line in (out / "record.jsonl").read_text().splitlines()]
    assert [line["about"] for line in lines if "about" in line] == [ABOUT]
    assert len({line["key"] for line in lines}) == 1
    assert sum("name" in line for line in lines) == 1
    assert sorted(path.name for path in out.iterdir()) == ["1-fast.log", "record.jsonl"]
    assert command() == 0
    assert [path.name[10:] for path in (tmp_path / "benchmarks/results").iterdir()] == [
        "-Some-GPU-80GB"
    ]


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf", "much"])
def test_a_budget_is_a_number_of_seconds(budget, capsys):
    assert command("--plan", "--budget", budget) == 2
    assert "--budget: " in capsys.readouterr().err
