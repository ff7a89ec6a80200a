"""The empirical denoiser: oracle, SciPy, closed forms, every noise level, hard data, blocks, kinds of input, errors."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats

from biasgen import TrainingSet, backends
from biasgen.backends import _empirical_denoise
from biasgen.ops.empirical_denoise import empirical_denoise
from biasgen.oracle import empirical_denoise as oracle
from biasgen.testing import assert_denoised_close

BACKENDS = [name for name in backends.ORDER if "empirical_denoise" in getattr(backends.load(name)[0], "OPS", ())]
LEVELS = [1e-8, 1e-4, 1e-2, 0.3, 0.99, 1 - 1e-6]   # 1 - alpha_bar


def vp(noise):
    return math.sqrt(1 - noise), math.sqrt(noise)


def problem(seed, B, M, shape, scale=1.0, sigma=0.1, offset=0.0):
    """Queries: noised rows, points exactly between two rows, points far off, turn by turn."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(-1, 1, (M, *shape)) + offset
    x = scale * rows[rng.integers(0, M, B)] + sigma * rng.standard_normal((B, *shape))
    x[1::3] = scale * (rows[rng.integers(0, M, len(x[1::3]))] + rows[rng.integers(0, M, len(x[1::3]))]) / 2
    x[2::3] += 3 * scale * rng.standard_normal(x[2::3].shape)
    return x, rows


def assert_like_oracle(x, rows, scale, sigma, **options):
    expected = oracle.empirical_denoise(x, rows, scale, sigma, options.get("log_weights"))
    for name in BACKENDS:
        found = empirical_denoise(x, rows, scale, sigma, backend=name, **options)
        assert found.x0_hat.dtype == x.dtype
        assert_denoised_close(found, expected, rows)
    return found


@pytest.mark.parametrize("noise", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("B", "M", "shape"), [(1, 1, (1,)), (3, 2, (5,)), (13, 65, (16, 6)), (9, 257, (3, 8, 8)), (4, 30, (3072,))])
def test_every_level(B, M, shape, dtype, noise):
    scale, sigma = vp(noise)
    x, rows = problem([B, M], B, M, shape, scale, sigma)
    assert_like_oracle(x.astype(dtype), rows.astype(dtype), scale, sigma)
    weights = np.random.default_rng(0).normal(0, 3, M)
    assert_like_oracle(x.astype(dtype), rows.astype(dtype), scale, sigma, log_weights=weights)


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("sigma", [0.002, 1.0, 80.0])
def test_scale_and_sigma_are_free(scale, sigma):
    x, rows = problem(1, 12, 100, (20,), scale, sigma)
    assert_like_oracle(x, rows, scale, sigma)


def test_one_level_a_query():
    rng = np.random.default_rng(2)
    scale, sigma = rng.choice([0.0, 0.1, 0.9, 1.0], 40), 10 ** rng.uniform(-4, 1, 40)
    x, rows = problem(2, 40, 50, (8,))
    whole = assert_like_oracle(x, rows, scale, sigma)
    assert_denoised_close(empirical_denoise(x[7:8], rows, scale[7], sigma[7]), (whole.x0_hat[7:8], whole.log_density[7:8]), rows)
    tensors = empirical_denoise(x, rows, torch.from_numpy(scale), torch.from_numpy(sigma).float())
    assert_denoised_close(tensors, oracle.empirical_denoise(x, rows, scale, sigma.astype(np.float32).astype(float)), rows)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_small_differences_far_from_the_origin(offset):
    """|x|^2 is 1e12 times the squared distances that decide: expanded squares would leave nothing of them."""
    x, rows = problem(3, 30, 40, (12,), sigma=0.05, offset=offset)
    assert_like_oracle(x, rows, 1.0, 0.05)
    level = np.linspace(0.5, 1, 30)
    assert_like_oracle(level[:, None] * x, rows, level, 0.05)


def test_one_outlier():
    x, rows = problem(4, 30, 40, (12,), sigma=0.05)
    rows[7] = 1e6
    assert_like_oracle(x, rows, 1.0, 0.05)


def test_usual_levels_are_products_of_matrices(monkeypatch):
    """Differences cost an order of magnitude more on images: they are for the hard cases above."""
    monkeypatch.delattr(torch, "cdist")
    rng = np.random.default_rng(13)
    tokens, images = np.eye(6)[rng.integers(0, 6, (50, 16))], rng.uniform(-1, 1, (50, 3, 16, 16))
    for rows, noise in ((tokens, 1e-4), (images, 1e-2)):
        scale, sigma = vp(noise)
        x = scale * rows[:6] + sigma * rng.standard_normal(rows[:6].shape)
        assert_like_oracle(x, rows, scale, sigma)


def test_low_noise_returns_the_row_to_the_bit():
    rows = np.random.default_rng(5).standard_normal((60, 33))
    found = empirical_denoise(rows[::2], rows, 1.0, 1e-6)
    np.testing.assert_array_equal(found.x0_hat, rows[::2])
    np.testing.assert_allclose(found.log_density, -math.log(60) - 33 * math.log(1e-6 * math.sqrt(2 * math.pi)), rtol=1e-14)


def test_two_rows_make_a_hyperbolic_tangent():
    x = np.linspace(-3, 3, 25)[:, None]
    found = empirical_denoise(x, np.array([[-1.0], [1.0]]), 0.6, 0.8)
    np.testing.assert_allclose(found.x0_hat, np.tanh(0.6 * x / 0.64), rtol=1e-13, atol=1e-15)
    expected = np.logaddexp(stats.norm.logpdf(x, -0.6, 0.8), stats.norm.logpdf(x, 0.6, 0.8))[:, 0] - math.log(2)
    np.testing.assert_allclose(found.log_density, expected, rtol=1e-13)


def test_the_oracle_is_the_mixture_of_gaussians():
    rng = np.random.default_rng(6)
    x, rows, weights = rng.standard_normal((7, 3)), rng.standard_normal((9, 3)), rng.standard_normal(9)
    scale, sigma, step = 0.7, 0.4, 1e-5

    def log_density(at):
        terms = [stats.multivariate_normal.logpdf(at, scale * row, sigma**2 * np.eye(3)) for row in rows]
        return special.logsumexp(np.stack(terms, 1) + weights, 1) - special.logsumexp(weights)

    x0_hat, found = oracle.empirical_denoise(x, rows, scale, sigma, weights)
    np.testing.assert_allclose(found, log_density(x), rtol=1e-12)
    gradient = np.stack([(log_density(x + e) - log_density(x - e)) / (2 * step) for e in step * np.eye(3)], 1)
    np.testing.assert_allclose((x + sigma**2 * gradient) / scale, x0_hat, rtol=1e-8)   # Tweedie


def test_at_scale_zero_x_t_says_nothing():
    x, rows = problem(7, 10, 20, (4,))
    weights = np.random.default_rng(7).standard_normal(20)
    found = empirical_denoise(x, rows, 0, 2.0, log_weights=weights)
    np.testing.assert_allclose(found.x0_hat, np.tile(special.softmax(weights) @ rows, (10, 1)), atol=1e-6)
    np.testing.assert_allclose(found.log_density, stats.norm.logpdf(x, 0, 2).sum(1), rtol=1e-13)


def test_weights_are_multiplicities():
    x, rows = problem(8, 10, 6, (4,), sigma=0.5)
    repeated = empirical_denoise(x, rows[[0, 1, 1, 1, 3, 5]], 1.0, 0.5)
    with np.errstate(divide="ignore"):
        weights = np.log([1, 3, 0, 1, 0, 1])
    assert_denoised_close(empirical_denoise(x, rows, 1.0, 0.5, log_weights=weights), repeated, rows)
    assert_denoised_close(empirical_denoise(x, rows, 1.0, 0.5, log_weights=torch.from_numpy(weights) + 700), repeated, rows)


@pytest.mark.parametrize("ends", [(-5000, 0), (-3, 0), (0, -5000)])
def test_blocks(ends, monkeypatch):
    """The largest term comes last, and what was summed before must shrink, or first, and what comes after must not overflow."""
    x, rows = problem(9, 37, 101, (6,), sigma=0.3)
    weights = np.linspace(*ends, 101)
    whole = assert_like_oracle(x, rows, 1.0, 0.3, log_weights=weights)
    sizes, inner = [], _empirical_denoise._half_squares

    def watched(x, y, *level):
        sizes.append((len(x), len(y)))
        return inner(x, y, *level)

    monkeypatch.setattr(_empirical_denoise, "_half_squares", watched)
    for memory in (1, 5000, 20_000):
        sizes.clear()
        found = empirical_denoise(x, rows, 1.0, 0.3, log_weights=weights, max_memory=memory, backend="torch")
        assert_denoised_close(found, whole, rows)
        np.testing.assert_allclose(found.effective_sample_size, whole.effective_sample_size, rtol=1e-9)
        assert sum(b * m for b, m in sizes) == 37 * 101
        assert len(sizes) > 1
        assert max(8 * (4 * b * m + 2 * 6 * m + 4 * 6 * b) for b, m in sizes) <= max(memory, 8 * (4 + 6 * 6))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), B=st.integers(1, 4), M=st.integers(1, 5), D=st.integers(1, 4), noise=st.sampled_from(LEVELS))
def test_any_numbers(data, B, M, D, noise):
    number = st.floats(-1, 1, width=32)
    x, rows = (data.draw(hnp.arrays(np.float32, (n, D), elements=number)) for n in (B, M))
    x0_hat = assert_like_oracle(x, rows, *vp(noise)).x0_hat
    slack = 1e-6 * abs(rows).max()
    assert (x0_hat >= rows.min(0) - slack).all()
    assert (x0_hat <= rows.max(0) + slack).all()


def test_an_answer_may_round_to_half_the_smallest_float():
    rows = np.array([[np.finfo(np.float32).smallest_subnormal], [0]], np.float32)
    assert_like_oracle(np.zeros((1, 1), np.float32), rows, *vp(1e-8))


def test_kinds_of_input():
    x, rows = (a.astype(np.float32) for a in problem(10, 5, 8, (4, 3), sigma=0.5))
    expected = empirical_denoise(x, rows, 1.0, 0.5)
    assert isinstance(expected.x0_hat, np.ndarray)
    read_only = x.copy()
    read_only.flags.writeable = False
    for query, reference in ((read_only, rows), (x.astype(">f4"), rows.astype(">f4")), (x[::-1][::-1], np.asfortranarray(rows))):
        found = empirical_denoise(query, reference, 1.0, 0.5)
        np.testing.assert_array_equal(found.x0_hat, expected.x0_hat)
    mixed = empirical_denoise(x, rows.astype(np.float64), 1.0, 0.5)
    assert mixed.x0_hat.dtype == np.float32
    np.testing.assert_array_equal(mixed.log_density, expected.log_density)
    tensors = empirical_denoise(torch.from_numpy(x), torch.from_numpy(rows), 1.0, 0.5)
    assert [type(t) for t in vars(tensors).values()] == [torch.Tensor] * 4
    np.testing.assert_array_equal(tensors.x0_hat.numpy(), expected.x0_hat)
    empty = empirical_denoise(x[:0], rows, 1.0, 0.5)
    assert (empty.x0_hat.shape, empty.log_density.shape) == ((0, 4, 3), (0,))


def test_the_callers_autocast_does_not_matter():
    x, rows = (torch.from_numpy(a).float() for a in problem(11, 20, 30, (40,), sigma=0.5))
    expected = empirical_denoise(x, rows, 0.8, 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = empirical_denoise(x, rows, 0.8, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(vars(found).values(), vars(expected).values(), strict=True))


X, ROWS = np.zeros((3, 4)), np.ones((5, 4))


def put(values, at, number):
    values = values.copy()
    values[at] = number
    return values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X.astype(np.float16), ROWS, 1, 1), "x_t: want float32 or float64, got float16"),
        ((X, ROWS.astype(bool), 1, 1), "rows: want float32 or float64, got bool"),
        ((X[0], ROWS, 1, 1), r"x_t: want shape \(rows, \.\.\.\).* got shape \(4,\)"),
        ((X, ROWS[:0], 1, 1), r"rows: want at least one row, got shape \(0, 4\)"),
        ((X[:, :0], ROWS, 1, 1), r"x_t: .*got shape \(3, 0\)"),
        ((X.reshape(3, 2, 2), ROWS, 1, 1), r"x_t: want rows of shape \(4,\) as in rows, got \(2, 2\)"),
        ((put(X, (2, 1), np.nan), ROWS, 1, 1), r"x_t: want finite numbers, at most 1e\+100, got nan in row 2"),
        ((X, put(ROWS, (4, 3), -np.inf), 1, 1), "rows: want finite .*got -inf in row 4"),
        ((X, put(ROWS, (1, 0), 2e100), 1, 1), r"rows: want finite .*got 2e\+100 in row 1"),
        ((X, ROWS, -1, 1), r"scale: want 0 or 1e-20 \.\. 1e\+20, got -1\.0 for query 0"),
        ((X, ROWS, np.ones(2), 1), r"scale: want a number, or one a query, \(3,\), got float64 of shape \(2,\)"),
        ((X, ROWS, "1", 1), "scale: want a number"),
        ((X, ROWS, 1, np.array([1, 0, 1])), r"sigma: want 1e-20 \.\. 1e\+20, got 0\.0 for query 1"),
        ((X, ROWS, 1, np.nan), "sigma: .*got nan for query 0"),
        ((X, ROWS, 1, 1e21), "sigma: .*for query 0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match="^" + message):
        empirical_denoise(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_weights": np.zeros(4)}, r"log_weights: want \(5,\) numbers, one a row, got float64 of shape \(4,\)"),
        ({"log_weights": put(np.zeros(5), 3, np.nan)}, r"log_weights: want numbers below \+inf, got nan in row 3"),
        ({"log_weights": put(np.zeros(5), 2, np.inf)}, r"log_weights: .*got inf in row 2"),
        ({"log_weights": np.full(5, -np.inf)}, "log_weights: want at least one row above -inf"),
        ({"max_memory": 0}, "max_memory: want a positive number of bytes, got 0"),
        ({"backend": "cuda"}, "backend: none can run empirical_denoise here; cuda: "),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match="^" + message):
        empirical_denoise(X, ROWS, 1, 1, **options)


def test_wrong_kinds_of_object():
    with pytest.raises(TypeError, match=r"^x_t: want a NumPy array or a torch tensor, got list"):
        empirical_denoise([[0.0]], ROWS, 1, 1)
    with pytest.raises(TypeError, match=r"^rows: "):
        empirical_denoise(X, [[0.0]], 1, 1)


@pytest.mark.parametrize(
    ("part", "by", "name"), [(0, 1.1e-5, "x0_hat"), (0, np.nan, "x0_hat"), (1, 2e-7, "log_density"), (1, np.nan, "log_density")]
)
def test_the_comparator_catches_a_planted_error(part, by, name):
    x, rows = problem(12, 6, 9, (4,))
    rows /= np.ptp(rows)
    expected = oracle.empirical_denoise(x, rows, 1.0, 0.5)
    wrong = [a.copy() for a in expected]
    assert_denoised_close(wrong, expected, rows)
    wrong[part].flat[5] += by
    with pytest.raises(AssertionError, match=name):
        assert_denoised_close(wrong, expected, rows)
    with pytest.raises(AssertionError, match=name):
        assert_denoised_close([a[:5] if i == part else a for i, a in enumerate(expected)], expected, rows)


def test_sets_that_are_not_rows_in_memory_are_refused():
    rows = np.zeros((4, 3, 3), np.float32)
    for train in (TrainingSet(rows, views=("identity", "hflip")), TrainingSet(rows, max_memory=300)):
        with pytest.raises(ValueError, match=r"^rows: want a set in memory and without views, got TrainingSet"):
            empirical_denoise(rows, train, 1.0, 0.1)
