"""Where biasgen loses: small sets, of which a call costs more than the search. python -m benchmarks.small_sets prints the table.

Microseconds of CPU a call on one thread, the least of interleaved rounds: top-1 of n queries among m rows of D features, the reference
prepared (biasgen, faiss) or as it is (torch.cdist and min, what most code has). faiss and torch get float32 rows and answer in float32.
"""
import itertools

import faiss
import numpy as np
import torch

import biasgen
from benchmarks import baselines, harness

D_SIZES, M_SIZES, N_SIZES = (64, 3072), (100, 300, 1000), (1, 10, 100)
ROUNDS, SECONDS = 15, 0.005


def row(n, m, D, rng, rounds=ROUNDS, seconds=SECONDS):
    """Seconds a call: biasgen uint8, biasgen float32, faiss, torch.cdist; each checked to find the nearest rows."""
    query, reference = (rng.integers(0, 256, (rows, D), dtype=np.uint8) for rows in (n, m))
    x, y = query.astype(np.float32), reference.astype(np.float32)
    integers, floats, index = biasgen.TrainingSet(reference), biasgen.TrainingSet(y), baselines.faiss_flat(y)
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    nearest = integers.knn(query).indices
    for other in (floats.knn(x).indices, index.search(x, 1)[1]):
        assert (other == nearest).all()
    calls = (
        lambda: integers.knn(query),
        lambda: floats.knn(x),
        lambda: index.search(x, 1),
        lambda: torch.cdist(*tensors).min(1),
    )
    return harness.least_seconds(calls, rounds, seconds)


def main():
    biasgen.set_num_threads(1)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    print(f"{harness.machine()}\n")
    print("| D | m | n | biasgen uint8, us | biasgen float32, us | faiss, us | torch.cdist, us |\n|---|---|---|---|---|---|---|")
    for D, m, n in itertools.product(D_SIZES, M_SIZES, N_SIZES):
        times = row(n, m, D, rng)
        best = times.argmin()
        cells = (f"**{t * 1e6:.0f}**" if i == best else f"{t * 1e6:.0f}" for i, t in enumerate(times))
        print(f"| {D} | {m} | {n} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
