"""What a fresh interpreter does on `import biasgen`, against the installed package."""
import subprocess
import sys

import pytest

import biasgen


def run(code, cwd):
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_loads_nothing_heavy(tmp_path):
    code = (
        "import sys, biasgen\n"
        "heavy = {'torch', 'numpy', 'triton', 'matplotlib', 'biasgen._cpu', 'biasgen._cuda'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    run(code, tmp_path)


def test_every_public_name_resolves(tmp_path):
    out = run("import biasgen\nfor name in biasgen.__all__: print(name, bool(getattr(biasgen, name).__doc__))", tmp_path)
    assert [line.split()[0] for line in out.splitlines()] == biasgen.__all__


def test_unknown_name():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = biasgen.no_such_name
