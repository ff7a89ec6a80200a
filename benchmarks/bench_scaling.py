"""How a search grows: with threads, with the numbers of queries and rows, in memory. The gates are in docs/benchmarks.md."""
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import biasgen
from benchmarks import harness, peak

THREADS_GATE, MEMORY_GATE, EXPONENT_GATE = 0.92, 200e6, 0.05  # bytes; off 1
CONTROL_SCALING = 1.8  # below it the second core is somebody else's, and the row says nothing
ROUNDS = 3


def hamming_sets(n, m):
    grammar = biasgen.TreeGrammar.random()
    return grammar.sample(n, seed=0), grammar.sample(m, seed=1)


def uint8_sets(n, m, D):
    rng = np.random.default_rng(0)
    return tuple(rng.integers(0, 256, (rows, D), dtype=np.uint8) for rows in (n, m))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    biasgen.set_num_threads(1)
    yield
    biasgen.set_num_threads(1)
    torch.set_num_threads(threads)


def wall(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_threads(threads):
    """The control: registers alone, the same work in one thread or in two."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(peak.byte_products, [12 * peak.ROUNDS // threads] * threads))


@pytest.mark.parametrize("kind", ["uint8 2000 x 50000, D=3072", "hamming 200000 x 12000, L=16"])
def test_two_threads(smoke, kind):
    if peak.library() is None or os.cpu_count() < 2:
        pytest.skip("no AVX-512, no compiler or one core")
    small = 100 if smoke else 1
    query, reference = (
        uint8_sets(2000 // small, 50_000 // small, 3072) if kind[0] == "u" else hamming_sets(200_000 // small, 12_000 // small)
    )
    train = biasgen.TrainingSet(reference)

    def search(threads):
        biasgen.set_num_threads(threads)
        return train.knn(query)

    np.testing.assert_array_equal(search(1).indices, search(2).indices)
    for _ in range(1 if smoke else harness.REPEATS):
        seconds = np.array([[wall(lambda f=f, t=t: f(t)) for f in (search, in_threads) for t in (1, 2)] for _ in range(2 if smoke else 5)])
        ours_1, ours_2, control_1, control_2 = seconds.min(0)
        ours, control = ours_1 / ours_2, control_1 / control_2
        print(f"\n{kind}: two threads {ours:.2f}x, registers only {control:.2f}x, ratio {ours / control:.3f}   wall time")
        if smoke or (control >= CONTROL_SCALING and ours >= THREADS_GATE * control):
            return
    if control < CONTROL_SCALING:
        pytest.skip(f"void: two threads of registers only are {control:.2f}x one: the second core is busy")
    assert ours >= THREADS_GATE * control


MEMORY = """
import sys
import numpy as np
import biasgen

def resident(key):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1])

n, m, distance = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)
query, reference = (rng.integers(0, 256 if distance == "sqeuclidean" else 6, (rows, 64), dtype=np.uint8) for rows in (n, m))
biasgen.knn(query[:9], reference[:9], distance=distance, backend="cpu")
before = resident("VmRSS")
train = biasgen.TrainingSet(reference, distance)
prepared = resident("VmHWM")
train.knn(query, backend="cpu")
print(prepared - before, resident("VmHWM") - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
@pytest.mark.parametrize("distance", ["sqeuclidean", "hamming"])
def test_memory(smoke, distance):
    n, m = (50, 1000) if smoke else (50_000, 1_000_000)
    environment = os.environ | {"BIASGEN_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMORY, str(n), str(m), distance]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    prepared, whole = (int(part) for part in out.split())
    print(f"\n{distance} top-1, {n} x {m} x 64 B: {whole / 1e6:.0f} MB beyond the data, {prepared / 1e6:.0f} MB to prepare it")
    assert smoke or whole <= MEMORY_GATE


GROWTH = {
    "hamming in n, m=120000": lambda i: hamming_sets(2000 * 10**i, 120_000),
    "hamming in m, n=20000": lambda i: hamming_sets(20_000, 10_000 * 10**i),
    "uint8 D=3072 in n, m=2000": lambda i: uint8_sets(200 * 10**i, 2000, 3072),
    "uint8 D=3072 in m, n=1000": lambda i: uint8_sets(1000, 500 * 10**i, 3072),
}


@pytest.mark.parametrize("kind", GROWTH)
def test_growth(smoke, kind):
    """No decade grows faster than in proportion, and the last one in proportion: small sets pay more a pair."""
    calls, sizes = [], []
    for i in range(3):
        query, reference = GROWTH[kind](i)
        if smoke:
            query, reference = query[: 10 * 2**i], reference[: 10 * 2**i]
        train = biasgen.TrainingSet(reference)
        calls.append(lambda q=query, t=train: t.knn(q))
        sizes.append(len(query) if " n," in kind else train.distinct)
    seconds = harness.least_seconds(calls, *(1, 0.0) if smoke else (ROUNDS, harness.SHORTEST))
    decades = np.diff(np.log(seconds)) / np.diff(np.log(sizes))
    times = ", ".join(f"{size}: {t * 1e3:.3g} ms" for size, t in zip(sizes, seconds, strict=True))
    print(f"\n{kind}: exponents {decades[0]:.3f}, {decades[1]:.3f}; {times}")
    assert smoke or (decades <= 1 + EXPONENT_GATE).all()
    assert smoke or decades[1] >= 1 - 2 * EXPONENT_GATE


def test_small_sets():
    """The script runs; its numbers are in docs/benchmarks.md, and are gated by nothing."""
    pytest.importorskip("faiss")
    from benchmarks import small_sets

    assert (small_sets.row(3, 50, 16, np.random.default_rng(0), rounds=1, seconds=0.0) > 0).all()
