"""The layer rule of docs/architecture.md, kept by parsing imports; file sizes; the one reader of the environment."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "biasgen"
FILES = sorted(PACKAGE.rglob("*.py"))
LEVELS = [   # a module may import from levels below its own; within one level only from its own folder, and trees from data and diffusion
    {"_numbers"},
    {"distances", "results", "_settings", "_version", "_progress"},
    {"oracle", "testing", "triton_kernels", "_cpu", "_cuda"},
    {"backends"},
    {"ops"},
    {"statistics", "trees", "diffusion", "data"},
    {"metrics", "controls"},
    {"monitor"},
    {"report", "experiments"},
    {"cli"},
]
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}
THIRD_PARTIES = {   # module: the only folders that may import it
    "triton": {"triton_kernels"},
    "matplotlib": {"report"},
    "PIL": {"data"},
    "scipy": set(),
    "sklearn": set(),
    "faiss": set(),
}
SUFFIXES = {".py", ".h", ".cpp", ".cu"}
STANDARD_ONLY = {"_numbers", "distances", "results", "_settings", "_version", "_progress"}


def imports(path):
    """Names of the modules that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module in ("biasgen", "biasgen.backends"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(path, package=PACKAGE):
    return path.relative_to(package).parts[0].removesuffix(".py")


def breaches(path, package=PACKAGE):
    own = part(path, package)
    if own == "__init__":
        return []
    found = []
    for module in imports(path):
        top, *rest = module.split(".")
        if top in THIRD_PARTIES and own not in THIRD_PARTIES[top]:
            found.append(f"{path.name} imports {module}")
        if own in STANDARD_ONLY and top in ("torch", "numpy"):
            found.append(f"{path.name} imports {module}")
        if top != "biasgen" or not rest or rest[0] not in LEVEL:
            continue
        other = rest[0]
        allowed = LEVEL[other] < LEVEL[own] or other == own or (own, other) in (("trees", "data"), ("trees", "diffusion"))
        if other == "oracle":
            allowed = allowed and own == "oracle"
        if not allowed:
            found.append(f"{path.name} ({own}) imports {module}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    assert part(path) in LEVEL or part(path) == "__init__", f"{path}: name its level in this test and in docs/architecture.md"
    assert breaches(path) == []


def test_a_breach_is_found(tmp_path):
    bad = tmp_path / "ops" / "bad.py"
    bad.parent.mkdir()
    bad.write_text("import triton\nfrom biasgen import metrics\nfrom biasgen.backends import cpu_backend\n")
    assert breaches(bad, tmp_path) == ["bad.py imports triton", "bad.py (ops) imports biasgen.metrics"]
    bad.write_text("from biasgen.oracle import knn\n")
    assert breaches(bad, tmp_path) == ["bad.py (ops) imports biasgen.oracle"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_environment_has_one_reader(path):
    assert path.name == "_settings.py" or "environ" not in path.read_text()


def test_files_are_small_and_say_what_they_are_for():
    sources = [p for folder in ("biasgen", "csrc", "tests", "benchmarks") for p in (ROOT / folder).rglob("*") if p.suffix in SUFFIXES]
    assert len(sources) > 60
    for path in sources:
        lines = path.read_text().splitlines()
        limit = 500 if path.suffix == ".py" else 400
        assert len(lines) <= limit, f"{path}: {len(lines)} lines, limit {limit}"
        assert lines[0].startswith(('"""', "//", "#")), f"{path}: the first line must say what the file is for"
