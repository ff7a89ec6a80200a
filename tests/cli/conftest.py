"""Fixture: `command` runs a verb in this process, which spares a second of imports a call."""
import pytest

from biasgen.cli import main


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """command(*arguments) -> (status, stdout, stderr), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:     # argparse
            status = stop.code
        return status, *capsys.readouterr()

    return run
