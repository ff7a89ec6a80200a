"""The version is the same everywhere; the command is installed."""
import importlib.metadata
import re
import subprocess
import sysconfig
from pathlib import Path

import biasgen

ROOT = Path(__file__).parent.parent


def test_one_version():
    assert importlib.metadata.version("biasgen") == biasgen.__version__
    assert f"version: {biasgen.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {biasgen.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_command_is_installed():
    command = Path(sysconfig.get_path("scripts")) / "biasgen"
    out = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert out.strip() == f"biasgen {biasgen.__version__}"


def test_the_license_of_the_cuda_runtime_comes_along():
    text = importlib.metadata.distribution("biasgen").read_text("licenses/licenses/NVIDIA-CUDA-RUNTIME.txt")
    assert text == (ROOT / "licenses/NVIDIA-CUDA-RUNTIME.txt").read_text()
    assert "libcudart_static.a" in text


def test_torch_is_pinned_in_one_place():
    texts = [p.read_text() for p in (ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / ".ci" / "run")]
    assert not any(re.search(r"torch==", text) for text in texts)
    assert "torch==" in (ROOT / "constraints.txt").read_text()


def test_files_that_texts_name_exist():
    """A comment or a document that names a file by its folder: it is there, below one of `bases`.

    Tests are left out: they name files that they make up.
    """
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT).stdout.split()
    kinds = {"", ".py", ".h", ".cpp", ".cu", ".md", ".toml", ".sh"}
    texts = [name for name in listed if Path(name).suffix in kinds and not name.startswith("tests/")]
    bases = [ROOT, *(ROOT / name for name in ("biasgen", "csrc", "docs", "tests", "benchmarks", "biasgen/trees"))]
    named = re.compile(r"(?<![\w$<{}/.*~-])[a-z_]\w*(?:/[\w-]+)+\.(?:py|h|cpp|cu|md)\b")
    found = {(text, path) for text in texts for path in named.findall((ROOT / text).read_text(errors="ignore"))}
    assert not listed or len(found) > 100
    places = {pair: [base / pair[1] for base in [*bases, (ROOT / pair[0]).parent]] for pair in found}
    assert [pair for pair in sorted(found) if not any(map(Path.exists, places[pair]))] == []


def test_links_of_the_documents_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
        missing = [link for link in links if not link.startswith("https://") and not (page.parent / link).exists()]
        assert not missing, f"{page.name}: {missing}"
