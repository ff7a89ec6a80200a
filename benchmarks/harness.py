"""How a ratio is measured on a noisy machine (docs/benchmarks.md): interleaved rounds in one process, minima, and a control row."""
import gc
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

import biasgen

ROUNDS, SHORTEST, REPEATS = 15, 0.03, 3   # rounds a side, seconds a round, tries until the control row is sound
CONTROL = (0.93, 1.07)                    # an identical side must come out within this, or the table is void


@dataclass(frozen=True)
class Side:
    """name; run: does the work once; work: how much that is, in units that both sides share (pairs, samples)."""

    name: str
    run: Callable[[], object]
    work: float


@dataclass(frozen=True)
class Comparison:
    """ratio: how many times the work a second of `ours` over `baseline`; control: `ours` against itself; rates in work a CPU second."""

    ours: Side
    baseline: Side
    ratio: float
    control: float
    rate: float
    baseline_rate: float
    spread: float

    def __str__(self) -> str:
        return (
            f"{self.ours.name:44} {self.rate:10.3g}/s   {self.baseline.name:28} {self.baseline_rate:10.3g}/s   "
            f"ratio {self.ratio:7.3g}x   control {self.control:.3f}   spread {self.spread:.2f}"
        )


def compare(ours: Side, baseline: Side, *, smoke: bool = False, rounds: int = ROUNDS) -> Comparison:
    """Both sides on one thread, process CPU clock, rounds in turn (ours, baseline, ours again as control); ratio of the minima.

    RuntimeError when the control stays outside CONTROL in every try: then the machine is too noisy to say anything.
    """
    biasgen.set_num_threads(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(REPEATS):
            result = _compare(ours, baseline, 2 if smoke else rounds, 0.0 if smoke else SHORTEST)
            if smoke or CONTROL[0] <= result.control <= CONTROL[1]:
                return result
    finally:
        torch.set_num_threads(threads)
    raise RuntimeError(f"the control row is {result.control:.3f}, outside {CONTROL}: this machine is too noisy now; table void\n{result}")


def machine() -> str:
    """One line: processor, cores, versions."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores; biasgen {biasgen.__version__}, torch {torch.__version__}, one thread, CPU time"


def cpu_seconds(run: Callable[[], object], n: int = 1) -> float:
    """Process CPU time of n runs, without the garbage collector."""
    gc.disable()
    try:
        start = time.process_time()
        for _ in range(n):
            run()
        return time.process_time() - start
    finally:
        gc.enable()


def least_seconds(calls: list[Callable[[], object]], rounds: int, shortest: float) -> np.ndarray:
    """CPU seconds of each call, the least of `rounds` in turn, each repeated for `shortest` seconds."""
    repeats = [_repeats(call, shortest) for call in calls]
    return np.min([[cpu_seconds(call, n) / n for call, n in zip(calls, repeats, strict=True)] for _ in range(rounds)], axis=0)


def _compare(ours: Side, baseline: Side, rounds: int, shortest: float) -> Comparison:
    sides = (ours, baseline, ours)
    repeats = [_repeats(side.run, shortest) for side in (ours, baseline)]
    repeats.append(repeats[0])
    times: list[list[float]] = [[], [], []]
    for _ in range(rounds):
        for side, n, seconds in zip(sides, repeats, times, strict=True):
            if n > 1:
                side.run()   # a short side would feel what the one before it has left in the caches
            seconds.append(cpu_seconds(side.run, n) / n)
    best = [min(seconds) for seconds in times]
    return Comparison(
        ours,
        baseline,
        ratio=(best[1] / baseline.work) / (best[0] / ours.work),
        control=best[2] / best[0],
        rate=ours.work / best[0],
        baseline_rate=baseline.work / best[1],
        spread=sorted(times[0])[len(times[0]) // 2] / best[0],
    )


def _repeats(run: Callable[[], object], shortest: float) -> int:
    run()   # warm
    return max(1, round(shortest / max(cpu_seconds(run), 1e-6) + 0.5))
