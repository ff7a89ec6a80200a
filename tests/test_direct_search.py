"""The native search pair by pair: what its quick sums may get wrong, and what it refuses."""
import numpy as np
import pytest

from biasgen import backends, knn
from biasgen.backends import cpu_backend
from biasgen.oracle import knn as oracle

pytestmark = pytest.mark.skipif(backends.load("cpu")[0] is None, reason="biasgen._cpu is not built")
LEVELS = cpu_backend._cpu.isa_levels() if cpu_backend._cpu else ()
DISTANCES = [
    name for name, search in cpu_backend.SEARCHES.items() if search is cpu_backend._by_pairs
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_what_a_quick_sum_gets_wrong(monkeypatch, level, distance):
    """Sums beyond the largest float, and rows that only differ by what single precision rounds."""
    monkeypatch.setenv("BIASGEN_CPU_ISA", level)
    rng = np.random.default_rng(0)
    huge = (rng.choice([-3e38, 3e38], (60, 40)) * rng.uniform(0.9, 1, (60, 40))).astype(np.float32)
    close = rng.uniform(1, 2, (1, 300)).astype(np.float32)
    close = np.stack([rng.permutation(close[0]) for _ in range(80)])
    for rows, query in ((huge, -huge[:9]), (close, np.zeros((1, 300), np.float32))):
        found = knn(query, rows, 9, distance=distance, backend="cpu")
        wanted = oracle.knn(query, rows, 9, distance)
        answer = found.distances, found.indices, found.tie_counts
        for ours, theirs in zip(answer, wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_pair_that_is_as_far_as_the_limit_halfway(monkeypatch, level, distance):
    """It is no tie: what follows counts, too."""
    monkeypatch.setenv("BIASGEN_CPU_ISA", level)
    reference = np.zeros((3, 9000), np.uint8)
    reference[:, 0], reference[1, -1], reference[2, 4100] = 1, 5, 2
    query = np.zeros((1, 9000), np.uint8)
    for k in (1, 3):  # with 3 there is no limit before all rows were seen
        found = knn(query, reference, k, distance=distance, backend="cpu")
        wanted = oracle.knn(query, reference, k, distance)
        assert found.distances.tolist() == wanted[0].tolist()
        assert found.indices.tolist() == wanted[1].tolist() == [[0, 2, 1][:k]]
        assert found.tie_counts.tolist() == wanted[2].tolist() == [1]


def test_native_boundary():
    native, n, k = cpu_backend._cpu, np.zeros(3, np.int64), np.zeros((3, 1), np.int64)
    byte, real = np.zeros((3, 2), np.uint8), np.zeros((3, 2))
    near, within = native.knn_direct, native.direct_within
    start, wide = ("baseline", DISTANCES[0]), np.zeros((3, 3), np.uint8)
    offsets = np.zeros(4, np.int64)
    for call, message in (
        (lambda: near("baseline", "cosine", byte, byte, n, k, k, n, n), "distance: want one of "),
        (lambda: near(*start, byte, real, n, k, k, n, n), "reference: want the element type of"),
        (lambda: near(*start, real.astype(int), real, n, k, k, n, n), "query: want uint8, float32"),
        (lambda: near(*start, byte, wide, n, k, k, n, n), "reference: want rows of the query's"),
        (lambda: near(*start, byte, byte, n, k * 1.0, k, n, n), "values: want .* int64 for bytes"),
        (lambda: near(*start, real, real, n, k, k, n, n), "values: want .* else float64"),
        (lambda: near(*start, byte, byte, n[:2], k, k, n, n), "multiplicity: want "),
        (lambda: near(*start, byte, byte, n, k, k[:2], n, n), "rows: want "),
        (lambda: near(*start, byte, byte, n, k, k, n[:2], n), "tie_rows: want "),
        (lambda: near(*start, byte, byte, n, k, k, n, n[:2]), "tie_counts: want "),
        (lambda: within(*start, byte, byte, n * 1.0, offsets, n), "radius: want .* int64 for bytes"),
        (lambda: within(*start, real, real, n, offsets, n), "radius: want .* else float64"),
        (lambda: within(*start, byte, byte, n, offsets[:3], n), "offsets: want "),
        (lambda: within(*start, byte, byte, n, offsets, n), "offsets: do not match the number"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            call()
