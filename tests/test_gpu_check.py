"""`make gpu-check` without a GPU: its steps at toy sizes on the CPU and on the host shim, with stand-ins for what only a device has."""
import json
import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import check, graphs, measure, sanitizer, sweep
from benchmarks.gpu.records import Record, rows, table, write
from biasgen.results import Neighbours

MADE_UP = [
    Record("copy", 3000.0, "GB/s", 1.5),
    Record("posterior", 1500.0, "GB/s", 2.0, of="copy"),
    Record("linear", 100.0, "GB/s", 30.0, against="posterior"),
    Record("better", 300.0, "GB/s", 10.0, against="posterior"),
    Record("absent", against="posterior", missing="ImportError: no such package"),
    Record("near-copies: float32", wrong=0.25),
]


def test_shares_ratios_and_files(tmp_path):
    about = {"date": "2026-01-02", "device": "Some GPU 80GB"}
    folders = tmp_path / "results", tmp_path / "out/deeper"
    paths = write(about, MADE_UP, folders)
    assert paths == [folder / "2026-01-02-Some-GPU-80GB.jsonl" for folder in folders]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(path.name for path in folders[0].iterdir()) == [paths[0].name]
    lines = [json.loads(line) for line in paths[0].read_text().splitlines()]
    assert lines == [about | row for row in rows(MADE_UP)]
    by_name = {line["name"]: line for line in lines}
    assert by_name["posterior"] == about | {
        "name": "posterior", "value": 1500.0, "unit": "GB/s", "milliseconds": 2.0, "of": "copy", "share": 0.5, "ratio": 5.0,
        "baseline": "better",
    }
    assert "ratio" not in by_name["linear"]
    assert by_name["absent"]["missing"] == "ImportError: no such package"
    assert by_name["near-copies: float32"]["wrong"] == 0.25


def test_table():
    lines = table(MADE_UP).splitlines()
    assert len(lines) == 2 + len(MADE_UP)
    assert lines[3] == "| posterior | 1500 GB/s | 2 | 0.50 of copy | 5.00 x better | - |"
    assert lines[6] == "| absent | - | - | - | - | ImportError: no such package |"
    assert lines[7] == "| near-copies: float32 | - | - | - | - | 25.0% |"
    assert {line.count("|") for line in lines} == {7}


def test_measurements_at_toy_size(kernels):
    records = [*measure.ceilings("cpu", 32, 1000), *measure.searches("cpu", 70, 128, "cpu"), *measure.trees(kernels, "cpu", 33, 5, 3)]
    records += measure.denoisers("cpu", 9, 60, 24, "cpu")
    by_name = {row["name"]: row for row in rows(records)}
    for noise in ("0.99", "0.001"):
        row = by_name[f"empirical denoiser, noise {noise}"]
        assert row["baseline"] == f"torch float32 softmax, noise {noise}"
        assert row["value"] == pytest.approx(4 * 9 * 60 * 24 / 1e9 / row["milliseconds"])
    for name, (features, k, distance, dtype) in measure.SEARCHED.items():
        assert by_name[name]["share"] == by_name[name]["value"] / by_name[measure.INT8]["value"]
        assert by_name[name]["value"] == pytest.approx(2 * 70 * 128 * features / 1e9 / by_name[name]["milliseconds"])
        assert ("ratio" in by_name[name]) == (k == 1 and distance == "sqeuclidean"), (name, dtype)
    assert by_name["nearest 1"]["baseline"] in {f"{name}, nearest 1" for name, _ in measure.nearest_of("uint8")}
    assert by_name["tree posterior"]["baseline"] == "torch, linear domain"
    assert by_name["tree posterior"]["value"] == pytest.approx(33 * 768 / 1e6 / by_name["tree posterior"]["milliseconds"])
    assert by_name["trajectory"]["baseline"] == "one launch a step"
    assert by_name["faiss-gpu, nearest 1"]["missing"].startswith("ImportError: ")


def test_a_wrong_search_is_not_timed(monkeypatch):
    right = measure.knn

    def wrong(*arguments, backend):
        found = right(*arguments, backend=backend)
        return type(found)(found.distances, found.indices + (backend == "cpu"), found.tie_counts, found.stats)

    monkeypatch.setattr(measure, "knn", wrong)
    with pytest.raises(AssertionError, match=r"^nearest 1, tokens: indices differ"):
        next(measure.searches("cpu", 70, 128, "cpu", ["nearest 1, tokens"]))


def test_baselines_find_the_nearest():
    random = np.random.default_rng(0)
    query, reference = (torch.from_numpy(random.integers(0, 256, (n, 40), dtype=np.uint8)) for n in (70, 128))
    right = (query[:, None].int() - reference.int()).square().sum(-1).argmin(1)
    found = {}
    for name, search in measure.nearest_of("uint8"):
        try:
            found[name] = search(query, reference)
        except ImportError:
            continue
    assert {"torch._int_mm + min", "torch float32 product + min", "torch.cdist + topk"} <= set(found)
    assert all(torch.equal(indices, right) for indices in found.values())
    assert [name for name, _ in measure.nearest_of("float32")] == [name for name, _ in measure.nearest_of("uint8")][1:]


def test_wrong_neighbors_are_counted(monkeypatch):
    pytest.importorskip("sklearn")
    records = {record.name: record for record in measure.wrong_neighbors("cpu", 40, 60, "cpu")}
    assert records["near-copies, bright, uint8: biasgen.knn"].wrong == 0
    assert records["near-copies, bright, uint8: torch._int_mm + min"].wrong == 0
    assert records["near-copies, bright, uint8: torch.cdist + topk"].wrong > 0.02
    monkeypatch.setattr(measure, "knn", lambda x, y, **_: Neighbours(None, torch.zeros(len(x), 1).long(), None, {}))
    with pytest.raises(AssertionError, match=r"^near-copies, bright, uint8: biasgen.knn: .* wrong$"):
        next(measure.wrong_neighbors("cpu", 40, 60, "cpu"))


def test_a_failed_measurement_does_not_stop_the_others():
    saved = []

    def broken():
        yield MADE_UP[0]
        raise RuntimeError("out of luck")

    records, failures = measure.collect([("one", broken()), ("two", iter(MADE_UP[1:3]))], lambda records: saved.append(len(records)))
    assert records == MADE_UP[:3]
    assert failures == ["one: out of luck"]
    assert saved == [1, 3]


def test_denoisers_of_the_sweep_at_toy_size(monkeypatch):
    assert len([*sweep.denoisers("cpu", "cpu", 20, 150)]) == len(sweep.DENOISED)
    right = sweep.empirical_denoise

    def wrong(x_t, rows, scale, sigma, backend):
        return right(x_t, rows, scale, sigma * (1.01 if backend == "cpu" else 1), backend=backend)

    monkeypatch.setattr(sweep, "empirical_denoise", wrong)
    with pytest.raises(AssertionError, match="beyond the promise"):
        next(sweep.denoisers("cpu", "cpu", 20, 150))


def test_sweep_at_toy_size(monkeypatch):
    lines = [*sweep.searches("cpu", "torch", 20, 150)]
    assert len(lines) == len(sweep.SEARCHED)
    assert all(": equal, " in line for line in lines)
    numbers = iter(range(9))
    monkeypatch.setattr(sweep, "range_count", lambda *_: torch.tensor(next(numbers)))
    with pytest.raises(AssertionError, match=r"^sqeuclidean, uint8, 20 x 150 x 64, k = 1: counts differ$"):
        next(sweep.searches("cpu", "torch", 20, 150))


def on_the_cpu(work):
    """In place of a CUDA graph: a replay computes again, into the outputs of the first call."""
    outputs = work()

    def replay():
        for output, now in zip(outputs, work(), strict=True):
            output.copy_(now)

    return outputs, replay


def test_replays_are_compared_with_eager_calls():
    cases = [*graphs.searches("cpu", "cpu", 12, 150), *graphs.posteriors("cpu", 9)]
    assert len(cases) == len(graphs.SEARCHED) + 2
    for _, work, first, second in cases:
        graphs.check_replay(on_the_cpu, work, first, second)
        with pytest.raises(AssertionError, match=r"^a replay differs from an eager call$"):
            graphs.check_replay(lambda work: (on_the_cpu(work)[0], lambda: None), work, first, second)


def test_refusal_under_capture(monkeypatch):
    from biasgen.backends import _mode

    def recording(work):
        with monkeypatch.context() as patched:
            patched.setitem(graphs.knn.__wrapped__.__globals__, "is_capturing", lambda device: True)
            return on_the_cpu(work)

    graphs.check_refusal(recording, "cpu")
    with pytest.raises(AssertionError, match=r"^not refused: $"):
        graphs.check_refusal(on_the_cpu, "cpu")
    assert not _mode.is_capturing(torch.device("cpu"))


def test_advice_of_out_of_memory_is_followed():
    asked = []

    def search(max_memory, advice="max_memory=600 would do"):
        asked.append(max_memory)
        if max_memory > 600:
            raise torch.OutOfMemoryError(f"max_memory: wanted 20.50 MiB on cuda:0, which has room for 1200 bytes: {advice}")

    graphs.check_out_of_memory(search, 10**6)
    assert asked == [10**6, 600]
    with pytest.raises(AssertionError, match=r"^out of memory said: nothing$"):
        graphs.check_out_of_memory(lambda max_memory: None, 1)
    with pytest.raises(AssertionError, match=r"^out of memory said: max_memory: wanted"):
        graphs.check_out_of_memory(lambda max_memory: search(max_memory, "good luck"), 10**6)


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_sanitizer_runs_every_tool_and_reports(tmp_path):
    program = script(tmp_path / "program", "echo 7 checks hold")
    good = script(tmp_path / "good", 'echo "========= ERROR SUMMARY: 0 errors ($2)"')
    lines = [*sanitizer.check(program, str(good))]
    assert lines == ["alone: 7 checks hold", *(f"{tool}: ========= ERROR SUMMARY: 0 errors ({tool})" for tool in sanitizer.TOOLS)]
    assert "not on this machine" in [*sanitizer.check(program, None)][1]
    unable = script(tmp_path / "unable", 'echo "Device not supported"; exit 1')
    assert [*sanitizer.check(program, str(unable))][1] == "memcheck: cannot run here (Device not supported)"
    bad = script(tmp_path / "bad", "echo Invalid write; exit 9")
    with pytest.raises(RuntimeError, match=r"(?s)memcheck --error-exitcode 9 .*: exit status 9\nInvalid write"):
        [*sanitizer.check(program, str(bad))]
    with pytest.raises(RuntimeError, match="exit status 1"):
        [*sanitizer.check(script(tmp_path / "wrong", "exit 1"), str(good))]


def test_sanitizer_is_found_beside_the_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    (tmp_path / "bin").mkdir()
    nvcc = script(tmp_path / "bin/nvcc", "")
    assert sanitizer.find(str(nvcc)) is None
    tool = script(tmp_path / "bin/compute-sanitizer", "")
    assert sanitizer.find(str(nvcc)) == str(tool)


def test_steps_are_timed_named_and_independent(capfd):
    python = [sys.executable, "-c"]
    steps = [
        check.Step("first", [*python, "import sys; sys.exit(3)"], 20),
        check.Step("second", ["sh", "-c", "sleep 30 & echo $!; wait"], 0.5),
        check.Step("third", [*python, "print('ran')"], 20),
    ]
    begin = time.monotonic()
    assert check.run(steps, dict(os.environ)) == {"first": "exit status 3", "second": "longer than 0.5 s"}
    assert time.monotonic() - begin < 15
    said = capfd.readouterr().out
    assert "== first: exit status 3, " in said
    assert "\nran\n" in said
    child = int(said.split("== second (at most 0.5 s)\n")[1].split("\n")[0])
    deadline = time.monotonic() + 5
    while is_running(child):
        assert time.monotonic() < deadline, "a step's child outlived it"
        time.sleep(0.05)


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_steps_fit_in_eight_minutes_and_exist():
    listed = check.steps("python")
    assert sum(step.seconds for step in listed) <= 480
    for step in listed:
        module = step.command[2] if step.command[2].startswith("benchmarks.") else None
        assert module is None or (check.ROOT / (module.replace(".", "/") + ".py")).exists()
    assert any(argument.endswith("triton_search.py") for argument in listed[1].command)
    environment = check.environment()
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(check.SITE)
    assert environment["BIASGEN_CUDA"] == "ON"


@pytest.mark.parametrize(
    ("missing", "why"), [("nvcc", "nvcc is not on PATH"), ("g++", "g++ is not on PATH"), (None, "no CUDA device here; ")]
)
def test_refuses_where_it_cannot_run(monkeypatch, missing, why):
    pytest.importorskip("triton")
    monkeypatch.setattr(check.shutil, "which", lambda tool: None if tool == missing else f"/usr/bin/{tool}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        check.main()
    assert str(caught.value).startswith(f"gpu-check: {why}")


def test_the_exit_status_names_what_failed(monkeypatch, tmp_path):
    monkeypatch.setattr(check, "refusal", lambda: None)
    monkeypatch.setattr(check, "SITE", tmp_path / "site")
    for failed, status in (({"sanitizer": "exit status 1"}, "gpu-check: sanitizer: exit status 1"), ({}, 0)):
        monkeypatch.setattr(check, "run", lambda steps, env, failed=failed: failed)
        with pytest.raises(SystemExit) as caught:
            check.main()
        assert caught.value.code == status
