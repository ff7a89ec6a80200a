"""Samples with a known dose of bias on the paper's grammar: U-turns from training rows are seen, their placebo is flat, and an exact
sampler of few steps is not called biased by affinity, although it is by the divergence."""
from itertools import pairwise

import numpy as np
import pytest

from biasgen import Schedule, TrainingSet, TreeDenoiser, TreeGrammar, nn_divergence, split_comparison, train_affinity
from biasgen.diffusion import sample_tokens

GRAMMAR, SCHEDULE = TreeGrammar.random(), Schedule.linear()
N, M = 4000, 2000
TRAIN, TWIN, HELDOUT = np.split(GRAMMAR.sample(2 * M + N, seed=21), [M, 2 * M])


def draw(**options):
    n = len(options["start"]) if "start" in options else N
    tokens = sample_tokens(TreeDenoiser(GRAMMAR), SCHEDULE, n, shape=(16, 6), seed=5, batch_size=N, **options)
    return tokens.numpy().astype(np.int8)


@pytest.mark.parametrize("t0", [100, 75])
def test_uturns_are_detected_and_the_placebo_is_flat(t0):
    gen_a, gen_b = (draw(start=np.resize(rows, (N, 16)), t_start=t0, steps=t0) for rows in (TRAIN, TWIN))
    affinity = train_affinity(gen=gen_a, train=TRAIN, heldout=HELDOUT)
    assert affinity.p_value < 0.01
    placebo = train_affinity(gen=gen_b, train=TRAIN, heldout=HELDOUT)
    assert placebo.p_value > 0.01
    assert abs(placebo.excess) < 0.25 * affinity.excess
    twins = split_comparison(gen_a=gen_a, gen_b=gen_b, train_a=TrainingSet(TRAIN), train_b=TrainingSet(TWIN), heldout=HELDOUT)
    assert twins.own_share.p_value < 0.01
    assert twins.own_share.value == pytest.approx({100: 0.605, 75: 0.853}[t0], abs=0.03)   # docs/statistics.md
    assert twins.kl_own.p_value < 0.01
    assert twins.kl_placebo.p_value > 0.01
    assert twins.near_copies.placebo < 0.5 * twins.near_copies.value


def test_an_exact_sampler_of_ten_steps_is_not_called_biased():
    gen = draw(steps=10)
    p_values = [
        train_affinity(gen=gen, train=data[:M], heldout=data[M:]).p_value
        for data in (GRAMMAR.sample(M + N, seed=100 + i) for i in range(20))
    ]
    assert sum(p < 0.05 for p in p_values) <= 4, sorted(p_values)
    assert nn_divergence(gen=gen, train=TRAIN, heldout=HELDOUT).p_value < 0.05, "this is why the divergence alone does not decide"


def test_the_response_grows_with_the_dose():
    """Own share, affinity and near-copies do not fall by more than 2 standard errors as t0 does; docs/studies/dose.md has more."""
    found = []
    for t0 in (500, 150, 100, 75, 50):
        gen_a, gen_b = (draw(start=np.resize(rows, (N, 16))[:1500], t_start=t0, steps=t0) for rows in (TRAIN, TWIN))
        split = split_comparison(gen_a=gen_a, gen_b=gen_b, train_a=TRAIN, train_b=TWIN, heldout=HELDOUT, permutations=99)
        found.append({"own_share": split.own_share, "near_copies": split.near_copies, "kl_placebo": split.kl_placebo})
        found[-1]["affinity"] = train_affinity(gen=gen_a, train=TRAIN, heldout=HELDOUT, permutations=99)
    for name in ("own_share", "near_copies", "affinity"):
        values = [(r[name].value, (r[name].ci[1] - r[name].ci[0]) / 3.92) for r in found]
        for (weaker, sd), (stronger, other) in pairwise(values):
            assert stronger >= weaker - 2 * np.hypot(sd, other), name
        assert values[-1][0] > values[0][0] + 0.3, name
    assert all(r["kl_placebo"].value < 3 * r["kl_placebo"].null.q95 for r in found), "the placebo is flat"
