"""`biasgen doctor` names every backend, with the reason where one cannot run."""
import subprocess
import sysconfig
from pathlib import Path

from biasgen import backends

COMMAND = str(Path(sysconfig.get_path("scripts")) / "biasgen")


def test_doctor():
    result = subprocess.run([COMMAND, "doctor"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for name in backends.ORDER:
        line = next(line for line in result.stdout.splitlines() if line.startswith(name))
        assert "usable" in line
    assert "knn" in result.stdout
    assert "tree_posterior" in result.stdout


def test_no_verb_is_an_error():
    result = subprocess.run([COMMAND], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "usage" in result.stderr
