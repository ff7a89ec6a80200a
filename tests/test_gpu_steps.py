"""The steps of `make gpu-check` at toy size, with stand-ins for what only a device has.

tests/test_gpu_check.py has what runs them; tests/interpreted has the Triton kernels that are timed.
"""

import inspect
import re
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import tree_checks
from benchmarks.gpu import clocks, graphs, machine_code, measure, profiles, sanitizer, sweep, trees
from benchmarks.gpu.folder import Folder
from benchmarks.gpu.records import Record, rows, table
from biasgen.results import Neighbours

ROOT = Path(__file__).resolve().parents[1]
MADE_UP = [
    Record("copy", 3000.0, "GB/s", 1.5),
    Record("posterior", 1500.0, "GB/s", 2.0, of="copy"),
    Record("linear", 100.0, "GB/s", 30.0, against="posterior"),
    Record("better", 300.0, "GB/s", 10.0, against="posterior"),
    Record("absent", against="posterior", missing="ImportError: no such package"),
    Record("near-copies: float32", wrong=0.25, note="a note"),
]


@pytest.fixture
def folder():
    """Lines in memory."""
    return Folder(None)


@pytest.fixture
def on_disk(tmp_path):
    """A folder, for what goes to details.zip."""
    (tmp_path / "out").mkdir()
    return Folder(tmp_path / "out", "key", "step")


def failed(folder):
    """{item: why} of what failed."""
    return {line["failed"]: line["why"] for line in folder.lines() if "failed" in line}


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_shares_and_ratios():
    by_name = {row["name"]: row for row in rows(MADE_UP)}
    assert by_name["posterior"] == {
        "name": "posterior",
        "value": 1500.0,
        "unit": "GB/s",
        "milliseconds": 2.0,
        "of": "copy",
        "share": 0.5,
        "ratio": 5.0,
        "baseline": "better",
    }
    assert "ratio" not in by_name["linear"]
    assert by_name["absent"]["missing"] == "ImportError: no such package"


def test_table():
    lines = table(MADE_UP).splitlines()
    assert len(lines) == 2 + len(MADE_UP)
    assert lines[3] == "| posterior | 1500 GB/s | 2 | 0.50 of copy | 5.00 x better | - |"
    assert lines[6] == "| absent | - | - | - | - | ImportError: no such package |"
    assert lines[7] == "| near-copies: float32 | - | - | - | - | 25.0% wrong neighbors; a note |"
    assert {line.count("|") for line in lines} == {7}


def test_trees_on_the_host_shim(kernels, folder, monkeypatch):
    """A check that holds, and one that fails; tests/test_cuda_trees.py has the others."""
    whole = tree_checks.checks

    def some(*given):
        return {"broken": lambda: [][0], "cancellation": whole(*given)["cancellation"]}

    monkeypatch.setattr(tree_checks, "checks", some)
    monkeypatch.setattr(kernels, "probe", lambda: "no device", raising=False)
    trees.run(folder, kernels, "cpu", 1)
    assert failed(folder) == {
        "probe": "AssertionError: no device",
        "broken": "IndexError: list index out of range",
    }
    assert [line["passed"] for line in folder.lines() if "passed" in line] == ["cancellation"]
    assert len(whole(kernels, "cpu", 1)) == 10


def test_a_large_batch_is_compared(kernels, monkeypatch):
    tree_checks.check_large_batch(kernels, "cpu", 256)
    right = tree_checks._cuda_trees.tree_posterior

    def wrong(*given):
        found = right(*given)
        found.marginals[64 : 64 + (len(found.marginals) > 64)] *= 0.5
        return found

    monkeypatch.setattr(tree_checks._cuda_trees, "tree_posterior", wrong)
    with pytest.raises(AssertionError, match="bits depend on the batch"):
        tree_checks.check_large_batch(kernels, "cpu", 256)


def test_measurements_at_toy_size(kernels, folder):
    measure.ceilings(folder, "cpu", (32, 32, 64), 32, 4000)
    names = [name for name in measure.SEARCHED if name not in ("nearest 64", "nearest 1, float32")]
    measure.searches(folder, "cpu", 70, 128, "cpu", names)
    measure.trees(folder, kernels, "cpu", 33, 5, 3)
    measure.denoisers(folder, "cpu", 9, 60, 24, "cpu")
    assert not folder.failures
    by_name = {row["name"]: row for row in rows(folder.records())}
    for noise in ("0.99", "0.001"):
        row = by_name[f"empirical denoiser, noise {noise}"]
        assert row["baseline"] in (
            f"torch float32 softmax, noise {noise}",
            f"torch backend, noise {noise}",
        )
        assert row["value"] == pytest.approx(4 * 9 * 60 * 24 / 1e9 / row["milliseconds"])
    for name in names:
        features, k, distance, dtype = measure.SEARCHED[name]
        assert by_name[name]["share"] == by_name[name]["value"] / by_name[measure.INT8]["value"]
        assert by_name[name]["value"] == pytest.approx(
            2 * 70 * 128 * features / 1e9 / by_name[name]["milliseconds"]
        )
        compared = (k == 1 and distance == "sqeuclidean") or name in measure.ON_TORCH
        assert ("ratio" in by_name[name]) == compared, (name, dtype)
    assert by_name["torch backend, nearest 16"]["against"] == "nearest 16"
    assert by_name["tree posterior"]["baseline"] in (
        "torch, linear domain",
        "torch backend, tree posterior",
    )
    assert by_name["tree posterior"]["value"] == pytest.approx(
        33 * 768 / 1e6 / by_name["tree posterior"]["milliseconds"]
    )
    assert by_name["trajectory"]["baseline"] == "one launch a step"
    assert by_name["faiss-gpu, nearest 1"]["missing"].startswith("ImportError: ")
    assert by_name[measure.PINNED]["unit"] == "GB/s"


def test_the_row_of_the_targets_at_toy_size(folder, monkeypatch):
    measure.target(folder, "cpu", 72, 160, 24, "cpu")
    assert not folder.failures
    by_name = {row["name"]: row for row in rows(folder.records())}
    both = by_name["preparation and first search, 72 x 160 x 24"]
    spent = [
        by_name[f"{name}, 72 x 160 x 24"]["milliseconds"]
        for name in ("preparation", "first search")
    ]
    assert both["milliseconds"] == sum(spent)
    assert by_name["search, 72 x 160 x 24"]["baseline"] == "torch._int_mm + min, 72 x 160 x 24"
    monkeypatch.setattr(
        measure, "torch_int_mm", lambda query, reference, chunk=0: torch.zeros(len(query)).long()
    )
    with pytest.raises(AssertionError, match=r"^72 x 160 x 24: rows are not nearest$"):
        measure.target(folder, "cpu", 72, 160, 24, "cpu")


def test_rows_of_the_host_at_toy_size(folder, monkeypatch):
    measure.streamed(folder, "cpu", 20, 200, 24, "cpu")
    assert [record.name for record in folder.records()] == ["search of host rows, 20 x 200 x 24"]
    right, answers = measure.knn, []

    def wrong(*given, backend):
        found = right(*given, backend=backend)
        answers.append(found)
        return type(found)(
            found.distances + (len(answers) == 2), found.indices, found.tie_counts, found.stats
        )

    monkeypatch.setattr(measure, "knn", wrong)
    with pytest.raises(AssertionError, match=r"^distances of a streamed set differ$"):
        measure.streamed(folder, "cpu", 20, 200, 24, "cpu")


def test_every_part_is_called_as_it_is_written():
    pytest.importorskip("triton")
    from benchmarks.gpu import tiles

    listed = measure.parts(None, "cuda")
    for part in listed.values():
        inspect.signature(part.func).bind(Folder(None), **part.keywords)
    written = {
        name
        for module in (measure, tiles)
        for name, part in inspect.getmembers(module, inspect.isfunction)
        if next(iter(inspect.signature(part).parameters), "") == "folder"
    }
    assert written - {"baseline", "run"} == {part.func.__name__ for part in listed.values()}


def test_a_wrong_search_is_not_timed(monkeypatch, folder):
    right = measure.knn

    def wrong(*arguments, backend):
        found = right(*arguments, backend=backend)
        return type(found)(
            found.distances, found.indices + (backend == "cpu"), found.tie_counts, found.stats
        )

    monkeypatch.setattr(measure, "knn", wrong)
    with pytest.raises(AssertionError, match=r"^nearest 1, tokens: indices differ"):
        measure.searches(folder, "cpu", 70, 128, "cpu", ["nearest 1, tokens"])


def test_baselines_find_the_nearest():
    random = np.random.default_rng(0)
    query, reference = (
        torch.from_numpy(random.integers(0, 256, (n, 40), dtype=np.uint8)) for n in (70, 128)
    )
    right = (query[:, None].int() - reference.int()).square().sum(-1).argmin(1)
    found = {}
    for name, search in measure.nearest_of("uint8"):
        try:
            found[name] = search(query, reference)
        except ImportError:
            continue
    assert {"torch._int_mm + min", "torch float32 product + min", "torch.cdist + topk"} <= set(
        found
    )
    assert all(torch.equal(indices, right) for indices in found.values())
    assert [name for name, _ in measure.nearest_of("float32")] == [
        name for name, _ in measure.nearest_of("uint8")
    ][1:]


def test_wrong_neighbors_are_counted(monkeypatch, folder):
    pytest.importorskip("sklearn")
    measure.wrong_neighbors(folder, "cpu", 10, 40, "cpu")
    assert not folder.failures
    records = {record.name: record for record in folder.records()}
    assert records["near-copies, bright, uint8: biasgen.knn"].wrong == 0
    assert records["near-copies, bright, uint8: torch._int_mm + min"].wrong == 0
    assert records["near-copies, bright, uint8: torch.cdist + topk"].wrong > 0.02
    assert records["near-copies, photo, float32: faiss-gpu"].missing.startswith("ImportError")
    assert len(records) == 3 * (
        2 + len([*measure.nearest_of("uint8")]) + len([*measure.nearest_of("float32")])
    )
    monkeypatch.setattr(
        measure, "knn", lambda x, y, **_: Neighbours(None, torch.zeros(len(x), 1).long(), None, {})
    )
    monkeypatch.setattr(measure, "nearest_of", lambda dtype: iter(()))
    measure.wrong_neighbors(folder, "cpu", 4, 20, "cpu")
    assert len(failed(folder)) == 6
    assert re.fullmatch(
        r"AssertionError: .*uint8: biasgen.knn: [\d.]+% wrong", next(iter(failed(folder).values()))
    )


def test_a_failed_part_does_not_stop_the_others(folder):
    def broken(folder):
        folder.once("copy", lambda: {"value": 3.0, "unit": "GB/s"})
        raise RuntimeError("out of luck")

    def good(folder):
        folder.once("product", lambda: {"value": 4.0, "unit": "TOP/s"})

    measure.run(folder, {"one": broken, "two": good})
    assert [record.name for record in folder.records()] == ["copy", "product"]
    assert failed(folder) == {"part: one": "RuntimeError: out of luck"}
    assert [line["passed"] for line in folder.lines() if "passed" in line] == ["part: two"]


def test_clocks_are_watched(monkeypatch, tmp_path, folder):
    lines = (
        "1980, 0x0000000000000001, 70.1, 30",
        "1500, 0x0000000000000004, 690.5, 61",
        "1400, 0x0000000000000024, 700, 63",
    )
    script(
        tmp_path / "nvidia-smi", "\n".join(f"echo '{line}'" for line in lines) + "\nexec sleep 60"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    calls = []
    found = clocks.under(lambda: calls.append(1), lambda: __import__("time").sleep(0.01), 0.3)
    assert calls
    note = "held back by: power cap, thermal, by software; 695 W, 62 degrees"
    assert found == {"value": 1450, "unit": "MHz", "note": note}
    with pytest.raises(RuntimeError, match=r"^nvidia-smi said: Field is not valid$"):
        clocks.told("Field is not valid\n")


def test_denoisers_of_the_sweep_at_toy_size(monkeypatch):
    assert len([*sweep.denoisers("cpu", "cpu", 20, 150)]) == len(sweep.DENOISED)
    right = sweep.empirical_denoise

    def wrong(x_t, rows, scale, sigma, backend):
        return right(x_t, rows, scale, sigma * (1.01 if backend == "cpu" else 1), backend=backend)

    monkeypatch.setattr(sweep, "empirical_denoise", wrong)
    with pytest.raises(AssertionError, match="beyond the promise"):
        next(sweep.denoisers("cpu", "cpu", 20, 150))


def test_sweep_at_toy_size(monkeypatch, folder):
    sweep.run(folder, "cpu", "torch", (20, 150), (5, 40))
    passed = [line["passed"] for line in folder.lines() if "passed" in line]
    assert len(passed) == len(set(passed)) == len(sweep.SEARCHED) + len(sweep.DENOISED)
    assert ": equal; " in sweep.preparation("cpu", 300, 24)
    numbers = iter(range(9))
    monkeypatch.setattr(sweep, "range_count", lambda *_: torch.tensor(next(numbers)))
    with pytest.raises(
        AssertionError, match=r"^sqeuclidean, uint8, 20 x 150 x 64, k = 1: counts differ$"
    ):
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
            graphs.check_replay(
                lambda work: (on_the_cpu(work)[0], lambda: None), work, first, second
            )


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
            raise torch.OutOfMemoryError(
                f"max_memory: wanted 20.50 MiB on cuda:0, which has room for 1200 bytes: {advice}"
            )

    graphs.check_out_of_memory(search, 10**6)
    assert asked == [10**6, 600]
    with pytest.raises(AssertionError, match=r"^out of memory said: nothing$"):
        graphs.check_out_of_memory(lambda max_memory: None, 1)
    with pytest.raises(AssertionError, match=r"^out of memory said: max_memory: wanted"):
        graphs.check_out_of_memory(lambda max_memory: search(max_memory, "good luck"), 10**6)


def test_graphs_run_every_case(monkeypatch, folder):
    """What a device alone has, left out: the rest is handed over as it should."""
    called = []
    monkeypatch.setattr(graphs, "searches", lambda *_: iter([("a search", len, 1, 2)]))
    monkeypatch.setattr(graphs, "posteriors", lambda *_: iter([("a tree", max, 3, 4)]))
    for name in ("check_replay", "check_side_stream", "check_refusal", "check_full_memory"):
        monkeypatch.setattr(graphs, name, lambda *given, name=name: called.append((name, *given)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    graphs.run(folder)
    assert called == [
        ("check_replay", graphs.cuda_graph, len, 1, 2),
        ("check_side_stream", len, 1, 2),
        ("check_replay", graphs.cuda_graph, max, 3, 4),
        ("check_side_stream", max, 3, 4),
        ("check_refusal", graphs.cuda_graph, "cuda"),
        ("check_full_memory",),
    ]
    assert not folder.failures


def test_sanitizer_runs_every_tool_and_reports(tmp_path, capsys):
    program = script(tmp_path / "program", "echo 7 checks hold")
    good = script(tmp_path / "good", 'echo "========= ERROR SUMMARY: 0 errors ($2)"')

    def said(program, tool):
        folder = Folder(None)
        sanitizer.check(folder, program, tool)
        return folder, "".join(capsys.readouterr())

    folder, lines = said(program, str(good))
    assert "alone: 7 checks hold" in lines
    assert all(
        f"{tool}: ========= ERROR SUMMARY: 0 errors ({tool})" in lines for tool in sanitizer.TOOLS
    )
    assert not folder.failures
    assert "not on this machine" in said(program, None)[1]
    unable = script(tmp_path / "unable", 'echo "Device not supported"; exit 1')
    assert "memcheck: cannot run here (Device not supported)" in said(program, str(unable))[1]
    bad = script(tmp_path / "bad", "echo Invalid write; exit 9")
    folder, lines = said(program, str(bad))
    assert [*failed(folder)] == [*sanitizer.TOOLS]
    assert re.search(r"memcheck --error-exitcode 9 .*: exit status 9\nInvalid write", lines)
    assert [*failed(said(script(tmp_path / "wrong", "exit 1"), None)[0])] == ["alone"]


def test_sanitizer_is_found_beside_the_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    (tmp_path / "bin").mkdir()
    nvcc = script(tmp_path / "bin/nvcc", "")
    assert sanitizer.find(str(nvcc)) is None
    tool = script(tmp_path / "bin/compute-sanitizer", "")
    assert sanitizer.find(str(nvcc)) == str(tool)


def test_user_calls_are_profiled(on_disk, capsys):
    profiles.run(on_disk, "cpu", (3, 4, 40, 24), None, [])
    records = {record.name: record for record in on_disk.records()}
    assert {name for name in records if records[name].missing is None} == {
        "user call TreeDenoiser",
        "user call knn",
        "user call EmpiricalDenoiser",
    }
    assert records["counters of ncu"].missing == "ncu is not on this machine"
    assert all(records[name].milliseconds > 0 for name in records if name.startswith("user call"))
    with zipfile.ZipFile(on_disk.path / "details.zip") as details:
        assert "aten::" in details.read("profiler/EmpiricalDenoiser.txt").decode()
        assert len(details.namelist()) == 3


def test_ncu_is_read(on_disk, tmp_path):
    lines = [
        f'"{number}","{kernel}(int)","1"' for number, kernel in enumerate(profiles.KERNELS.values())
    ]
    ncu = script(
        tmp_path / "ncu",
        "echo ==PROF== Connected\n" + "\n".join(f"echo '{line}'" for line in lines),
    )
    found = profiles.counters(on_disk, str(ncu), ["program"])
    assert found == {"value": 6, "unit": "kernels", "note": "details.zip: ncu.csv"}
    with zipfile.ZipFile(on_disk.path / "details.zip") as details:
        assert details.read("ncu.csv").decode().splitlines() == lines
    script(ncu, "echo '==ERROR== ERR_NVGPUCTRPERM - no permission'; exit 1")
    assert (
        profiles.counters(on_disk, str(ncu), [])["missing"]
        == "ncu counted nothing: ERR_NVGPUCTRPERM - no permission"
    )
    script(ncu, f"echo '{lines[0]}'")
    with pytest.raises(
        AssertionError, match=r"^ncu did not see within, weigh, mean, paper tree, trajectory$"
    ):
        profiles.counters(on_disk, str(ncu), [])


def test_ncu_is_asked_for_kernels_that_there_are():
    sources = [*(ROOT / "csrc/cuda").glob("*.cu"), *(ROOT / "biasgen/triton_kernels").glob("*.py")]
    text = "".join(path.read_text() for path in sources)
    assert all(re.search(rf"(def |\b){kernel}\(", text) for kernel in profiles.KERNELS.values())


def test_machine_code_is_kept(on_disk, tmp_path):
    tool = script(
        tmp_path / "cuobjdump",
        'case "$*" in *res-usage*) echo "REG:62 STACK:8";; *) echo "Function: $1";; esac',
    )
    code = machine_code.dump(b"", str(tool))
    assert code[:2] == (62, 8)
    machine_code.triton(on_disk, ["nearest 1, int8, 64 x 128", "mean, fp32"], lambda name: code)
    assert machine_code.cuda(on_disk, tmp_path / "_cuda.so", str(tool), 90).startswith(
        "details.zip: sass/cuda-sass.txt"
    )
    assert [(record.name, record.value, record.note) for record in on_disk.records()] == [
        ("registers of nearest 1, int8, 64 x 128", 62, "8 bytes of stack"),
        ("registers of mean, fp32", 62, "8 bytes of stack"),
    ]
    with zipfile.ZipFile(on_disk.path / "details.zip") as details:
        assert sorted(details.namelist()) == [
            "sass/cuda-res-usage.txt",
            "sass/cuda-sass.txt",
            "sass/mean-fp32.txt",
            "sass/nearest-1-int8-64-x-128.txt",
        ]
        assert details.read("sass/cuda-sass.txt") == b"Function: -arch=sm_90\n"
    script(tool, "echo nothing")
    with pytest.raises(AssertionError, match=r"^_cuda.so has no code for sm_80$"):
        machine_code.cuda(on_disk, tmp_path / "_cuda.so", str(tool), 86)
