"""The empirical denoiser on Triton kernels against the oracle. tests/test_triton_backend.py runs this file in Triton's interpreter, in a
process of its own; on a GPU the same tests run the compiled kernels."""
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from biasgen import TrainingSet
from biasgen.backends import _denoise_paths, _triton_check, _triton_denoise, triton_backend
from biasgen.ops.empirical_denoise import empirical_denoise
from biasgen.oracle import empirical_denoise as oracle
from biasgen.testing import assert_denoised_close
from biasgen.triton_kernels import denoise_dense, denoise_listed
from tests.denoise_problem import problem
from tests.triton_launches import watch

DEVICE = triton_backend.DEVICES[0]
DENSE, LISTED = ("weigh", "mean"), ("squares of listed", "mean of listed")
CASES = {f"{verb}, {type}" for verb in DENSE + LISTED for type in ("fp32", "fp64")}
FIELDS = ("x0_hat", "log_density", "effective_sample_size", "dropped")


def denoised(x, rows, scale, sigma, **options):
    """Of arrays, on the device; NumPy."""
    rows = rows if hasattr(rows, "prepared") else torch.from_numpy(rows).to(DEVICE)
    found = empirical_denoise(torch.from_numpy(x).to(DEVICE), rows, scale, sigma, backend="triton", **options)
    return type(found)(*(values.cpu().numpy() for values in vars(found).values()))


@pytest.fixture
def taken(monkeypatch):
    """How many queries took each path."""
    counts = {"listed": 0, "dense": 0, "direct": 0}

    def counted(name, inner):
        def run(self, at, *pairs):
            before = counts["listed"]
            inner(self, at, *pairs)
            counts["listed"] = before if name == "direct" else counts["listed"]  # which lists every row
            counts[name] += len(at)

        monkeypatch.setattr(_triton_denoise._Batch, f"_{name}", run)

    for name in counts:
        counted(name, getattr(_triton_denoise._Batch, f"_{name}"))
    return counts


@pytest.mark.parametrize("sigma", [1e-4, 1e-2, 0.3, 1.0, 30.0, 1e3])
@pytest.mark.parametrize(
    ("M", "D", "dtype"), [(1, 1, np.float32), (65, 1, np.float64), (300, 17, np.float32), (70, 33, np.float64), (9, 130, np.float32)]
)
def test_every_level(M, D, dtype, sigma):
    for scale in (1e-3, 1.0):
        x, rows = problem([M, D], 7, M, D, scale, sigma, dtype)
        weights = None if scale == 1 else np.random.default_rng(0).normal(0, 3, M)
        found, expected = denoised(x, rows, scale, sigma, log_weights=weights), oracle.empirical_denoise(x, rows, scale, sigma, weights)
        squares = np.array([((row - scale * rows.astype(float)) ** 2).sum(1).min() for row in x.astype(float)])
        near = squares <= (1e5 * sigma) ** 2  # beyond is not promised
        assert_denoised_close(*((pair[0][near], pair[1][near]) for pair in ((found.x0_hat, found.log_density), expected)), rows)
        assert (found.dropped[near] <= 1.0001e-12).all()
        assert (found.effective_sample_size >= 1 - 1e-12).all()
        assert (found.effective_sample_size <= len(np.unique(rows, axis=0)) + 1e-9).all()


def test_the_path_is_that_of_least_work(taken, monkeypatch):
    steps, within = [], _triton_denoise._Block.within
    watched = lambda self, *limits, step=1: steps.append(step) or within(self, *limits, step=step)  # noqa: E731
    monkeypatch.setattr(_triton_denoise._Block, "within", watched)
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (1100, 20)).astype(np.float32)
    for path, scale, sigma in (("listed", 1.0, 0.01), ("dense", 0.1, 1.0), ("dense", 0.0, 1.0)):
        taken.update(listed=0, dense=0, direct=0)
        steps.clear()
        x = scale * rows[:20].astype(float) + sigma * rng.standard_normal((20, 20))
        assert_denoised_close(denoised(x, rows, scale, sigma), oracle.empirical_denoise(x, rows, scale, sigma), rows)
        assert taken == {"listed": 0, "dense": 0, "direct": 0} | {path: 20}, path
        assert (1 in steps) == (path == "listed")  # a sample tells where no search of all rows is worth while
    rows[:45] *= 50  # too far out for the grid: every search would look at them
    monkeypatch.setattr(_denoise_paths, "_LONGEST", 30)
    monkeypatch.setattr(_denoise_paths, "_SAMPLE_LIST", 30)
    denoised(rows[-9:], rows, 1.0, 0.01)
    assert taken["direct"] + taken["dense"] == 29


def test_crowded_rows_are_taken_directly(taken):
    """Too many rows within the noise for a list, and too far from the center for squares expanded in double."""
    rng = np.random.default_rng(1)
    rows = 1e-6 * rng.standard_normal((600, 5)) + np.where(np.arange(600)[:, None] % 2, 3.0, -3.0)
    x = rows[:4] + 1e-6 * rng.standard_normal((4, 5))
    assert_denoised_close(denoised(x, rows, 1.0, 1e-6), oracle.empirical_denoise(x, rows, 1.0, 1e-6), rows)
    assert taken["direct"] == 4


def test_bits_do_not_depend_on_the_batch(taken, monkeypatch):
    if DEVICE == "cpu":  # NumPy's product in single precision rounds the rows of one matrix differently; a tensor core does not
        matmul, single = np.matmul, np.float32
        monkeypatch.setattr(np, "matmul", lambda a, b, dtype: (a[:, :, None] * b).sum(1) if dtype == single else matmul(a, b, dtype=dtype))
    monkeypatch.setattr(_denoise_paths, "_SAMPLE", 50)
    monkeypatch.setattr(_denoise_paths, "_SAMPLE_LIST", 20)
    rng = np.random.default_rng(2)
    x, rows = problem(2, 70, 300, 19, 0.7, 0.1)
    rows[:90] = rows[0] + np.float32(1e-6) * rng.standard_normal((90, 19), np.float32)  # too many for a list
    x[:5] = 0.7 * rows[:5]
    scale, sigma = np.where(np.arange(70) % 7 == 6, 0.0, 0.7), np.append(np.full(5, 1e-5), 10 ** rng.uniform(-6, 1, 65))
    train = TrainingSet(torch.from_numpy(rows).to(DEVICE))

    def run(at, **options):
        return denoised(x[at], train, scale[at], sigma[at], **options)

    def check(found, at):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[at], name)

    whole = run(np.arange(70))
    assert min(taken.values()) >= 5, taken
    shuffled = rng.permutation(70)
    check(run(shuffled, max_memory=150_000), shuffled)
    for start, size in ((0, 1), (12, 1), (2, 66)):
        check(run(np.arange(start, start + size)), slice(start, start + size))


@pytest.mark.parametrize("ends", [(-5000, 0), (-9, 0), (0, -5000)])
def test_sums_over_panels(ends, taken):
    """Weights that grow from row to row, so that what was summed before shrinks at every panel; whole panels that weigh nothing; panels of
    several launches."""
    rng = np.random.default_rng(8)
    rows, x = rng.uniform(-1, 1, (400, 3)), rng.standard_normal((5, 3))
    weights = np.linspace(*ends, 400)
    logits = weights - ((x[:, None] - 0.5 * rows) ** 2).sum(2) / 2
    w = np.exp(logits - logits.max(1, keepdims=True))
    for memory in (None, 4 * 5 * 320):
        found = denoised(x, rows, 0.5, 1.0, log_weights=weights, max_memory=memory)
        np.testing.assert_allclose(found.effective_sample_size, w.sum(1) ** 2 / (w**2).sum(1), rtol=1e-9)
        log_total = np.log(w.sum(1) / np.exp(weights - weights.max()).sum()) + logits.max(1) - weights.max()
        np.testing.assert_allclose(found.log_density, log_total - 1.5 * np.log(2 * np.pi), rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.x0_hat, w @ rows / w.sum(1)[:, None], rtol=0, atol=1e-6)
    assert taken["dense"] == 10


@pytest.mark.parametrize("sigma", [0.05, 5.0])
def test_far_from_the_origin(sigma):
    """scale * row is nowhere rounded: 1e9 away from the origin that would cost 1e-7 a number."""
    rng = np.random.default_rng(9)
    rows = rng.uniform(-1, 1, (300, 12)) + 1e9
    x = 0.7 * rows[:6] + sigma * rng.standard_normal((6, 12))
    assert_denoised_close(denoised(x, rows, 0.7, sigma), oracle.empirical_denoise(x, rows, 0.7, sigma), rows)


def test_one_outlier_and_extreme_numbers():
    rng = np.random.default_rng(4)
    rows = rng.uniform(-1, 1, (40, 12))
    x = rows[:5] + 0.05 * rng.standard_normal((5, 12))
    rows[7] = 1e6
    assert_denoised_close(denoised(x, rows, 1.0, 0.05), oracle.empirical_denoise(x, rows, 1.0, 0.05), rows)
    for size, scale, sigma in ((1e100, 1.0, 1e20), (1e-100, 1e-20, 1e-20), (1e100, 1e20, 1e-20)):
        found = denoised(np.array([[0.3 * size]]), np.array([[0.0], [size]]), scale, sigma)
        assert np.isfinite([found.x0_hat[0, 0], found.effective_sample_size[0]]).all()


def test_closed_forms():
    x = np.linspace(-3, 3, 9)[:, None]
    found = denoised(x, np.array([[-1.0], [1.0]]), 0.6, 0.8)
    np.testing.assert_allclose(found.x0_hat, np.tanh(0.6 * x / 0.64), rtol=0, atol=1e-6)
    rows = np.random.default_rng(5).standard_normal((40, 33))
    found = denoised(rows[::9], rows, 1.0, 1e-6)
    np.testing.assert_array_equal(found.x0_hat, rows[::9])  # to the bit
    np.testing.assert_allclose(found.log_density, -math.log(40) - 33 * math.log(1e-6 * math.sqrt(2 * math.pi)), rtol=1e-14)
    rows = np.eye(50)
    for noise, scale in ((0.01, 1.0), (1.0, 1.0), (3.0, 0.0)):
        np.testing.assert_allclose(denoised(np.zeros((1, 50)), rows, scale, noise).effective_sample_size, 50, rtol=1e-9)
    tensor = torch.from_numpy(rows).to(DEVICE)
    found = empirical_denoise(tensor[:2], tensor, 1.0, 0.01, backend="triton")
    assert (type(found.x0_hat), found.x0_hat.device.type) == (torch.Tensor, DEVICE)


def test_the_dropped_mass_is_bounded(monkeypatch, taken):
    """With a band that drops a thousandth the bound is reported, above the truth, and the answer is as far off as it says."""
    monkeypatch.setattr(_denoise_paths, "DROPPED", 1e-3)
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((500, 3))
    x = rows[:20] + 0.05 * rng.standard_normal((20, 3))
    found, (x0_hat, log_density) = denoised(x, rows, 1.0, 0.05), oracle.empirical_denoise(x, rows, 1.0, 0.05)
    assert taken["listed"] == 20
    lost = -np.expm1(found.log_density - log_density)
    assert (found.dropped <= 1.0001e-3).all()
    assert (lost <= found.dropped).all()
    assert lost.max() > 1e-7  # something was dropped
    assert (abs(found.x0_hat - x0_hat).max(1) <= found.dropped * np.ptp(rows)).all()


def test_a_search_finds_the_band_of_the_nearest_row_and_no_more(monkeypatch):
    """Although it reaches farther: the first limit is that of a few rows."""
    seen, inner = [], denoise_listed.weighted
    monkeypatch.setattr(denoise_listed, "weighted", lambda *operands: seen.append(operands[2]) or inner(*operands))
    far = torch.full((1,), 40.0, dtype=torch.float64, device=DEVICE)
    monkeypatch.setattr(_triton_denoise._Block, "first_limit", lambda self, k, step=None: far)
    rows = np.append(np.linspace(0, 1, 41), 7 + np.arange(60) / 60)[:, None]
    denoised(np.array([[0.0]]), rows, 1.0, 0.05)
    radius = 0.05 * math.sqrt(2 * math.log(1e12 * 101))
    assert seen[0].tolist() == np.flatnonzero(rows[:, 0] <= radius).tolist()


def test_products_are_those_of_their_definition(monkeypatch):
    """Ragged tiles, several runs of features; the sums to what single precision gives over one panel, the rest nearly exact."""
    launched = watch(monkeypatch)
    rng = np.random.default_rng(6)
    for N, M, D, dtype in ((1, 1, 1, np.float32), (65, 129, 33, np.float64), (3, 70, 1030, np.float32)):
        rows, query = rng.uniform(-1, 1, (M, D)).astype(dtype), rng.standard_normal((N, D)) / math.sqrt(D)
        center, factor, log_p = rows.astype(float).mean(0), rng.uniform(0, 1, N), rng.normal(size=M)
        y = rows - center
        logits = query @ y.T - factor[:, None] * (y**2).sum(1) + log_p
        w = np.exp(logits - logits.max(1, keepdims=True))
        operands = [torch.from_numpy(a).to(DEVICE) for a in (query, factor, rows, center, (y**2).sum(1), log_p)]
        top, total, squares, sums = (a.cpu().numpy() for a in denoise_dense.weighted(*operands, 1 << 20))
        np.testing.assert_allclose(top, logits.max(1), atol=1e-12)
        np.testing.assert_allclose(total, w.sum(1), rtol=1e-12)
        np.testing.assert_allclose(squares, (w * w).sum(1), rtol=1e-12)
        np.testing.assert_allclose(sums / total[:, None], w @ y / w.sum(1)[:, None], rtol=0, atol=4e-6)
    assert launched == {f"{verb}, {type}" for verb in DENSE for type in ("fp32", "fp64")}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_over_lists_are_those_of_their_definition(monkeypatch, dtype):
    """Lists of no, one and many rows; features beyond one block of them."""
    launched = watch(monkeypatch)
    rng = np.random.default_rng(7)
    lengths = [0, 1, 40, 17]
    queries, listed = np.repeat(np.arange(4), lengths), rng.integers(0, 9, sum(lengths))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for D in (1, 130):
        rows, x = rng.uniform(-1, 1, (9, D)).astype(dtype), rng.normal(size=(4, D))
        scale, center = rng.uniform(0.1, 1, 4), rng.normal(size=D)
        operands = [torch.from_numpy(a).to(DEVICE) for a in (x, scale, rows, center, queries, listed)]
        offset = x[queries] - scale[queries, None] * (rows[listed] - center)
        squares = denoise_listed.squares_of(*operands).cpu().numpy()
        np.testing.assert_allclose(squares, (offset**2).sum(1), rtol=1e-12)
        weights = rng.uniform(0, 1, len(listed))
        operands = [torch.from_numpy(a).to(DEVICE) for a in (weights, rows, listed, starts)]
        found = [a.cpu().numpy() for a in denoise_listed.weighted(*operands)]
        of_query = np.arange(4)[:, None] == queries
        wanted = of_query @ weights, of_query @ weights**2, of_query * weights @ rows[listed]
        for actual, right in zip(found, wanted, strict=True):
            np.testing.assert_allclose(actual, right, rtol=0, atol=1e-13)
    assert launched == {f"{verb}, fp{8 * rows.itemsize}" for verb in LISTED}


def test_a_product_is_nowhere_rounded():
    rng = np.random.default_rng(7)
    s, c = rng.uniform(0.1, 1, 50), rng.uniform(1, 2, 50) * 1e9
    x = s * c + rng.standard_normal(50)
    found = _triton_denoise._less_product(*(torch.from_numpy(a) for a in (x, s, c)))
    for value, *parts in zip(found.tolist(), x, s, c, strict=True):
        a, b, d = map(Fraction, parts)
        assert abs(Fraction(value) - (a - b * d)) <= abs(a - b * d) * Fraction(1, 2**51)


def test_the_self_test_finds_a_wrong_kernel(monkeypatch):
    right = {"dense": denoise_dense.weighted, "listed": denoise_listed.weighted, "squares_of": denoise_listed.squares_of}
    wrong = {
        "dense": lambda *operands: (*right["dense"](*operands)[:3], right["dense"](*operands)[3] * (1 + 1e-4)),
        "listed": lambda *operands: tuple(part * (1 + 1e-9) for part in right["listed"](*operands)),
        "squares_of": lambda *operands: right["squares_of"](*operands) * (1 + 1e-9),
    }
    _triton_check.check_denoiser.__wrapped__(torch.device(DEVICE))
    for name, kernel in wrong.items():
        module, function = (denoise_dense, "weighted") if name == "dense" else (denoise_listed, "weighted" if name == "listed" else name)
        monkeypatch.setattr(module, function, kernel)
        with pytest.raises(RuntimeError, match=r"^backend: the Triton kernels give wrong answers on "):
            _triton_check.check_denoiser.__wrapped__(torch.device(DEVICE))
        monkeypatch.setattr(module, function, right[name])
