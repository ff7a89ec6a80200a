"""Nearest neighbours against a NumPy loop and an exact matrix product. Gates: Hamming 50x the loop."""
import numpy as np
import pytest

import biasgen
from benchmarks import baselines, harness

HAMMING_GATE = 50.0


def test_hamming(smoke, benchmark):
    n, m = (50, 500) if smoke else (5000, 12000)
    grammar = biasgen.TreeGrammar.random()
    query, reference = grammar.sample(n, seed=0), grammar.sample(m, seed=1)
    train = biasgen.TrainingSet(reference)
    slice_ = query[: max(1, n // 100)]   # the loop takes seconds on all of them: time per query is compared
    np.testing.assert_array_equal(train.knn(slice_).distances[:, 0], baselines.hamming_loop(slice_, reference))
    result = harness.compare(
        harness.Side(f"hamming top-1, {n} x {m}, L=16 q=6, pairs", lambda: train.knn(query), n * m),
        harness.Side("NumPy loop", lambda: baselines.hamming_loop(slice_, reference), len(slice_) * m),
        smoke=smoke,
    )
    print(f"\n{result}")
    benchmark.pedantic(train.knn, (query,), rounds=3)
    assert smoke or result.ratio >= HAMMING_GATE


@pytest.mark.parametrize("D", [64, 3072])
def test_uint8(smoke, benchmark, D):
    n, m = (20, 100) if smoke else (200, 5000)
    rng = np.random.default_rng(0)
    query, reference = (rng.integers(0, 256, (rows, D), dtype=np.uint8) for rows in (n, m))
    train = biasgen.TrainingSet(reference)
    np.testing.assert_array_equal(train.knn(query).distances[:, 0], baselines.uint8_matmul(query, reference))
    slice_ = query[: max(1, n // 4)]
    result = harness.compare(
        harness.Side(f"uint8 sqeuclidean top-1, {n} x {m}, D={D}, pairs", lambda: train.knn(query), n * m),
        harness.Side("float64 product (exact)", lambda: baselines.uint8_matmul(slice_, reference), len(slice_) * m),
        smoke=smoke,
    )
    print(f"\n{result}")
    benchmark.pedantic(train.knn, (query,), rounds=3)
