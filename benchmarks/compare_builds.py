"""Is a new build as fast as an old one? python -m benchmarks.compare_builds OLD_CHECKOUT

OLD_CHECKOUT is a clone whose `.venv` was made by `make`; the new build is this checkout, as it is
installed here. Both run in one process: each row must give the same answer in both, and is timed as
harness.py does it, in interleaved rounds by the process CPU clock on one thread. The ratio is that
of the minima, the control the new build against itself. A row of work may take 1.07 of the old
time; an eager call must take less than it did. A row that fails is tried twice more, on data that
are made anew.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ExtensionFileLoader, PathFinder
from importlib.util import find_spec, module_from_spec, spec_from_file_location, spec_from_loader
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.build_rows import EAGER, WORK
from tests.golden.record import differences, plain

ROOT = Path(__file__).resolve().parents[1]
SLOWER = 1.07  # of the old time: what a row of work may take
TOLERANCE = 2e-5  # twice what docs/exactness.md promises where bits may differ
_NUMBERS = count()


class Build(MetaPathFinder):
    """The biasgen of a checkout, beside others in this process.

    with build.active(): biasgen is this build's, and so is whatever it imports, then or later. Its
    ops are registered with torch in a namespace of their own.
    """

    def __init__(self, checkout: Path) -> None:
        self._package = checkout / "biasgen"
        self._places = [str(self._package), str(_native_folder(checkout))]
        self._modules: dict[str, Any] = {}
        self._namespace = f"biasgen_build_{next(_NUMBERS)}"

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Where an import of biasgen, or of a part of it, leads."""
        if name == "biasgen":
            return spec_from_file_location(
                name, self._package / "__init__.py", submodule_search_locations=self._places
            )
        found = PathFinder.find_spec(name, path) if name.startswith("biasgen.") else None
        if found is not None and isinstance(found.loader, ExtensionFileLoader):
            return spec_from_loader(name, _Native(f"{self._namespace}.{name}", found.origin))
        return found

    @contextmanager
    def active(self) -> Iterator[None]:
        """This build is what `biasgen` means."""
        others, register = _taken_out(), torch.library.custom_op

        def custom_op(name: str, *arguments: Any, **options: Any) -> Any:
            return register(
                name.replace("biasgen::", f"{self._namespace}::"), *arguments, **options
            )

        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self)
        torch.library.custom_op = custom_op
        try:
            yield
        finally:
            torch.library.custom_op = register
            sys.meta_path.remove(self)
            self._modules = _taken_out()
            sys.modules.update(others)


class _Native(Loader):
    """Loads a native module under a name of its own: pybind11 makes one module of a name only."""

    def __init__(self, alias: str, path: str) -> None:
        self._alias, self._path = alias, path

    def create_module(self, spec: Any) -> Any:
        own = spec_from_file_location(self._alias, self._path)
        module = module_from_spec(own)
        own.loader.exec_module(module)
        return module

    def exec_module(self, module: Any) -> None:
        """It was run when it was made."""


def compare(
    row: Callable, old: Build, new: Build, *, smoke: bool, old_first: bool = True
) -> tuple[float, float, float]:
    """(seconds of the old build, seconds of the new one, the new one's control over it) for a row.

    AssertionError where the builds answer differently. old_first: whose data are made first.
    """
    builds = (old, new) if old_first else (new, old)
    calls = {build: _run(build, lambda: row(smoke)) for build in builds}
    answers = [plain(_run(build, calls[build]), True) for build in (old, new)]
    found = list(differences(*answers, TOLERANCE))
    assert not found, found[:5]
    rounds, shortest = (2, 0.0) if smoke else (harness.ROUNDS, harness.SHORTEST)
    least = _least([(build, calls[build]) for build in (old, new, new)], rounds, shortest)
    return least[0], least[1], least[2] / least[1]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare_builds", description=__doc__
    )
    parser.add_argument("old", type=Path, help="a checkout with a .venv")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--smoke", action="store_true", help="toy sizes, two rounds: does it run?")
    arguments = parser.parse_args(argv)
    old, new = Build(arguments.old.resolve()), Build(ROOT)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    failed = 0
    try:
        for build in (old, new):
            with build.active():
                import biasgen

                biasgen.set_num_threads(1)
        print(
            f"{harness.machine()}\n\n{'row':36} {'old, us':>10} {'new, us':>10} {'new/old':>8} "
            f"{'control':>8}"
        )
        for name, row in (WORK | EAGER).items():
            if arguments.only not in name:
                continue
            for attempt in range(1 if arguments.smoke else harness.REPEATS):
                old_first = attempt % 2 == 0  # where data lie in memory is luck, too
                before, after, control = compare(
                    row, old, new, smoke=arguments.smoke, old_first=old_first
                )
                verdict = _verdict(name, after / before, control)
                if not verdict:
                    break
            failed += bool(verdict)
            numbers = (
                f"{before * 1e6:10.1f} {after * 1e6:10.1f} {after / before:8.3f} {control:8.3f}"
            )
            print(f"{name:36} {numbers}  {'' if arguments.smoke else verdict}".rstrip(), flush=True)
    finally:
        torch.set_num_threads(threads)
    return 0 if arguments.smoke else int(failed > 0)


def _verdict(name: str, ratio: float, control: float) -> str:
    """What is wrong with a row; nothing where it passed."""
    if not harness.CONTROL[0] <= control <= harness.CONTROL[1]:
        return "void: this machine is too noisy now"
    return "" if (ratio < 1 if name in EAGER else ratio <= SLOWER) else "SLOWER"


def _least(sides: list[tuple[Build, Callable]], rounds: int, shortest: float) -> np.ndarray:
    """CPU seconds of a call of each side, the least of `rounds` in turn of `shortest` seconds."""
    once = [_seconds(*side, 1) for side in sides]
    repeats = [max(1, round(shortest / max(seconds, 1e-6) + 0.5)) for seconds in once]
    repeats[2] = repeats[1]
    return np.min(
        [
            [_seconds(*side, n) for side, n in zip(sides, repeats, strict=True)]
            for _ in range(rounds)
        ],
        axis=0,
    )


def _seconds(build: Build, call: Callable, repeats: int) -> float:
    with build.active():
        if repeats > 1:
            call()  # a short call would feel what the one before it has left in the caches
        return harness.cpu_seconds(call, repeats) / repeats


def _run(build: Build, call: Callable) -> Any:
    with build.active():
        return call()


def _taken_out() -> dict[str, Any]:
    """The modules of biasgen that are imported, which are so no longer."""
    names = [name for name in sys.modules if name == "biasgen" or name.startswith("biasgen.")]
    return {name: sys.modules.pop(name) for name in names}


def _native_folder(checkout: Path) -> Path:
    """Where a checkout's native module is: in this environment for our own, else in its .venv."""
    if checkout == ROOT:
        return Path(find_spec("biasgen._cpu").origin).parent
    built = sorted(checkout.glob(".venv/lib/python*/site-packages/biasgen/_cpu*.so"))
    if not built:
        raise ValueError(
            f"OLD_CHECKOUT: want a clone with a .venv that `make` has built, got {checkout}"
        )
    return built[0].parent


if __name__ == "__main__":
    sys.exit(main())
