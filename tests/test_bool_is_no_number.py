"""True is no number: every argument that wants one refuses it by name, before any work."""

import numpy as np
import pytest

import biasgen
from biasgen import (
    BiasMonitor,
    EmpiricalDenoiser,
    Schedule,
    TrainingSet,
    TreeDenoiser,
    TreeGrammar,
    controls,
    diffusion,
    statistics,
)
from biasgen._numbers import is_number, is_whole
from biasgen.data.split import split_rows
from biasgen.metrics.uturn_overlap import uturn_overlap
from biasgen.ops import philox
from biasgen.ops.empirical_denoise import empirical_denoise

ROWS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
SETS = {"gen": ROWS[:10], "train": ROWS[10:20], "heldout": ROWS[20:]}
GRAMMAR, SCHEDULE = TreeGrammar.random(), Schedule.linear(50)
TOKENS, FIELD = GRAMMAR.sample(4), np.zeros((16, 6))
EXACT = TreeDenoiser(GRAMMAR)
CALLS = {
    "max_memory of knn": lambda x: biasgen.knn(ROWS, ROWS, max_memory=x),
    "max_memory of TrainingSet": lambda x: TrainingSet(ROWS, max_memory=x),
    "max_memory of empirical_denoise": lambda x: empirical_denoise(ROWS, ROWS, 1, 1, max_memory=x),
    "k of knn": lambda x: biasgen.knn(ROWS, ROWS, x),
    "radius": lambda x: biasgen.range_count(ROWS, ROWS, x),
    "bins": lambda x: biasgen.distance_histogram(TOKENS, TOKENS, x),
    "within of nearest_credit": lambda x: biasgen.nearest_credit(ROWS, ROWS, within=x),
    "within of train_affinity": lambda x: biasgen.train_affinity(**SETS, within=x),
    "permutations of evaluate": lambda x: biasgen.evaluate(**SETS, permutations=x),
    "scale": lambda x: EmpiricalDenoiser(ROWS)(ROWS, diffusion.Level(x, 1.0)),
    "looks of detect": lambda x: statistics.detect([], statistics=["a"], looks=x),
    "tolerance of detect": lambda x: statistics.detect([], statistics=["a"], looks=9, tolerance=x),
    "hubness of detectable": lambda x: statistics.detectable(n=9, m=9, h=9, looks=9, hubness=x),
    "n of detectable": lambda x: statistics.detectable(n=x, m=9, h=9, looks=9),
    "t0 of uturn": lambda x: controls.uturn(TOKENS, EXACT, SCHEDULE, x),
    "batch_size of fresh_batches": lambda x: controls.fresh_batches(GRAMMAR.sample, x, seed=0),
    "dose of mix_samples": lambda x: controls.mix_samples(ROWS, ROWS, x),
    "dose of MixtureDenoiser": lambda x: controls.MixtureDenoiser(EXACT, EXACT, x),
    "coefficient": lambda x: controls.ConstantMixture(EXACT, EXACT, x),
    "train of split_rows": lambda x: split_rows(ROWS, {"train": x}, seed=0),
    "seed of split_rows": lambda x: split_rows(ROWS, {"train": 3}, seed=x),
    "seed of philox": lambda x: philox.words(x, n=1, count=1),
    "steps of reverse_times": lambda x: diffusion.reverse_times(5, x),
    "T of flow": lambda x: Schedule.flow(x),
    "t of at": lambda x: SCHEDULE.at(x),
    "n of sample": lambda x: GRAMMAR.sample(x),
    "seed of sample": lambda x: GRAMMAR.sample(2, seed=x),
    "k of factorized": lambda x: GRAMMAR.factorized(x),
    "depth of random": lambda x: TreeGrammar.random(depth=x),
    "q_eff": lambda x: TreeGrammar.random(q_eff=x),
    "sigma of random": lambda x: TreeGrammar.random(sigma=x),
    "m of random_hierarchy": lambda x: TreeGrammar.random_hierarchy(m=x),
    "temperature": lambda x: GRAMMAR.posterior(FIELD, temperature=x),
    "n of posterior_sample": lambda x: GRAMMAR.posterior_sample(FIELD, x),
    "t0 of uturn_overlap": lambda x: uturn_overlap(EXACT, SCHEDULE, TOKENS, x),
    "repeats of uturn_overlap": lambda x: uturn_overlap(EXACT, SCHEDULE, TOKENS, 5, repeats=x),
    "offset of uturn_overlap": lambda x: uturn_overlap(EXACT, SCHEDULE, TOKENS, 5, offset=x),
    "n_samples of BiasMonitor": lambda x: BiasMonitor(**monitored(), n_samples=x),
    "every of BiasMonitor": lambda x: BiasMonitor(**monitored(), every=x),
    "tolerance of BiasMonitor": lambda x: BiasMonitor(**monitored(), tolerance=x),
    "max_fraction of BiasMonitor": lambda x: BiasMonitor(**monitored(), max_fraction=x),
    "n of set_num_threads": lambda x: biasgen.set_num_threads(x),
}


def monitored():
    return {
        "train": ROWS[:10],
        "heldout": ROWS[10:],
        "sampler": lambda model, n, *, seed, offset=0: ROWS[:n],
    }


@pytest.mark.parametrize("name", CALLS)
def test_true_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"^{name.split()[0]}: want "):
        CALLS[name](True)


def test_what_counts_as_a_number():
    for value, whole, number in (
        (3, True, True),
        (np.int8(3), True, True),
        (3.0, False, True),
        (np.float32(3), False, True),
        (True, False, False),
        (np.True_, False, False),
        ("3", False, False),
        (None, False, False),
        (float("nan"), False, False),
        (float("inf"), False, True),
    ):
        assert (is_whole(value), is_number(value)) == (whole, number), value
    assert is_whole(3, 3)
    assert not is_whole(2, 3)
