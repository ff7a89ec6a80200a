"""The decision over evaluations: the rule case by case, its false alarms by simulation, a planted dose found."""
from functools import cache

import numpy as np
import pytest
import scipy.stats

from biasgen import TreeGrammar
from biasgen.results import Null, Result
from biasgen.statistics.detection import detect, permutations_needed
from biasgen.statistics.permutation import random_labels, upper_tail

NAN = float("nan")
LOOKS = 25
GRAMMAR = TreeGrammar.random()


def result(p, value=0.6):
    return Result(value, ci=(value - 0.05, value + 0.05), null=Null(0.5, 0.53, ""), p_value=p)


def history(**columns):
    """Evaluations at steps 10, 20, ...; one p a cell, or a Result, or ... for a metric that is missing."""
    rows = zip(*columns.values(), strict=True)
    cells = [{name: cell for name, cell in zip(columns, row, strict=True) if cell is not ...} for row in rows]
    return [(10 * i, {n: c if isinstance(c, Result) else result(c) for n, c in row.items()}) for i, row in enumerate(cells, start=1)]


@pytest.mark.parametrize(
    ("p_values", "status", "step"),
    [
        ([], "inconclusive", None),
        ([0.001], "inconclusive", None),
        ([0.001, 0.2, 0.001, 0.3], "inconclusive", None),
        ([0.5, 0.001, 0.004, 0.5], "detected", 20),
        ([0.001, 0.001, 0.001], "detected", 10),
        ([0.005, 0.005], "detected", 10),     # at the level .05 / 10
        ([0.0051, 0.0051], "inconclusive", None),
        ([0.001, NAN, 0.001, 0.001], "detected", 30),
        ([0.001, None, 0.001], "inconclusive", None),
        ([0.001, ..., 0.001], "inconclusive", None),
        ([0.5] * 7, "inconclusive", None),
        ([0.5] * 8, "none", None),
        ([0.5] * 7 + [0.001, 0.001], "detected", 80),
    ],
)
def test_two_in_a_row(p_values, status, step):
    onset = detect(history(a=p_values), statistics=("a",), looks=10)
    assert (onset.status, onset.step, onset.looks, onset.statistic, onset.alpha) == (status, step, len(p_values), "a", 0.05)


def test_the_level_is_shared_by_statistics_and_looks():
    pair = history(a=[0.5, 0.5, 0.5], b=[0.5, 0.0025, 0.0025])
    assert detect(pair, statistics=("a", "b"), looks=10).statistic == "b"
    assert detect(pair, statistics=("a", "b"), looks=11).status == "inconclusive"
    assert detect(pair, statistics=("a", "b", "c"), looks=10).status == "inconclusive"
    assert detect(pair, statistics=("a",), looks=1).status == "inconclusive", "b is not watched"
    assert detect(pair, statistics=("a", "b"), looks=10, alpha=0.04).status == "inconclusive"


def test_both_evaluations_are_of_one_statistic():
    assert detect(history(a=[0.001, 0.5], b=[0.5, 0.001]), statistics=("a", "b"), looks=10).status == "inconclusive"


def test_the_earlier_detection_counts_and_the_main_statistic_where_both_are_equally_early():
    assert detect(history(a=[0.5, 0.001, 0.001], b=[0.001] * 3), statistics=("a", "b"), looks=10).statistic == "b"
    assert detect(history(a=[0.001] * 3, b=[0.001] * 3), statistics=("b", "a"), looks=10).statistic == "b"


def test_interval_is_of_the_excess_at_the_step_or_of_the_main_statistic_at_the_end():
    found = detect(history(a=[0.5] * 3, b=[0.5, result(0.001, 0.7), result(0.001, 0.8)]), statistics=("a", "b"), looks=10)
    assert found.interval == pytest.approx((0.15, 0.25))
    last = detect(history(a=[0.5, result(0.5, 0.52)], b=[0.5, 0.5]), statistics=("a", "b"), looks=10)
    assert last.interval == pytest.approx((-0.03, 0.07))
    assert last.statistic == "a"
    assert detect(history(a=[0.5, ...]), statistics=("a",), looks=10).interval is None
    assert detect([], statistics=("a",), looks=10).interval is None


def test_alpha_says_what_was_spent_beyond_the_plan():
    assert detect(history(a=[0.5] * 10), statistics=("a",), looks=10).alpha == 0.05
    assert detect(history(a=[0.5] * 15), statistics=("a",), looks=10).alpha == pytest.approx(0.075)
    late = detect(history(a=[0.5] * 13 + [0.005] * 2), statistics=("a",), looks=10)
    assert (late.status, late.step, late.looks) == ("detected", 140, 15)
    assert detect(history(a=[0.5] * 500), statistics=("a",), looks=10).alpha == 1


def test_tolerance_asks_the_lower_bound():
    z = scipy.stats.norm.isf(0.005) / scipy.stats.norm.isf(0.025)
    bound = 0.1 - 0.05 * z
    pair = history(a=[1e-4, 1e-4])
    assert detect(pair, statistics=("a",), looks=10, tolerance=bound - 1e-6).status == "detected"
    assert detect(pair, statistics=("a",), looks=10, tolerance=bound + 1e-6).status == "inconclusive"
    assert detect(history(a=[0.2, 0.2]), statistics=("a",), looks=10, tolerance=bound - 1e-6).status == "inconclusive", "p counts too"
    bare = [Result(0.9, null=Null(0.5, 0.53, ""), p_value=1e-4)] * 2
    assert detect(history(a=bare), statistics=("a",), looks=10).status == "detected"
    assert detect(history(a=bare), statistics=("a",), looks=10, tolerance=0.01).status == "inconclusive"


@pytest.mark.parametrize(("level", "permutations"), [(0.05 / 50, 4999), (0.05 / 20, 1999), (0.05 / 8, 999), (0.5, 999), (3e-4, 16666)])
def test_permutations_needed(level, permutations):
    assert permutations_needed(level) == permutations
    assert 5 / (permutations + 1) <= level * (1 + 1e-9)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("statistics", {"statistics": ()}),
        ("statistics", {"statistics": "ab"}),
        ("statistics", {"statistics": ("a", "a")}),
        ("looks", {"looks": 0}),
        ("looks", {"looks": 2.5}),
        ("alpha", {"alpha": 1}),
        ("alpha", {"alpha": NAN}),
        ("tolerance", {"tolerance": -0.1}),
        ("tolerance", {"tolerance": NAN}),
    ],
)
def test_arguments_are_checked(name, settings):
    with pytest.raises(ValueError, match=f"^{name}: "):
        detect(history(a=[0.5] * 2, b=[0.5] * 2), **{"statistics": ("a",), "looks": 10} | settings)
    with pytest.raises(ValueError, match=r"^level: "):
        permutations_needed(0)


def test_steps_must_increase():
    with pytest.raises(ValueError, match=r"^history: .*\[10, 10\]"):
        detect(history(a=[0.5] * 2)[:1] * 2, statistics=("a",), looks=10)


def at_most_five_percent(alarms, curves):
    """A rate of 5 % gives more alarms than this once in a thousand simulations."""
    return alarms <= scipy.stats.binom.isf(0.001, curves, 0.05)


@pytest.mark.parametrize("correlation", [0.0, 0.9, 0.999])
def test_false_alarms_of_uniform_p_values(correlation):
    rng = np.random.default_rng(1)
    curves = 1000
    z = rng.standard_normal((curves, LOOKS, 2))
    for i in range(1, LOOKS):
        z[:, i] = correlation * z[:, i - 1] + np.sqrt(1 - correlation**2) * z[:, i]
    onsets = [detect(history(a=p[:, 0], b=p[:, 1]), statistics=("a", "b"), looks=LOOKS) for p in scipy.stats.norm.sf(z)]
    assert at_most_five_percent(sum(onset.status == "detected" for onset in onsets), curves)


@cache
def relabelings(m, h):
    """(M, permutations) labels as numbers: one set serves all pools of a size."""
    blocks = random_labels(m + h, m, permutations_needed(0.05 / (2 * LOOKS)), np.random.default_rng(0))
    return np.concatenate(list(blocks)).T.astype(np.float64)


def onset_of_curve(seed, doses, m=60, h=90, n=150):
    """Affinity and near affinity of samplers that improve over training, copy a share of training rows, and start from one noise."""
    pool = GRAMMAR.sample(m + h, seed=2, offset=seed * (m + h))
    unbiased = GRAMMAR.sample(n, seed=3, offset=seed * n)
    rng = np.random.default_rng(seed)
    order, wrong = rng.random(unbiased.shape), rng.integers(0, GRAMMAR.q, unbiased.shape)
    symbols = np.arange(GRAMMAR.q)
    pool_one_hot = (pool[:, :, None] == symbols).reshape(m + h, -1).astype(np.float32)
    evaluations = []
    for step, dose in enumerate(doses):
        gen = np.where(order < 0.5 - 0.5 * step / len(doses), wrong, unbiased)
        copies = round(dose * n)
        gen[:copies] = pool[np.arange(copies) % m]
        agree = (gen[:, :, None] == symbols).reshape(n, -1).astype(np.float32) @ pool_one_hot.T
        nearest = agree == agree.max(axis=1, keepdims=True)
        credit = nearest / nearest.sum(axis=1, keepdims=True)
        weights = np.stack([credit.sum(axis=0), credit[agree.max(axis=1) >= 13].sum(axis=0)])
        results = {}
        for name, own, permuted in zip(("all", "near"), weights[:, :m].sum(axis=1), weights @ relabelings(m, h), strict=True):
            null, p = upper_tail(own, permuted, method="")
            results[name] = Result(own, null=null, p_value=p)
        evaluations.append((step, results))
    return detect(evaluations, statistics=("all", "near"), looks=LOOKS)


def test_false_alarms_of_affinity_in_a_fixed_pool():
    onsets = [onset_of_curve(seed, [0.0] * LOOKS) for seed in range(200)]
    assert {onset.status for onset in onsets} <= {"none", "detected"}
    assert at_most_five_percent(sum(onset.status == "detected" for onset in onsets), 200)


def test_a_planted_dose_is_found_where_it_begins():
    onsets = [onset_of_curve(1000 + seed, [0.0] * 10 + [0.3] * 15) for seed in range(20)]
    assert {(onset.status, onset.step) for onset in onsets} == {("detected", 10)}
