"""The empirical denoiser of tokens: the answers of one-hot rows that are nowhere stored, at every level, blind to the rest of the batch."""
import numpy as np
import pytest
import torch

from biasgen import EmpiricalDenoiser, Level, TrainingSet
from biasgen.backends import cpu_backend
from biasgen.ops.empirical_denoise import empirical_denoise
from biasgen.oracle import empirical_denoise as oracle
from biasgen.testing import assert_denoised_close

ISAS = cpu_backend._cpu.isa_levels() if cpu_backend._cpu else ()
FIELDS = ("x0_hat", "log_density", "effective_sample_size", "dropped")


def problem(seed, B, M, L, Q, scale=1.0, sigma=0.5):
    """Strings of ten families, some equal; queries: noised rows, rows themselves, points far off, turn by turn."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, Q, (10, L))[rng.integers(0, 10, M)]
    tokens = np.where(rng.random((M, L)) < 0.3, rng.integers(0, Q, (M, L)), tokens)
    tokens[M // 2 : M // 2 + M // 8] = tokens[: M // 8]
    x = np.broadcast_to(scale, (B,))[:, None, None] * one_hot(tokens[rng.integers(0, M, B)], Q)
    x[0::3] += np.broadcast_to(sigma, (B,))[0::3, None, None] * rng.standard_normal(x[0::3].shape)
    x[2::3] += 2 * rng.standard_normal(x[2::3].shape)
    return x, tokens


def one_hot(tokens, Q):
    return (np.asarray(tokens)[..., None] == np.arange(Q)).astype(float)


def distances(x, rows, scale):
    return np.sqrt([((one - scale * rows) ** 2).reshape(len(rows), -1).sum(1).min() for one in x])


@pytest.fixture(params=[None, *ISAS])
def backend(request, monkeypatch):
    if request.param is None:
        return "torch"
    monkeypatch.setenv("BIASGEN_CPU_ISA", request.param)
    return "cpu"


@pytest.mark.parametrize("sigma", [1e-4, 1e-2, 0.3, 1.0, 30.0, 1e3])
@pytest.mark.parametrize(
    ("B", "M", "L", "Q"), [(1, 1, 1, 1), (3, 2, 1, 6), (17, 33, 7, 2), (16, 65, 8, 6), (15, 257, 9, 5), (9, 300, 16, 6), (4, 31, 30, 300)]
)
def test_every_level(backend, B, M, L, Q, sigma):
    for scale in (0.0, 1e-3, 1.0):
        x, tokens = problem([B, M, L], B, M, L, Q, scale, sigma)
        rows = one_hot(tokens, Q)
        for weights in (None, np.random.default_rng(0).normal(0, 3, M)):
            for dtype in (np.float64, np.float32):
                found = empirical_denoise(x.astype(dtype), tokens, scale, sigma, log_weights=weights, backend=backend)
                expected = oracle.empirical_denoise(x.astype(dtype), rows, scale, sigma, weights)
                assert found.x0_hat.dtype == dtype
                near = distances(x, rows, scale) <= 1e4 * sigma  # else beyond the promise
                assert_denoised_close(*((pair[0][near], pair[1][near]) for pair in ((found.x0_hat, found.log_density), expected)), rows)
                np.testing.assert_array_equal(found.dropped, 0)
                assert (found.effective_sample_size >= 1 - 1e-12).all()
                assert (found.effective_sample_size <= len(np.unique(tokens, axis=0)) + 1e-9).all()


def test_it_agrees_with_one_hot_rows_to_rounding(backend):
    """Everything is summed in double, on terms that do not cancel: far better than the promise."""
    sigma = np.geomspace(0.05, 20, 40)
    x, tokens = problem(1, 40, 500, 16, 6, 0.8, sigma)
    found, rows = empirical_denoise(x, tokens, 0.8, sigma, backend=backend), one_hot(tokens, 6)
    x0_hat, log_density = oracle.empirical_denoise(x, rows, 0.8, sigma)
    np.testing.assert_allclose(found.x0_hat, x0_hat, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.log_density, log_density, rtol=1e-12)
    np.testing.assert_allclose(found.x0_hat.sum(-1), 1, rtol=1e-12)
    energy = ((x[:, None] - 0.8 * rows) ** 2).sum((2, 3)) / (2 * sigma[:, None] ** 2)
    unique, members = np.unique(tokens, axis=0, return_inverse=True)
    w = np.exp(energy.min(1, keepdims=True) - energy)
    w = np.stack([w[:, members == u].sum(1) for u in range(len(unique))], 1)
    np.testing.assert_allclose(found.effective_sample_size, w.sum(1) ** 2 / (w**2).sum(1), rtol=1e-9)


def test_weights_that_grow_from_row_to_row(backend):
    """What was summed before shrinks at every panel; rows that matter to nobody stand between them."""
    rng = np.random.default_rng(2)
    tokens, x = rng.integers(0, 3, (600, 5)), rng.standard_normal((33, 5, 3))
    weights = np.where(np.arange(600) % 3, np.linspace(-300, 0, 600), -1e4)
    found = empirical_denoise(x, tokens, 0.5, 1.0, log_weights=weights, backend=backend)
    expected = oracle.empirical_denoise(x, one_hot(tokens, 3), 0.5, 1.0, weights)
    np.testing.assert_allclose(found.x0_hat, expected[0], rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.log_density, expected[1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("L", [5, 40])
def test_bits_do_not_depend_on_the_batch(isa, L, monkeypatch):
    """Neighbours in a vector may keep a row from being skipped: its weight must be 0 all the same."""
    monkeypatch.setenv("BIASGEN_CPU_ISA", isa)
    rng = np.random.default_rng(3)
    scale, sigma = np.where(np.arange(150) % 7 == 6, 0.0, 0.7), 10 ** rng.uniform(-3, 1, 150)
    x, tokens = problem(3, 150, 700, L, 6, scale, sigma)
    train = TrainingSet(tokens)

    def check(at, **options):
        found = empirical_denoise(x[at], train, scale[at], sigma[at], backend="cpu", **options)
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[at], name)

    whole = empirical_denoise(x, train, scale, sigma, backend="cpu")
    check(rng.permutation(150))
    for size in (1, 7, 64):
        for start in range(0, 150, size):
            check(np.arange(start, min(start + size, 150)))
    check(np.arange(150), max_memory=1)
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("BIASGEN_NUM_THREADS", threads)
        check(np.arange(150))
    torch.set_flush_denormal(True)
    try:
        check(np.arange(150))
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_at_the_edge_of_mattering_weighs_the_same_in_any_company(isa, monkeypatch):
    """Row 1 lies 80 nats below row 0, beyond a power of 2 where logits round to twice as much; queries that read it keep it from being
    skipped."""
    monkeypatch.setenv("BIASGEN_CPU_ISA", isa)
    far = 2.0**20 - np.random.default_rng(5).uniform(5, 70, 200)
    x = np.stack([np.zeros(200), -far, -(far + 80)], 1)[:, None]
    x[1::2] = 0  # to these both rows are alike
    whole = empirical_denoise(x, np.array([[1], [2]]), 1.0, 1.0, backend="cpu").x0_hat
    alone = np.concatenate([empirical_denoise(one[None], np.array([[1], [2]]), 1.0, 1.0, backend="cpu").x0_hat for one in x])
    np.testing.assert_array_equal(whole, alone)
    np.testing.assert_allclose(whole[::2, 0], [[0, 1, 0]] * 100, atol=1e-30)


def test_kinds_of_tokens(backend):
    """Every integer type, rows of two axes, sets; symbols up to 65535, of which the training rows need not have the last."""
    x, tokens = problem(4, 10, 40, 6, 5)
    expected = oracle.empirical_denoise(x, one_hot(tokens, 5), 1.0, 0.5)
    for kind in (np.uint8, np.int16, np.uint16, np.int64):
        assert_denoised_close(empirical_denoise(x, tokens.astype(kind), 1.0, 0.5, backend=backend), expected, [[0.0, 1.0] * 15])
    for train in (TrainingSet(tokens), TrainingSet(tokens.astype(np.uint8), "hamming"), torch.from_numpy(tokens), tokens.astype(np.int8)):
        denoiser = EmpiricalDenoiser(train)
        assert denoiser.prepared.rows.dtype == torch.uint8
        assert_denoised_close(denoiser.denoise(torch.from_numpy(x), Level(1.0, 0.5)), expected, [[0.0, 1.0] * 15])
    found = empirical_denoise(x.reshape(10, 2, 3, 5), tokens.reshape(40, 2, 3), 1.0, 0.5, backend=backend)
    np.testing.assert_array_equal(found.x0_hat.reshape(10, 6, 5), empirical_denoise(x, tokens, 1.0, 0.5, backend=backend).x0_hat)
    wide = np.concatenate([x, np.zeros((10, 6, 2))], -1)
    found = empirical_denoise(wide, tokens, 1.0, 0.5, backend=backend)
    np.testing.assert_array_equal(found.x0_hat[..., 5:], 0)
    np.testing.assert_allclose(found.x0_hat[..., :5], expected[0], atol=1e-9)
    large = np.array([[65535], [3], [40000]])
    x = np.zeros((1, 1, 65536), np.float32)
    x[0, 0, 40000] = 1
    np.testing.assert_array_equal(empirical_denoise(x, large, 1.0, 0.01, backend=backend).x0_hat, x)


@pytest.mark.parametrize(
    ("x_t", "rows", "message"),
    [
        (np.zeros((3, 4, 6)), np.full((2, 4), 6), r"x_t: want rows of shape \(4, Q\), Q > 6, for the tokens in rows, got \(4, 6\)"),
        (np.zeros((3, 5, 7)), np.full((2, 4), 6), r"x_t: want rows of shape \(4, Q\), Q > 6, for the tokens in rows, got \(5, 7\)"),
        (np.zeros((3, 4)), np.full((2, 4), 6), r"x_t: want rows of shape \(4, Q\), Q > 6, for the tokens in rows, got \(4,\)"),
        (np.zeros((3, 4, 7)), np.full((2, 4), -1), "rows: want tokens in 0..65535, got -1 in row 0"),
        (np.zeros((3, 4, 7)), np.zeros((0, 4), int), "rows: want at least one row"),
        (np.full((3, 4, 7), np.inf), np.full((2, 4), 6), "x_t: want finite numbers"),
    ],
)
def test_errors(x_t, rows, message):
    with pytest.raises(ValueError, match="^" + message):
        empirical_denoise(x_t, rows, 1.0, 1.0)


@pytest.mark.parametrize("isa", ISAS)
def test_the_native_module_refuses_symbols_beyond_the_table(isa):
    out = np.empty((1, 6)), np.empty(1), np.empty(1)
    for tokens in (np.array([[0, 3]], np.uint8), np.array([[-1, 0]], np.int16)):
        with pytest.raises(ValueError, match="rows: want tokens below Q"):
            cpu_backend._cpu.denoise_tokens(isa, tokens, np.zeros(1), np.zeros((1, 6)), np.ones(1), np.ones(1), *out)
