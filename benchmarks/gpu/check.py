"""make gpu-check: builds biasgen with its CUDA module, proves it on this machine's GPU and measures it; under 8 minutes, without network.

Each step is a process of its own with a limit in seconds; the next one runs whatever became of it. The failed ones are named at the end.
"""
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build/gpu/site"
WORKERS = 8   # that compile Triton kernels at the same time


@dataclass(frozen=True)
class Step:
    name: str
    command: list[str]
    seconds: float


def steps(python: str = sys.executable, site: Path = SITE) -> list[Step]:
    """In their order; the sum of the limits is what may be waited for."""
    pip = ["-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "--no-index", "--upgrade", "--target", str(site), str(ROOT)]
    workers = ["-n", str(WORKERS)] if importlib.util.find_spec("xdist") else []
    tests = [str(path) for path in sorted((ROOT / "tests/interpreted").glob("*.py"))]
    pytest = ["-m", "pytest", "-q", *workers, "-W", "default", "-o", "pythonpath=", "-c", str(ROOT / "pyproject.toml"), *tests]
    module = "benchmarks.gpu."
    return [
        Step("build", [python, *pip], 120),
        Step("conformance: the interpreter's tests, compiled", [python, *pytest], 90),
        Step("conformance: larger shapes", [python, "-m", module + "sweep"], 75),
        Step("sanitizer", [python, "-m", module + "sanitizer"], 45),
        Step("graphs, streams, memory", [python, "-m", module + "graphs"], 40),
        Step("measurements", [python, "-m", module + "measure"], 110),
    ]


def environment(site: Path = SITE) -> dict[str, str]:
    """What is built is imported, not the sources beside it."""
    own = {"BIASGEN_CUDA": "ON", "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "PYTHONSAFEPATH": "1", "TRITON_INTERPRET": "0"}
    return os.environ | {"TRITON_CACHE_DIR": str(ROOT / "build/triton")} | own


def run(steps: Iterable[Step], env: dict[str, str]) -> dict[str, str]:
    """{name of a failed step: why}; every step runs, with what it prints passed on."""
    failed = {}
    for step in steps:
        print(f"\n== {step.name} (at most {step.seconds:g} s)", flush=True)
        begin = time.monotonic()
        process = subprocess.Popen(step.command, cwd=ROOT, env=env, start_new_session=True)   # so that its children end with it
        try:
            status = process.wait(step.seconds)
            why = f"exit status {status}" if status else ""
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            why = f"longer than {step.seconds:g} s"
        if why:
            failed[step.name] = why
        print(f"== {step.name}: {why or 'passed'}, {time.monotonic() - begin:.1f} s", flush=True)
    return failed


def refusal() -> str | None:
    """Why nothing of this can run here, or None."""
    for tool in ("nvcc", "g++"):
        if shutil.which(tool) is None:
            return f"{tool} is not on PATH"
    try:
        import torch
        import triton  # noqa: F401
    except ImportError as error:
        return f"{error}; name another Python: make gpu-check PYTHON=..."
    if not torch.cuda.is_available():
        return "no CUDA device here; `make test` proves what can be proved without one (docs/gpu.md)"
    return None


def main() -> None:
    why = refusal()
    if why:
        sys.exit(f"gpu-check: {why}")
    shutil.rmtree(SITE, ignore_errors=True)
    begin = time.monotonic()
    failed = run(steps(), environment())
    print(f"\ngpu-check: {time.monotonic() - begin:.0f} s")
    sys.exit("\n".join(f"gpu-check: {name}: {why}" for name, why in failed.items()) or 0)


if __name__ == "__main__":
    main()
