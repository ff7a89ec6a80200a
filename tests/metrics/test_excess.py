"""Excess over the exact denoiser: SciPy's entropy, zeros, clusters."""
import numpy as np
import pytest
import scipy.stats
import torch

from biasgen.metrics.excess import excess, excess_kl


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


def test_excess_is_the_mean_over_rows_and_models():
    exact, one, two = tables(0), tables(1).log(), tables(2).log()
    result = excess(exact, one, two)
    rows = (excess_kl(exact, one) + excess_kl(exact, two)).numpy() / 2
    np.testing.assert_allclose(result.per_sample, rows, rtol=1e-12)
    assert result.value == pytest.approx(rows.mean())
    assert result.ci[0] < result.value < result.ci[1]
    assert result.params["models"] == 2
    assert excess(exact, one).value == pytest.approx(float(excess_kl(exact, one).mean()))


def test_rows_of_one_sequence_are_one():
    exact, model = tables(0), tables(1).log()
    repeated = excess(exact.repeat_interleave(6, 0), model.repeat_interleave(6, 0), clusters=np.repeat(np.arange(5), 6))
    assert repeated.ci == pytest.approx(excess(exact, model).ci)
    assert len(repeated.per_sample) == 30
    with pytest.raises(TypeError, match=r"^models: want at least one"):
        excess(exact)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 5)])
def test_shapes_are_checked(shape):
    with pytest.raises(ValueError, match=r"^model: want shape \(B, L, Q\) as of exact"):
        excess_kl(tables(0), torch.zeros(shape))
