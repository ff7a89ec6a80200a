"""The exact denoiser of a training set against the float32 softmax that an expert would write. The gates are in docs/benchmarks.md."""
import math

import numpy as np
import pytest
import torch

import biasgen
from benchmarks import baselines, harness
from biasgen.ops.empirical_denoise import empirical_denoise
from biasgen.testing import assert_denoised_close

GATES = {0.99: 1.0, 1e-3: 4.0}  # by 1 - alpha_bar: nearly all rows matter, or one does
TOKEN_GATES = {0.99: 1.5, 0.5: 1.5, 1e-3: 10.0}


def _noised(rows, queries, noise):
    """(x_t, scale, sigma) of the first rows, variance preserved."""
    scale, sigma = math.sqrt(1 - noise), math.sqrt(noise)
    return scale * rows[:queries] + sigma * torch.randn(rows[:queries].shape, generator=torch.Generator().manual_seed(1)), scale, sigma


@pytest.mark.parametrize("noise", [0.99, 0.5, 1e-3])
def test_empirical_denoise(smoke, benchmark, noise):
    B, M, D = (16, 300, 64) if smoke else (512, 20_000, 1024)
    rows = torch.rand((M, D), generator=torch.Generator().manual_seed(0)) * 2 - 1
    norms, denoiser = rows.square().sum(1), biasgen.EmpiricalDenoiser(rows)
    x_t, scale, sigma = _noised(rows, B, noise)
    level = biasgen.Level(scale, sigma)
    expected = empirical_denoise(x_t[:8].double(), rows, scale, sigma, backend="torch")
    assert_denoised_close(denoiser.posterior(x_t[:8], level), expected, rows)
    np.testing.assert_allclose(baselines.softmax_denoiser(x_t[:8], rows, norms, scale, sigma), expected.x0_hat, atol=1e-3)
    slice_ = x_t[: max(1, B // 2)]
    result = harness.compare(
        harness.Side(f"denoiser {B} x {M}, D={D}, noise {noise}, pairs", lambda: denoiser(slice_, level), len(slice_) * M),
        harness.Side("torch, float32 softmax", lambda: baselines.softmax_denoiser(slice_, rows, norms, scale, sigma), len(slice_) * M),
        smoke=smoke,
    )
    print(f"\n{result}")
    benchmark.pedantic(denoiser, (slice_, level), rounds=3)
    assert smoke or result.ratio >= GATES.get(noise, 1.0)


@pytest.mark.parametrize("noise", [0.99, 0.5, 1e-3])
def test_empirical_denoise_tokens(smoke, benchmark, noise):
    """The softmax has the one-hot rows, 24 times the bytes."""
    B, M, L, Q = (16, 300, 16, 6) if smoke else (512, 20_000, 16, 6)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, Q, (M, L)))
    rows = torch.nn.functional.one_hot(tokens, Q).flatten(1).float()
    norms, denoiser = rows.square().sum(1), biasgen.EmpiricalDenoiser(tokens)
    x_t, scale, sigma = _noised(rows, B, noise)
    level, shaped = biasgen.Level(scale, sigma), x_t.reshape(B, L, Q)
    expected = empirical_denoise(x_t[:8].double(), rows, scale, sigma, backend="torch")
    np.testing.assert_allclose(denoiser(shaped[:8], level).flatten(1), expected.x0_hat, atol=1e-6)
    np.testing.assert_allclose(baselines.softmax_denoiser(x_t[:8], rows, norms, scale, sigma), expected.x0_hat, atol=1e-3)
    result = harness.compare(
        harness.Side(f"denoiser {B} x {M}, L={L}, q={Q}, noise {noise}, pairs", lambda: denoiser(shaped, level), B * M),
        harness.Side("torch, float32 softmax, one-hot", lambda: baselines.softmax_denoiser(x_t, rows, norms, scale, sigma), B * M),
        smoke=smoke,
    )
    print(f"\n{result}")
    benchmark.pedantic(denoiser, (shaped, level), rounds=3)
    assert smoke or result.ratio >= TOKEN_GATES[noise]
