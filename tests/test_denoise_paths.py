"""The empirical denoiser's three native paths: right at every level, taken where they should be, blind to the rest of the batch."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from biasgen import EmpiricalDenoiser, Level, TrainingSet, _settings, backends
from biasgen.backends import _codes, _denoise_paths, cpu_backend
from biasgen.ops.empirical_denoise import empirical_denoise
from biasgen.oracle import empirical_denoise as oracle
from biasgen.testing import assert_denoised_close
from tests.denoise_problem import problem

pytestmark = pytest.mark.skipif(backends.load("cpu")[0] is None, reason="biasgen._cpu is not built")
ISAS = cpu_backend._cpu.isa_levels() if cpu_backend._cpu else ()
FIELDS = ("x0_hat", "log_density", "effective_sample_size", "dropped")


@pytest.fixture
def taken(monkeypatch):
    """How many queries took each path; counted on one thread."""
    monkeypatch.setattr(_settings, "_num_threads", 1)
    counts = {"listed": 0, "dense": 0, "direct": 0}

    def counted(name, inner, result):
        def run(self, *arguments):
            before = self._left.sum()
            inner(self, *arguments)
            counts[result] += int(before - self._left.sum())

        monkeypatch.setattr(_denoise_paths._Batch, name, run)

    for name in counts:
        counted(f"_{name}", getattr(_denoise_paths._Batch, f"_{name}"), name)
    return counts


@pytest.mark.parametrize("sigma", [1e-4, 1e-2, 0.3, 1.0, 30.0, 1e3])
@pytest.mark.parametrize(
    ("M", "D", "dtype"),
    [(1, 1, np.float32), (97, 1, np.float64), (1500, 17, np.float32), (300, 96, np.float64), (41, 3072, np.float32), (9, 1030, np.float64)],
)
def test_every_level(implementation, M, D, dtype, sigma):
    for scale in (1e-3, 1.0):
        x, rows = problem([M, D], 11, M, D, scale, sigma, dtype)
        for weights in (None, np.random.default_rng(0).normal(0, 3, M)):
            found = empirical_denoise(x, rows, scale, sigma, log_weights=weights, backend=implementation)
            expected = oracle.empirical_denoise(x, rows, scale, sigma, weights)
            far = distances(x, rows, scale) > 1e5 * sigma  # beyond the promise
            assert_denoised_close(*((pair[0][~far], pair[1][~far]) for pair in ((found.x0_hat, found.log_density), expected)), rows)
            assert (found.dropped[~far] <= 1.0001e-12).all()
            assert (found.effective_sample_size >= 1 - 1e-12).all()
            assert (found.effective_sample_size <= len(np.unique(rows, axis=0)) + 1e-9).all()


def distances(x, rows, scale):
    return np.sqrt([((row - scale * rows.astype(float)) ** 2).sum(1).min() for row in x.astype(float)])


@pytest.mark.parametrize("isa", ISAS)
def test_the_path_is_that_of_least_work(isa, monkeypatch, taken):
    monkeypatch.setenv("BIASGEN_CPU_ISA", isa)
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (3000, 40)).astype(np.float32)
    for path, scale, sigma in (("listed", 1.0, 0.01), ("dense", 0.1, 1.0), ("dense", 0.0, 1.0)):
        taken.update(listed=0, dense=0, direct=0)
        x = scale * rows[:70].astype(float) + sigma * rng.standard_normal((70, 40))
        found = empirical_denoise(x, rows, scale, sigma, backend="cpu")
        assert_denoised_close(found, oracle.empirical_denoise(x, rows, scale, sigma), rows)
        assert taken == {"listed": 0, "dense": 0, "direct": 0} | {path: 70}, path


def test_crowded_rows_are_taken_directly(taken):
    """Too many rows within the noise for a list, and too far from the center for squares expanded in double."""
    rng = np.random.default_rng(1)
    rows = 1e-6 * rng.standard_normal((2000, 5)) + np.where(np.arange(2000)[:, None] % 2, 3.0, -3.0)
    x = rows[:9] + 1e-6 * rng.standard_normal((9, 5))
    assert_denoised_close(empirical_denoise(x, rows, 1.0, 1e-6, backend="cpu"), oracle.empirical_denoise(x, rows, 1.0, 1e-6), rows)
    assert taken["direct"] == 9


@pytest.mark.parametrize("isa", ISAS)
def test_bits_do_not_depend_on_the_batch(isa, monkeypatch, taken):
    monkeypatch.setenv("BIASGEN_CPU_ISA", isa)
    rng = np.random.default_rng(2)
    x, rows = problem(2, 150, 1100, 35, 0.7, 0.1)
    rows[:500] = rows[0] + np.float32(1e-6) * rng.standard_normal((500, 35), np.float32)  # too many for a list
    x[:30] = 0.7 * rows[:30]
    scale, sigma = np.where(np.arange(150) % 7 == 6, 0.0, 0.7), np.append(np.full(30, 1e-5), 10 ** rng.uniform(-6, 1, 120))
    train = TrainingSet(rows)

    def run(at, **options):
        return empirical_denoise(x[at], train, scale[at], sigma[at], backend="cpu", **options)

    def check(found, at):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[at], name)

    whole = run(np.arange(150))
    assert min(taken.values()) > 10, taken
    shuffled = rng.permutation(150)
    check(run(shuffled), shuffled)
    for size in (1, 7, 64):
        for start in range(0, 150, size):
            check(run(np.arange(start, min(start + size, 150))), slice(start, start + size))
    check(run(np.arange(150), max_memory=1), slice(None))
    check(run(np.arange(150), max_memory=300_000), slice(None))
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("BIASGEN_NUM_THREADS", threads)
        check(run(np.arange(150)), slice(None))


def test_equal_rows_and_weights_are_one_thing(implementation):
    x, rows = problem(3, 20, 60, 8, 1.0, 0.3)
    counts = np.random.default_rng(3).integers(0, 4, 60)
    counts[0] = 1
    with np.errstate(divide="ignore"):
        weighted = empirical_denoise(x, rows, 1.0, 0.3, log_weights=np.log(counts), backend=implementation)
    repeated = empirical_denoise(x, np.repeat(rows, counts, 0), 1.0, 0.3, backend=implementation)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=1e-6, atol=1e-6)


def test_effective_sample_size(implementation):
    """Of rows at the same distance their number; of one row 1; between, one over the sum of the squared weights."""
    rows = np.eye(50, dtype=np.float64)
    for noise, scale in ((0.01, 1.0), (1.0, 1.0), (3.0, 0.0)):
        found = empirical_denoise(np.zeros((1, 50)), rows, scale, noise, backend=implementation)
        np.testing.assert_allclose(found.effective_sample_size, 50, rtol=1e-6)
    np.testing.assert_allclose(EmpiricalDenoiser(rows).effective_sample_size(rows[:3], Level(1.0, 0.01)), 1)
    odds = math.exp(-1 / (2 * 0.7**2))
    found = empirical_denoise(np.zeros((1, 1)), np.array([[0.0], [1.0]]), 1.0, 0.7, backend=implementation)
    np.testing.assert_allclose(found.effective_sample_size, (1 + odds) ** 2 / (1 + odds**2), rtol=1e-12)


def test_sums_over_panels(implementation):
    """Weights that grow from row to row: what was summed before shrinks at every panel. Logarithms of the sum as exact as its terms."""
    rng = np.random.default_rng(8)
    rows, x = rng.uniform(-1, 1, (400, 3)), rng.standard_normal((20, 3))
    weights = np.linspace(-9, 0, 400)
    found = empirical_denoise(x, rows, 0.5, 1.0, log_weights=weights, backend=implementation)
    w = np.exp(weights - ((x[:, None] - 0.5 * rows) ** 2).sum(2) / 2)
    np.testing.assert_allclose(found.effective_sample_size, w.sum(1) ** 2 / (w**2).sum(1), rtol=1e-10)
    np.testing.assert_allclose(found.log_density, np.log(w.sum(1) / np.exp(weights).sum()) - 1.5 * np.log(2 * np.pi), rtol=0, atol=1e-13)


@pytest.mark.parametrize("sigma", [0.05, 5.0])
def test_far_from_the_origin(sigma):
    """scale * row is nowhere rounded: 1e9 away from the origin that would cost 1e-7 a number."""
    rng = np.random.default_rng(9)
    rows = rng.uniform(-1, 1, (300, 12)) + 1e9
    x = 0.7 * rows[:20] + sigma * rng.standard_normal((20, 12))
    assert_denoised_close(empirical_denoise(x, rows, 0.7, sigma, backend="cpu"), oracle.empirical_denoise(x, rows, 0.7, sigma), rows)


def test_the_bound_of_what_is_dropped_is_sharp(monkeypatch):
    """All rows but one lie just beyond the band: hardly less than the bound is lost."""
    monkeypatch.setattr(_denoise_paths, "DROPPED", 1e-3)
    angles, radius = np.arange(50) * 2 * np.pi / 50, np.sqrt(2 * np.log(51e3) * (1 + 1e-9))
    rows = np.append(radius * np.stack([np.cos(angles), np.sin(angles)], 1), np.zeros((1, 2)), 0)
    found, (_, log_density) = empirical_denoise(rows[-1:], rows, 1.0, 1.0), oracle.empirical_denoise(rows[-1:], rows, 1.0, 1.0)
    lost = -np.expm1(found.log_density - log_density)
    assert 0.97 * found.dropped < lost < found.dropped < 1.0001e-3


def test_the_dropped_mass_is_bounded(monkeypatch, taken):
    """With a band that drops a thousandth the bound is reported, above the truth, and the answer is as far off as it says."""
    monkeypatch.setattr(_denoise_paths, "DROPPED", 1e-3)
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((500, 3))
    x = rows[:40] + 0.05 * rng.standard_normal((40, 3))
    found, (x0_hat, log_density) = empirical_denoise(x, rows, 1.0, 0.05, backend="cpu"), oracle.empirical_denoise(x, rows, 1.0, 0.05)
    assert taken["listed"] == 40
    lost = -np.expm1(found.log_density - log_density)
    assert (found.dropped <= 1.0001e-3).all()
    assert (lost <= found.dropped).all()
    assert lost.max() > 1e-7  # something was dropped
    assert (abs(found.x0_hat - x0_hat).max(1) <= found.dropped * np.ptp(rows)).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), M=st.integers(1, 70), D=st.integers(1, 20), band=st.floats(0, 2), rest=st.sampled_from([0.0, 1e-3, 0.3]))
def test_the_band_holds_every_row_that_matters(data, M, D, band, rest):
    number = st.floats(-1, 1, width=16)
    rows, query = (data.draw(hnp.arrays(np.float32, (n, D), elements=number)) for n in (M, 3))
    z = query + rest * data.draw(hnp.arrays(np.float64, (3, D), elements=st.floats(-1, 1))) / math.sqrt(D)
    squares = ((z[:, None] - rows) ** 2).sum(2)
    for isa in ISAS:
        codes = _codes.encode(cpu_backend._cpu, isa, rows, "sqeuclidean")
        levels = np.full(3, rest), np.full(3, band)
        lists, counts = cpu_backend._cpu.floats_band(isa, query, *codes.operands, *levels, M, M)
        for n in range(3):
            wanted = np.flatnonzero(squares[n] <= (squares[n].min() + band) * (1 - 1e-12))
            assert set(wanted) <= set(lists[n, : counts[n]])
            assert len(set(lists[n, : counts[n]])) == counts[n]


@pytest.mark.parametrize("isa", ISAS)
def test_the_rest_of_a_query_counts_twice(isa):
    """The query may be 0.05 farther from the nearest row than it is, and as much nearer to another."""
    rows, query = np.array([[-1.0], [1.09], [1.3]]), np.zeros((1, 1))
    codes = _codes.encode(cpu_backend._cpu, isa, rows, "sqeuclidean")
    lists, counts = cpu_backend._cpu.floats_band(isa, query, *codes.operands, np.full(1, 0.05), np.zeros(1), 3, 3)
    assert sorted(lists[0, : counts[0]]) == [0, 1]


@pytest.mark.parametrize("isa", ISAS)
def test_the_band_keeps_no_more_than_it_must(isa):
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((400, 6)).astype(np.float32)
    codes = _codes.encode(cpu_backend._cpu, isa, rows, "sqeuclidean")
    squares = ((rows[:5, None].astype(float) - rows) ** 2).sum(2)
    wanted = [set(np.flatnonzero(row <= 1.5)) for row in squares]
    search = (isa, rows[:5], *codes.operands, np.zeros(5), np.full(5, 1.5))
    lists, counts = cpu_backend._cpu.floats_band(*search, 400, 400)
    assert [set(found[:n]) for found, n in zip(lists, counts, strict=True)] == wanted
    longest = int(counts.max())
    assert longest > 4
    lists, short = cpu_backend._cpu.floats_band(*search, longest // 2, 400)
    assert (short[counts == longest] == -1).all()
    assert (cpu_backend._cpu.floats_band(*search, 400, 0)[1] == -1).all()


def test_what_is_prepared_is_prepared_once(monkeypatch):
    rng = np.random.default_rng(6)
    rows = rng.uniform(-1, 1, (1200, 30)).astype(np.float32)
    x, calls, encode = rows[:5] + np.float32(0.01), [], _codes.encode
    monkeypatch.setattr(_codes, "encode", lambda *arguments: calls.append(len(arguments[2])) or encode(*arguments))
    train = TrainingSet(rows)
    for _ in range(2):
        found = empirical_denoise(x, train, 1.0, 0.01, backend="cpu")
        EmpiricalDenoiser(rows)  # prepares rows, not what only a call needs
    assert sorted(calls) == [300, 1200]
    by_array = empirical_denoise(x, rows, 1.0, 0.01, backend="cpu")
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(by_array, name))
    mixed = empirical_denoise(x.astype(np.float64), train, 1.0, 0.01, backend="cpu")
    np.testing.assert_array_equal(mixed.log_density, found.log_density)


def test_a_training_set_of_bytes_is_refused():
    with pytest.raises(ValueError, match=r"^rows: want float32 or float64, got uint8"):
        empirical_denoise(np.zeros((1, 3)), TrainingSet(np.zeros((2, 3), np.uint8)), 1.0, 1.0)
    with pytest.raises(ValueError, match=r"^rows: want finite numbers, at most 1e\+100, got 1e\+120 in row 1"):
        empirical_denoise(np.zeros((1, 1)), TrainingSet(np.array([[0.0], [1e120]])), 1.0, 1.0)


def test_what_the_process_has_set_does_not_matter():
    x, rows = problem(7, 30, 200, 12, 0.8, 0.2)
    expected = empirical_denoise(x, rows, 0.8, 0.2, backend="cpu")
    torch.set_flush_denormal(True)
    try:
        found = empirical_denoise(x, rows, 0.8, 0.2, backend="cpu")
    finally:
        torch.set_flush_denormal(False)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
