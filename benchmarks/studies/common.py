"""What the studies share: the grammar's rows, work on several processes, pages."""
import argparse
import datetime
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

import biasgen
from biasgen import Schedule, TreeDenoiser, TreeGrammar
from biasgen.diffusion import sample_tokens

matplotlib.use("Agg")

GRAMMAR, SCHEDULE = TreeGrammar.random(), Schedule.linear()
EXACT = TreeDenoiser(GRAMMAR)
DOCS = Path(__file__).parent.parent.parent / "docs" / "studies"
ROWS_A_DRAW = 1 << 17     # of the grammar's list of samples: more than any draw uses, so draws are independent


def rows(count: int, *, seed: int, draw: int) -> np.ndarray:
    """(count, 16) independent sequences, disjoint over draws."""
    return GRAMMAR.sample(count, seed=seed, offset=draw * ROWS_A_DRAW)


def sample(denoiser: Any, n: int, **options: Any) -> np.ndarray:
    """(n, 16) int8 samples of a denoiser; options of biasgen.diffusion.sample_tokens."""
    return sample_tokens(denoiser, SCHEDULE, n, shape=(GRAMMAR.length, GRAMMAR.q), **options).numpy().astype(np.int8)


def options(description: str, **defaults: int) -> argparse.Namespace:
    """Command line: --draws and the like, --processes."""
    parser = argparse.ArgumentParser(description=description)
    for name, value in (defaults | {"processes": os.cpu_count() or 1}).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the page and its picture")
    parser.add_argument("--records", type=Path, default=Path("build/studies"), help="folder of what a study keeps to continue from")
    return parser.parse_args()


def parallel(function: Callable[[Any], Any], items: Iterable[Any], processes: int) -> list[Any]:
    """[function(item)] in order, on processes of one thread each."""
    with multiprocessing.get_context("spawn").Pool(processes, _one_thread) as pool:
        return pool.map(function, items, chunksize=1)


def _one_thread() -> None:
    torch.set_num_threads(1)
    biasgen.set_num_threads(1)


def table(heading: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; numbers to the right."""
    aligned = ["---" if i == 0 else "---:" for i in range(len(heading))]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in (heading, aligned, *lines))


def write(folder: Path, name: str, text: str, figure: Any | None, started: float, seed: int) -> None:
    """docs/studies/<name>.md and .png, if it has a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    minutes = (time.perf_counter() - started) / 60
    made = (
        f"Seed {seed}, {datetime.date.today().isoformat()}, biasgen {biasgen.__version__}, {minutes:.0f} min on {os.cpu_count()} cores; "
        f"made by `python -m benchmarks.studies.{name}` (all of them: `make figures`)."
    )
    (folder / f"{name}.md").write_text(f"{text.rstrip()}\n\n{made}\n")
    if figure is not None:
        figure.savefig(folder / f"{name}.png", dpi=110)
