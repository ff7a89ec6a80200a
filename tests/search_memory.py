"""Run by test_search_memory.py in a process of its own: what searches take beyond their inputs, MiB, a line a case."""
import ctypes

import numpy as np
import torch

from biasgen import TrainingSet
from biasgen.backends import torch_backend

MIB = 1 << 20


def peak(call):
    """Bytes by which the resident memory grew at most during a call."""
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that the process keeps would hide growth
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the high-water mark falls to what is resident
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name):
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))


def problem(kind):
    """(query (n, D), reference (m, D), distance, a distance in the middle)."""
    rng = np.random.default_rng(0)
    if kind == "all equally far":  # every pair stays open
        both = np.eye(500, dtype=np.float32)
        return np.zeros((256, 500), np.float32), np.concatenate([both, -both]), "sqeuclidean", 1.0
    if kind == "uint8":
        rows = rng.integers(0, 256, (4000, 300), dtype=np.uint8)
        return rows[:1000], rows[1000:], "sqeuclidean", 3.2e6
    if kind == "tokens":
        rows = rng.integers(0, 6, (5000, 32), dtype=np.uint8)
        return rows[:1000], rows[1000:], "hamming", 26.0
    rows = rng.standard_normal((4200, 1000), np.float32)
    return rows[:100], rows[100:], "sqeuclidean", 2000.0


def main():
    torch.set_num_threads(1)
    for kind in ("normal", "all equally far", "uint8", "tokens"):
        query, reference, distance, middle = problem(kind)
        query, train = torch.from_numpy(query), TrainingSet(reference, distance).prepared
        radius = torch.full((len(query),), middle, dtype=torch.float64)
        edges = torch.linspace(0, 2 * middle, 41, dtype=torch.float64)
        calls = {
            "knn k=1": lambda b: torch_backend.knn(query, train, 1, b),  # noqa: B023
            "knn k=16": lambda b: torch_backend.knn(query, train, 16, b),  # noqa: B023
            "range_count": lambda b: torch_backend.range_count(query, train, radius, b),  # noqa: B023
            "distance_histogram": lambda b: torch_backend.distance_histogram(query, train, edges, b),  # noqa: B023
        }
        calls["knn k=1"](16 * MIB)  # what stays with the rows, and what libraries keep
        for name, call in calls.items():
            for budget in (16,) if kind == "all equally far" and name != "knn k=1" else (16, 64, 256):
                print(kind, name, budget, peak(lambda: call(budget * MIB)) / MIB, flush=True)  # noqa: B023


if __name__ == "__main__":
    main()
