"""Exact belief propagation against the linear-domain torch version that an expert would write. Gate: 10x."""
import pytest
import torch

import biasgen
from benchmarks import baselines, harness
from biasgen.diffusion import forward_process, one_hot

LINEAR_GATE = 10.0


@pytest.mark.parametrize("t", [15, 50, 150])
def test_tree_posterior(smoke, benchmark, t):
    B = 256 if smoke else 65536
    grammar = biasgen.TreeGrammar.random()
    x0 = one_hot(grammar.sample(B), 6)
    level = biasgen.Schedule.linear().at(t)
    x_t = forward_process(x0, level, torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)))
    field = grammar.field(x_t, level).float()
    transitions = torch.from_numpy(grammar.transitions).float()
    slice_ = field[: max(1, B // 8)]
    expected = baselines.linear_posterior(transitions.double(), slice_.double())
    torch.testing.assert_close(baselines.linear_posterior(transitions, slice_), expected.float(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(grammar.posterior(slice_).marginals.double(), expected, rtol=1e-5, atol=2.0**-126)
    result = harness.compare(
        harness.Side(f"tree posterior, B={B} q=6 depth=4, t={t}, samples", lambda: grammar.posterior(field), B),
        harness.Side("torch, linear domain", lambda: baselines.linear_posterior(transitions, slice_), len(slice_)),
        smoke=smoke,
    )
    print(f"\n{result}")
    benchmark.pedantic(grammar.posterior, (field,), rounds=3)
    assert smoke or result.ratio >= LINEAR_GATE
