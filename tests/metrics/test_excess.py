"""Excess over the exact denoiser: SciPy's entropy, zeros, a variance decomposition that is known."""
import numpy as np
import pytest
import scipy.stats
import torch

from biasgen.metrics.excess import excess_kl, variance_share


def tables(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(6), size=(5, 4)))


def test_excess_is_the_mean_entropy():
    exact, model = tables(0), tables(1)
    expected = scipy.stats.entropy(exact.numpy(), model.numpy(), axis=-1).mean(1)
    np.testing.assert_allclose(excess_kl(exact, model.log()).numpy(), expected, rtol=1e-12)
    assert not excess_kl(exact, exact.log()).abs().gt(1e-15).any()


def test_zeros_of_the_exact_posterior_contribute_nothing():
    exact = torch.tensor([[[1.0, 0.0]]])
    assert excess_kl(exact, torch.tensor([[[np.log(0.5), -np.inf]]])) == pytest.approx(np.log(2))
    assert excess_kl(torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[0.0, -np.inf]]])).item() == np.inf


def test_single_precision_is_summed_in_double():
    exact, model = tables(0).float(), tables(1).log().float()
    assert torch.equal(excess_kl(exact, model), excess_kl(exact.double(), model.double()))


def test_variance_share_extremes():
    exact = tables(0)
    bias = 0.01 * torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert variance_share(exact + bias, exact + bias, exact) == 0
    assert variance_share(exact + bias, exact - bias, exact) == pytest.approx(2)     # a sample may exceed 1
    independent = [exact + 0.01 * torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (1, 2)]
    assert variance_share(*independent, exact) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 5)])
def test_shapes_are_checked(shape):
    with pytest.raises(ValueError, match=r"^model: want shape \(B, L, Q\) as of exact"):
        excess_kl(tables(0), torch.zeros(shape))
