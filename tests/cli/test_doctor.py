"""`biasgen doctor` names every backend, with the reason where one cannot run."""
import re
import subprocess
import sysconfig
from pathlib import Path

import torch

from biasgen import backends
from biasgen.backends import cpu_backend, cuda_backend, triton_backend
from biasgen.cli import doctor
from biasgen.distances import DISTANCES

COMMAND = str(Path(sysconfig.get_path("scripts")) / "biasgen")


MODULES = {"cpu": cpu_backend, "triton": triton_backend}


def missing(everything, module):
    """Distances of knn that a backend leaves to torch."""
    ordered_by = {name: DISTANCES[name].ordered_by for name in everything.OPS["knn"]["distances"]}
    return [name for name, by in ordered_by.items() if by not in module.OPS["knn"]["distances"]]


def others(usual, other, distances):
    """What doctor says of an op that `usual` runs but for these distances."""
    return f"{usual}; {other} for {', '.join(distances)}" if distances else usual


def test_doctor():
    result = subprocess.run([COMMAND, "doctor"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for name in backends.ORDER:
        line = next(line for line in result.stdout.splitlines() if line.startswith(name))
        assert "usable" in line
    assert "knn" in result.stdout
    assert "tree_posterior" in result.stdout


def test_doctor_says_what_runs_each_op(monkeypatch, capsys):
    monkeypatch.delenv("BIASGEN_BACKEND", raising=False)
    refused = backends.refusal
    lacking = {name: missing(backends.load("torch")[0], module) for name, module in MODULES.items()}
    assert doctor.chosen("knn", "cpu") == others("cpu", "torch", lacking["cpu"])
    assert doctor.chosen("range_count", "cpu") == "torch"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor.run(None) == 0
    row = rf"^knn +{others('cpu', 'torch', lacking['cpu'])} +no CUDA device here$"
    assert re.search(row, capsys.readouterr().out, re.M)

    def with_a_device(name, op, *, device, **call):
        if (name, device) == ("cuda", "cuda"):
            return None if op in cuda_backend.OPS else f"has no {op}"
        if (name, device) == ("triton", "cuda"):
            return None if call["distance"] in triton_backend.OPS.get(op, {"distances": ()})["distances"] else f"has no {op}"
        return refused(name, op, device=device, **call)

    monkeypatch.setattr(backends, "refusal", with_a_device)
    monkeypatch.setattr(backends, "load", lambda name, load=backends.load: load(name if name != "cuda" else "torch"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert doctor.run(None) == 0
    said = capsys.readouterr().out
    assert re.search(r"^tree_posterior +cpu +cuda$", said, re.M)
    assert re.search(r"^empirical_denoise +cpu +triton; torch for hamming$", said, re.M)
    if "cuda" in triton_backend.DEVICES:
        for op in ("knn", "range_count"):
            assert doctor.chosen(op, "cuda") == others("triton", "torch", lacking["triton"])
    monkeypatch.setenv("BIASGEN_BACKEND", "cpu")
    assert doctor.chosen("knn", "cpu") == others("cpu", "none", lacking["cpu"])


def test_no_verb_is_an_error():
    result = subprocess.run([COMMAND], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "usage" in result.stderr
