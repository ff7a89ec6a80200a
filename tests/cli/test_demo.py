"""`biasgen demo` as a user runs it, at toy size: the record, the pictures, the controls, an interrupt."""
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from biasgen.report.records import read_record

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}   # on a busy machine torch's threads spin for longer than they work at this size
COMMAND = [str(Path(sysconfig.get_path("scripts")) / "biasgen"), "demo", "--scale", "tiny"]


def demo(out, *options):
    return subprocess.run([*COMMAND, "--out", out, *options], capture_output=True, text=True, timeout=300, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    out = tmp_path_factory.mktemp("with space") / "demo"
    result = demo(out)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_record(plain):
    out, _ = plain
    header, evaluations, onset = read_record(out / "record.jsonl")
    assert header["params"]["scale"] == "tiny"
    assert header["params"]["control"] is None
    assert len(evaluations) >= 8
    for e in evaluations:
        assert set(e["scalars"]) == {"train_loss", "heldout_loss", "excess_kl", "variance_share"}
        assert e["scalars"]["excess_kl"] > 0
        assert e["metrics"]["own_share"]["null"]["mean"] == 0.5
        low, high = e["metrics"]["own_share"]["ci"]
        assert low < e["metrics"]["own_share"]["value"] < high
        assert sum(e["metrics"]["kl_own"]["params"]["gen_counts"]) == 2 * header["params"]["n_samples"]
        assert "alignment" in e["metrics"]
    losses = [e["scalars"]["heldout_loss"] for e in evaluations]
    assert losses[-1] < losses[0]
    assert set(onset) == {"status", "step", "interval", "statistic", "alpha", "looks", "censored"}
    assert onset["status"] in ("none", "detected")
    assert onset["looks"] == len(evaluations)
    assert json.loads((out / "record.jsonl").read_text().splitlines()[-1]) == {"onset": onset}


def test_pictures(plain):
    out, _ = plain
    for name in ("curves.png", "neighbours.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in out.iterdir()) == ["curves.png", "neighbours.png", "record.jsonl"]


def test_table_and_verdict(plain):
    out, stdout = plain
    _, evaluations, onset = read_record(out / "record.jsonl")
    lines = stdout.splitlines()
    assert [int(line.split()[0]) for line in lines if line.strip()[:1].isdigit()] == [e["step"] for e in evaluations]
    verdict = f"Bias towards the training set from step {onset['step']} on" if onset["status"] == "detected" else "No bias detected"
    assert any(line.startswith(verdict) for line in lines)


def test_same_seed_same_record(plain, tmp_path):
    out, _ = plain
    assert demo(tmp_path).returncode == 0
    strip = lambda path: [{k: v for k, v in e.items() if k != "seconds"} for e in read_record(path / "record.jsonl")[1]]  # noqa: E731
    assert strip(tmp_path) == strip(out)


def test_control_fresh_reports_none(tmp_path):
    result = demo(tmp_path, "--control", "fresh")
    assert result.returncode == 0, result.stderr
    assert "No bias detected" in result.stdout
    assert read_record(tmp_path / "record.jsonl")[2]["status"] == "none"


def test_control_copies_reports_them(tmp_path):
    result = demo(tmp_path, "--control", "copies", "--seed", "1")
    assert result.returncode == 0, result.stderr
    assert "Bias towards the training set from step" in result.stdout
    _, evaluations, _ = read_record(tmp_path / "record.jsonl")
    assert all(e["metrics"]["exact_copies"]["value"] >= 0.03 for e in evaluations)


def test_interrupt_keeps_what_is_done(tmp_path):
    code = (   # a job in the background inherits an ignored SIGINT: as in a terminal, it must arrive
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from biasgen.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *COMMAND[1:], "--out", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    record = tmp_path / "record.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (record.exists() and record.read_text().count("\n") >= 3):
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "interrupted after" in stdout
    _, evaluations, onset = read_record(record)
    assert 2 <= len(evaluations) < 8
    assert onset["status"] in ("inconclusive", "detected")
    assert (tmp_path / "curves.png").exists()


def test_missing_matplotlib_is_an_error_before_any_work(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda n, *a: None if n == 'matplotlib' else find(n, *a)\n"
    )
    result = subprocess.run(
        [*COMMAND, "--out", tmp_path / "out"], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    assert result.returncode == 2
    assert "matplotlib is not installed" in result.stderr
    assert not (tmp_path / "out").exists()


def test_bad_seed(tmp_path):
    result = demo(tmp_path, "--seed", "-1")
    assert result.returncode == 2
    assert "--seed" in result.stderr


def test_json_has_no_nan(plain):
    out, _ = plain

    def refuse(constant):
        raise AssertionError(constant)

    for line in (out / "record.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
