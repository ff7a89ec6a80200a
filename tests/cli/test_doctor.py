"""`biasgen doctor` names every backend, with the reason where one cannot run."""
import re
import subprocess
import sysconfig
from pathlib import Path

import torch

from biasgen import backends
from biasgen.backends import cuda_backend, triton_backend
from biasgen.cli import doctor

COMMAND = str(Path(sysconfig.get_path("scripts")) / "biasgen")


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
    assert doctor.chosen("knn", "cpu") == "cpu; torch for cityblock"
    assert doctor.chosen("range_count", "cpu") == "torch"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor.run(None) == 0
    assert re.search(r"^knn +cpu; torch for cityblock +no CUDA device here$", capsys.readouterr().out, re.M)

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
        assert doctor.chosen("knn", "cuda") == "triton; torch for cityblock"
        assert doctor.chosen("range_count", "cuda") == "triton; torch for cityblock"
    monkeypatch.setenv("BIASGEN_BACKEND", "cpu")
    assert doctor.chosen("knn", "cpu") == "cpu; none for cityblock"


def test_no_verb_is_an_error():
    result = subprocess.run([COMMAND], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "usage" in result.stderr
