"""make gpu-check: builds biasgen with its CUDA module, proves every GPU kernel here, and measures.

python3 -m benchmarks.gpu.check [--out FOLDER] [--budget SECONDS] [--resume] [--plan]

Every step is a process of its own. It may use its share of the budget, and what the steps before it
have left; then its process group is killed and the next step begins, so no step can starve an
earlier one. The folder holds record.jsonl (folder.py), the log of each step, and details.zip.
Exit status: 0 all has passed; 1 something failed; 3 something is unfinished and nothing failed.
"""

import argparse
import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.folder import FAILED, PASSED, UNFINISHED, Folder
from benchmarks.gpu.records import table

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build/gpu"
WORKERS = 8  # processes that compile Triton kernels at the same time
BUDGET = 480  # seconds
STATUS = {PASSED: 0, FAILED: 1, UNFINISHED: 3}
SOURCES = ("CMakeLists.txt", "pyproject.toml", "csrc", "biasgen", "benchmarks", "tests")
_SUFFIXES = {".py", ".h", ".cpp", ".cu", ".txt", ".toml"}
_TAIL = 30  # lines of the log of a failed step that are printed


@dataclass(frozen=True)
class Step:
    """name: steps with the same words before a colon write to one log.

    seconds: expected on an H100 with 16 cores. share: of the budget.
    makes: a folder without which the step has to run again.
    """

    name: str
    command: list[str]
    seconds: float
    share: float
    environment: dict[str, str] = field(default_factory=dict)
    makes: Path | None = None


def steps(python: str = sys.executable, site: Path = BUILD / "site") -> list[Step]:
    """In their order. The first three prove the kernels."""
    flags = ["--no-build-isolation", "--no-deps", "--no-index", "--upgrade", "--target", str(site)]
    workers = ["-n", str(WORKERS)] if importlib.util.find_spec("xdist") else []
    tests = [
        str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests/interpreted").glob("*.py"))
    ]
    options = [
        "-p",
        "benchmarks.gpu.proved",
        "-W",
        "default",
        "-o",
        "pythonpath=",
        "-c",
        "pyproject.toml",
    ]
    pytest = [python, "-m", "pytest", "-v", *workers, *options, *tests]
    threads = {"OMP_NUM_THREADS": "2"}

    def module(name: str) -> list[str]:
        return [python, "-m", f"benchmarks.gpu.{name}"]

    return [
        Step(
            "build", [python, "-m", "pip", "install", "-q", *flags, str(ROOT)], 50, 0.13, makes=site
        ),
        Step("CUDA trees", module("trees"), 20, 0.08),
        Step("Triton conformance", pytest, 80, 0.20, threads),
        Step("sanitizer", module("sanitizer"), 30, 0.08),
        Step("measure", module("measure"), 110, 0.24),
        Step("rest: larger sizes", module("sweep"), 40, 0.09),
        Step("rest: streams and memory", module("graphs"), 20, 0.05),
        Step("rest: profiles", module("profiles"), 35, 0.08),
        Step("rest: machine code", module("machine_code"), 20, 0.05),
    ]


def plan(listed: Sequence[Step]) -> str:
    """The steps with their expected seconds; the last line is the sum."""
    lines = [f"{step.name:28}{step.seconds:4.0f} s" for step in listed]
    return "\n".join([*lines, f"{'sum':28}{sum(step.seconds for step in listed):4.0f} s"])


def environment(site: Path) -> dict[str, str]:
    """What is built is imported, not the sources beside it; then what the caller's path holds."""
    path = [str(site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "BIASGEN_CUDA": "ON",
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "TRITON_INTERPRET": "0",
    }
    return os.environ | {"TRITON_CACHE_DIR": str(ROOT / "build/triton")} | own


def execute(step: Step, env: dict[str, str], seconds: float, log: Path) -> int | None:
    """The exit status; None where it took longer, and was ended with all its children.

    What it prints goes to the end of `log`.
    """
    with open(log, "ab") as out:
        out.write(f"== {step.name}: {' '.join(step.command)}\n".encode())
        out.flush()
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=env | step.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return None


def run(listed: Sequence[Step], folder: Folder, env: dict[str, str], budget: float) -> int:
    """Every step that the folder does not prove; the exit status of all."""
    end, states = time.monotonic(), []
    logs = list(dict.fromkeys(_log(step) for step in listed))
    for step in listed:
        begin = time.monotonic()
        end += step.share * budget
        if folder.state(step.name) == PASSED and (step.makes is None or step.makes.exists()):
            print(f"== {step.name}: passed before", flush=True)
            continue
        print(f"== {step.name}: at most {end - begin:.0f} s", flush=True)
        if step.makes:
            shutil.rmtree(step.makes, ignore_errors=True)
        log = folder.path / f"{1 + logs.index(_log(step))}-{_log(step)}.log"
        before = len(folder.lines())
        status = execute(step, env | folder.environment(step.name), end - begin, log)
        failed = [line["failed"] for line in folder.lines()[before:] if "failed" in line]
        state = FAILED if status or failed else UNFINISHED if status is None else PASSED
        why = (
            "longer than its share" if status is None else f"exit status {status}" if status else ""
        )
        seconds = round(time.monotonic() - begin, 1)
        folder.add(step=step.name, state=state, why=why, seconds=seconds)
        states.append(state)
        if state == FAILED:
            print("\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:]))
        items = "".join(f"\n     failed: {item}" for item in failed)
        print(f"== {step.name}: {state}{why and f' ({why})'}, {seconds:g} s{items}", flush=True)
    return next((STATUS[state] for state in (FAILED, UNFINISHED) if state in states), 0)


def _log(step: Step) -> str:
    return step.name.split(":")[0].lower().replace(" ", "-")


def refusal() -> str | None:
    """Why nothing of this can run here, or None."""
    for tool in ("nvcc", "g++", "nvidia-smi"):
        if shutil.which(tool) is None:
            return f"{tool} is not on PATH"
    try:
        import torch
        import triton  # noqa: F401
    except ImportError as error:
        return f"{error}; name another Python: make gpu-check PYTHON=..."
    if not torch.cuda.is_available():
        return (
            "no CUDA device here; `make test` proves what can be proved without one (docs/gpu.md)"
        )
    return None


def about() -> dict[str, str]:
    """Device and versions, without a word to the device."""

    def said(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    number = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    asked = "--query-gpu=name,driver_version", "--format=csv,noheader", f"--id={number}"
    device, driver = said("nvidia-smi", *asked).split(", ")
    return {
        "device": device,
        "driver": driver,
        "torch": importlib.metadata.version("torch"),
        "triton": importlib.metadata.version("triton"),
        "nvcc": re.search(r"release ([0-9.]+)", said("nvcc", "--version"))[1],
    }


def key(what: dict[str, str], root: Path = ROOT) -> str:
    """Of the sources and of what `about` says. What is proved for one says nothing of another."""
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for path in sorted(_sources(root)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _sources(root: Path) -> Iterable[Path]:
    for name in SOURCES:
        for path in [root / name, *(root / name).rglob("*")]:
            if path.is_file() and path.suffix in _SUFFIXES:
                yield path


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        "gpu-check", description="docs/gpu.md says what to do with what it finds"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of what is found (benchmarks/results/<date>-<device>)"
    )
    parser.add_argument(
        "--budget", type=float, default=BUDGET, help="seconds for everything (%(default)s)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="leave out what the folder proves already"
    )
    parser.add_argument(
        "--plan", action="store_true", help="print the steps and their expected seconds"
    )
    found = parser.parse_args(words)
    if not 0 < found.budget < float("inf"):
        parser.error(f"--budget: want a positive number of seconds, got {found.budget:g}")
    return found


def main(words: Sequence[str] | None = None) -> None:
    given = arguments(words)
    if given.plan:
        print(plan(steps()))
        return
    why = refusal()
    if why:
        sys.exit(f"gpu-check: {why}")
    what = about()
    today = f"{datetime.date.today().isoformat()}-{what['device'].replace(' ', '-')}"
    out = (given.out or ROOT / "benchmarks/results" / today).resolve()
    out.mkdir(parents=True, exist_ok=True)
    folder = Folder(out, key(what))
    if folder.record.exists() and not given.resume:
        sys.exit(
            f"gpu-check: --out: {out} holds an earlier run; add --resume, or name another folder"
        )
    if not any("about" in line for line in folder.lines()):
        folder.add(about=what)
    print(", ".join(f"{name} {value}" for name, value in what.items()), flush=True)
    site = BUILD / folder.key
    for old in BUILD.glob("*"):  # of other sources
        if old != site:
            shutil.rmtree(old, ignore_errors=True)
    begin = time.monotonic()
    status = run(steps(site=site), folder, environment(site), given.budget)
    print(f"\n{table(folder.records())}\n\ngpu-check: {time.monotonic() - begin:.0f} s, {out}")
    state = next(name for name, number in STATUS.items() if number == status)
    print(f"gpu-check: {state}" + (": go on with --resume" if status == 3 else ""))
    sys.exit(status)


if __name__ == "__main__":
    main()
