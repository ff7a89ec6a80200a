"""Trajectories of the exact denoiser, noise and steps included, against the loop that an expert would write in torch. Gate: 4.7x."""
from itertools import pairwise

import torch

import biasgen
from benchmarks import baselines, harness
from biasgen.diffusion import reverse_times
from biasgen.diffusion.process import reverse_step
from biasgen.trees.trajectories import sample_tokens

GATE = 4.7
GRAMMAR, SCHEDULE = biasgen.TreeGrammar.random(), biasgen.Schedule.linear()
TRANSITIONS = torch.from_numpy(GRAMMAR.transitions).float()


def plain_loop(n: int, steps: int) -> torch.Tensor:
    """One batch, torch's generator, belief propagation in the linear domain."""
    times = reverse_times(SCHEDULE.T, steps)
    x = torch.randn(n, GRAMMAR.length, GRAMMAR.q)
    for t, s in pairwise(times):
        x0_hat = baselines.linear_posterior(TRANSITIONS, float(SCHEDULE.at(t).gamma) * x)
        x = reverse_step(x, x0_hat, SCHEDULE, t, s, torch.randn(x.shape))
    return x.argmax(-1)


def test_trajectories(smoke, benchmark):
    n, steps = (64, 50) if smoke else (4096, 50)
    slice_ = max(64, n // 16)
    for tokens in (plain_loop(500, 100), sample_tokens(GRAMMAR, SCHEDULE, 500, steps=100)):
        assert GRAMMAR.is_grammatical(tokens).double().mean() > 0.9
    result = harness.compare(
        harness.Side(f"trajectories, n={n} q=6 depth=4, row steps", lambda: sample_tokens(GRAMMAR, SCHEDULE, n, steps=steps), n * steps),
        harness.Side("torch, linear domain", lambda: plain_loop(slice_, steps), slice_ * steps),
        smoke=smoke,
        rounds=7,
    )
    print(f"\n{result}")
    benchmark.pedantic(sample_tokens, (GRAMMAR, SCHEDULE, n), {"steps": steps}, rounds=1)
    assert smoke or result.ratio >= GATE
