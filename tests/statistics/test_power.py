"""What is promised before a run, against runs: the stated effects are seen about as often as stated."""
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import scipy.stats

from biasgen import TreeGrammar, knn, nearest_credit
from biasgen.results import Credit, Result
from biasgen.statistics.detection import detect, permutations_needed
from biasgen.statistics.permutation import subset_sums, upper_tail
from biasgen.statistics.power import detectable, hubness

TRIALS = 120


def evaluation(step, weights, m, looks):
    permuted = subset_sums(weights, m, permutations_needed(0.05 / (2 * looks)), np.random.default_rng(step))
    null, p = upper_tail(weights[:m].sum(), permuted, method="")
    return step, {"watched": Result(weights[:m].sum(), null=null, p_value=p)}


def seen(evaluations, looks):
    return detect(evaluations, statistics=("watched", "other"), looks=looks).status == "detected"


@pytest.mark.parametrize(("n", "m", "h", "looks", "hub"), [(4000, 600, 4000, 10, 2.0), (500, 500, 2000, 25, 4), (8000, 200, 200, 10, 1.2)])
def test_the_affinity_promised_is_seen(n, m, h, looks, hub):
    affinity = detectable(n=n, m=m, h=h, looks=looks, hubness=hub).affinity
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(TRIALS):
        chances = rng.gamma(1 / (hub - 1), size=m + h)     # M sum of squares = hub
        chances[:m] *= affinity * h / ((1 - affinity) * m)
        weights = rng.multinomial(n, chances / chances.sum(), size=2).astype(float)
        hits += seen([evaluation(step, own, m, looks) for step, own in enumerate(weights)], looks)
    assert 0.65 <= hits / TRIALS <= 0.95


@pytest.mark.parametrize(("n", "m", "h", "looks"), [(2000, 500, 500, 10), (1500, 200, 800, 25)])
def test_the_share_of_copies_promised_is_seen(n, m, h, looks):
    dose = detectable(n=n, m=m, h=h, looks=looks, hubness=1.35).near_copies
    grammar, rng = TreeGrammar.random(), np.random.default_rng(1)
    hits = 0
    for trial in range(TRIALS):
        pool = grammar.sample(m + h, seed=1, offset=trial * (m + h))
        to_train = np.sort(knn(pool[m:], pool[:m], 1, distance="hamming").distances[:, 0])
        within = to_train[int(0.01 * h)] - 1     # fewer than 1 % of the held-out rows are so near
        evaluations = []
        for step in (1, 2):
            gen = grammar.sample(n, seed=2, offset=(2 * trial + step) * n)
            copies = rng.binomial(n, dose)
            gen[:copies] = pool[rng.integers(0, m, copies)]
            evaluations.append(evaluation(step, nearest_credit(gen, pool, distance="hamming", within=within).weights, m, looks))
        hits += seen(evaluations, looks)
    assert 0.65 <= hits / TRIALS <= 0.99     # whole distances put fewer than 1 % within: fewer samples hide the copies


def test_the_level_is_that_of_a_normal_test_where_counts_are_large():
    found = detectable(n=10_000, m=5000, h=5000, looks=25, hubness=1.5)
    z = scipy.stats.norm.isf(0.05 / 50) + scipy.stats.norm.isf(0.1)
    assert found.affinity - 0.5 == pytest.approx(z * np.sqrt(0.25 * (1 / 10_000 + 0.5 / 10_000)), rel=0.02)
    assert found.null == 0.5


def test_nothing_is_promised_where_nothing_can_be_seen():
    found = detectable(n=2, m=50, h=50, looks=25)
    assert found.affinity is None
    assert found.near_copies is None
    assert "an affinity of no size (null 0.500) or a share of copies of no size" in found.sentence()


@pytest.mark.parametrize(
    "better", [{"n": 8000}, {"looks": 5}, {"statistics": 1}, {"alpha": 0.1}, {"hubness": 1.2}, {"power": 0.6}, {"near_share": 0.001}]
)
def test_what_makes_smaller_effects_visible(better):
    base = {"n": 4000, "m": 1000, "h": 1000, "looks": 10}
    plain, improved = detectable(**base), detectable(**base | better)
    if "near_share" not in better:
        assert improved.affinity < plain.affinity
    assert improved.near_copies < plain.near_copies


def test_sentence():
    found = detectable(n=4000, m=600, h=4000, looks=10)
    more = detectable(n=16_000, m=600, h=4000, looks=10)
    assert found.sentence() == (
        f"With 4000 samples, 600 training and 4000 held-out rows and 10 evaluations, an affinity of >= {found.affinity:.3f} (null 0.130) "
        f"or a share of copies of >= {100 * found.near_copies:.2g} % will be seen with 80% power; with 16000 samples: "
        f">= {more.affinity:.3f} or >= {100 * more.near_copies:.2g} %. The excess of affinity does not halve: which rows happen to lie "
        "near is chance too, and takes more rows."
    )


def test_four_times_the_samples_halve_the_excess_only_where_hubs_do_not_matter():
    few = detectable(n=1000, m=50_000, h=50_000, looks=10)
    more = detectable(n=4000, m=50_000, h=50_000, looks=10)
    assert (more.affinity - 0.5) / (few.affinity - 0.5) == pytest.approx(0.5, abs=0.02)
    assert few.sentence().endswith(" %.")
    limited = [detectable(n=n, m=500, h=500, looks=10, hubness=4.0).affinity - 0.5 for n in (4000, 16_000, 10**6)]
    assert limited[1] / limited[0] > 0.9
    assert limited[2] / limited[1] > 0.95
    assert "does not halve" in detectable(n=4000, m=500, h=500, looks=10, hubness=4.0).sentence()


@pytest.mark.parametrize("n", [2, 3])
def test_hubness_is_unbiased_ties_included(n):
    outcomes = {(0,): 0.5, (1,): 0.1, (1, 2): 0.3, (0, 1, 2): 0.1}     # nearest rows of a sample, and the chance
    credits = np.array([np.bincount(rows, minlength=4) / len(rows) for rows in outcomes])
    chances = np.array(list(outcomes.values()))
    expected = 0.0
    for drawn in product(range(4), repeat=n):
        tie_counts = np.array([len(list(outcomes)[i]) for i in drawn])
        expected += chances[list(drawn)].prod() * hubness(Credit(credits[list(drawn)].sum(axis=0), np.zeros(n), tie_counts))
    assert expected == pytest.approx(4 * ((chances @ credits) ** 2).sum(), rel=1e-12)


def test_hubness_of_points_on_a_line():
    rng = np.random.default_rng(4)
    train, heldout = np.sort(rng.random(4000)), rng.random(20_000)
    nearest = np.searchsorted((train[1:] + train[:-1]) / 2, heldout)
    credit = Credit(np.bincount(nearest, minlength=4000), None, np.ones(20_000))
    assert hubness(credit) == pytest.approx(1.5, abs=0.1)
    with pytest.raises(ValueError, match=r"^credit: "):
        hubness(replace(credit, tie_counts=np.ones(1)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 0), ("m", 2.5), ("h", -1), ("looks", 0), ("statistics", 0), ("alpha", 1.0), ("near_share", 0), ("power", "x"), ("hubness", 0.9)],
)
def test_arguments_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name}: .*{value}"):
        detectable(**{"n": 100, "m": 50, "h": 50, "looks": 5} | {name: value})
