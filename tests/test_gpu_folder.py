"""The folder of `make gpu-check`: what it proves and keeps, and what a killed step leaves in it."""

import os
import zipfile
from types import SimpleNamespace

import pytest

from benchmarks.gpu import proved
from benchmarks.gpu.folder import Folder, reason
from benchmarks.gpu.records import Record


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return Folder(tmp_path / "out", "key")


def items(folder, kind="passed"):
    return [line[kind] for line in folder.lines() if kind in line]


def test_workers_leave_out_what_the_controller_says(folder, monkeypatch):
    """pytest-xdist is not on every machine. What has passed meanwhile changes nothing."""
    folder.add(step="conformance", passed="a test")
    monkeypatch.setenv("GPU_CHECK", folder.environment("conformance")["GPU_CHECK"])
    controller = proved.Proved(SimpleNamespace())
    node = SimpleNamespace(workerinput={})
    controller.pytest_configure_node(node)
    folder.add(step="conformance", passed="another test")
    worker = proved.Proved(SimpleNamespace(workerinput=node.workerinput))
    deselected = []
    config = SimpleNamespace(
        hook=SimpleNamespace(pytest_deselected=lambda items: deselected.extend(items))
    )
    tests = [SimpleNamespace(nodeid=name) for name in ("a test", "another test")]
    worker.pytest_collection_modifyitems(config, tests)
    assert [test.nodeid for test in tests] == ["another test"]
    assert [test.nodeid for test in deselected] == ["a test"]
    worker.pytest_runtest_logreport(
        SimpleNamespace(nodeid="x", failed=True, longrepr="", when="call", passed=False)
    )
    assert items(folder) == ["a test", "another test"]
    assert not items(folder, "failed")


def test_a_line_that_was_cut_off_is_left_out(folder):
    folder.add(step="s", passed="one")
    with open(folder.record, "a") as file:
        file.write('{"key": "key", "step": "s", "pas')
    folder.add(step="s", passed="two")
    Folder(folder.path, "other").add(step="s", passed="three")
    assert items(folder) == ["one", "two"]
    assert Folder(folder.path, "key", "s").proved == {"one", "two"}
    assert Folder(folder.path, "key", "t").proved == set()


def test_items_are_done_once(folder, capsys):
    def run(step):
        def fail():
            raise ValueError("first line\nsecond")

        def inner():
            step.once("inner", lambda: "a sentence")
            step.once("inner bad", fail)

        step.once("copy", lambda: {"value": 3.0, "unit": "GB/s"})
        step.once("absent", lambda: {"missing": "no such package"})
        step.once("outer", inner)
        return step

    first = run(Folder(folder.path, "key", "s"))
    assert first.failures == 1
    assert items(folder) == ["inner"]  # outer has not passed
    assert items(folder, "why") == ["ValueError: first line"]
    said = "".join(capsys.readouterr())
    assert "inner: a sentence (" in said
    assert "second" in said
    run(Folder(folder.path, "key", "s"))
    said = capsys.readouterr().out
    assert "copy: passed before" in said
    assert "inner: passed before" in said
    assert folder.records() == [
        Record("copy", 3.0, "GB/s"),
        Record("absent", missing="no such package"),
    ]
    assert len(items(folder, "missing")) == 2  # tried again
    assert reason(ValueError()) == "ValueError: "


def test_details_replace_those_of_the_same_name(folder, monkeypatch):
    folder.keep({"a/b.txt": "old", "c.txt": "kept"})
    folder.keep({"a/b.txt": "new"})
    with zipfile.ZipFile(folder.path / "details.zip") as details:
        assert {name: details.read(name) for name in details.namelist()} == {
            "c.txt": b"kept",
            "a/b.txt": b"new",
        }
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        folder.keep({"d.txt": "never whole"})
    assert [path.name for path in folder.path.iterdir()] == ["details.zip"]
