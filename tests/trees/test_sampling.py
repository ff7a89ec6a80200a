"""Strings of a grammar and of its posteriors: their law against the list of all, their marginals, the numbers they are drawn with."""
from functools import cache

import numpy as np
import pytest
from scipy import stats

from biasgen import TreeGrammar
from biasgen.ops import philox
from biasgen.oracle import tree_posterior as oracle
from tests.tree_problems import (
    CASES,
    arguments,
    dense,
    draw,
    evidence_of,
    grammar_of,
    model,
    most_probable,
    named,
    posterior,
    small,
)

N = 20_000
LAWS = [   # (name of a small grammar, k) with few enough strings
    ("paper", 0), ("paper, 3 levels", 1), ("hierarchy, 3 children", 0), ("ambiguous", 0), ("ambiguous", 1), ("ambiguous", 2),
    ("ambiguous, 3 children", 0), ("ambiguous, 3 children", 1), ("ambiguous, 4 children", 0), ("ambiguous, 4 children", 1),
    ("dense", 0), ("dense", 1), ("dense, tables of each level", 2), ("dense, 3 children", 0), ("dense, 3 children", 1),
]


def assert_law(drawn, strings, p):
    """Chi-square of the strings (n, L) against probabilities p of the distinct `strings`; rare ones count together."""
    codes, found = (rows.astype(int) @ 8 ** np.arange(rows.shape[1]) for rows in (strings, drawn))   # at most 8 symbols, 16 leaves
    order = np.argsort(codes)
    at = order[np.searchsorted(codes[order], found).clip(max=len(codes) - 1)]
    np.testing.assert_array_equal(codes[at], found)   # no string that the grammar forbids
    observed = np.bincount(at, minlength=len(p))
    assert not observed[p == 0].any()
    often = len(drawn) * p >= 5
    seen, wanted = [np.append(x[often], x[~often].sum()) for x in (observed, len(drawn) * p)]
    kept = wanted >= 5
    if kept.sum() > 1:
        assert stats.chisquare(seen[kept], wanted[kept] * seen[kept].sum() / wanted[kept].sum()).pvalue > 1e-4


@pytest.mark.parametrize("case", LAWS, ids=str)
def test_law_of_samples(case):
    grammar = small(case)
    L = grammar.length
    strings, p = oracle.enumerate_strings(np.zeros((1, L, grammar.q)), **model(grammar))
    assert_law(grammar.sample(N, seed=len(p)), strings, p[0])


@cache
def law(case, form):
    """Evidence of one row, the strings that it allows, and their probabilities."""
    grammar = small(case)
    rng = np.random.default_rng([LAWS.index(case), len(form)])
    field = rng.standard_normal((1, grammar.length, grammar.q))
    tokens = grammar.sample(1, seed=2).astype(int)
    tokens[0, rng.random(grammar.length) < 0.7] = -1
    given = {"log_field": None if form == "tokens" else field, "tokens": tokens if form in ("tokens", "mixed") else None}
    temperature = {"hot": 2.0, "cold": 0.4}.get(form, 1.0)
    return given, temperature, *oracle.enumerate_strings(**given, **model(grammar), temperature=temperature)


@pytest.mark.parametrize("form", ["field", "tokens", "mixed", "hot", "cold"])
@pytest.mark.parametrize("case", LAWS, ids=str)
def test_law_of_posterior_strings(implementation, case, form):
    """One row again and again: row b draws with the numbers of sample b."""
    given, temperature, strings, p = law(case, form)
    rows = {name: None if values is None else values.repeat(N // 4, 0) for name, values in given.items()}
    found = draw(small(case), implementation, **rows, n=4, seed=7, temperature=temperature)
    assert found.shape == (N // 4, 4, small(case).length)
    assert_law(found.reshape(N, -1), strings, p[0])


DRAWN = {
    "paper": TreeGrammar.random(),
    "hierarchy": TreeGrammar.random_hierarchy(8, 3, 2, 4),
    "3 children": grammar_of(1, 5, 3, 3, 3),
    "4 children": grammar_of(2, 4, 4, 2, 4),
    "dense": dense(3, 4, 2, 3, tables=3),
    "150 symbols": grammar_of(4, 150, 2, 2, 2),
}


def numbers(grammar, rows, n, seed):
    """(rows, n, count) as the ops draw them."""
    return np.stack([philox.uniforms(seed, n=rows, count=grammar.length * 2, step=k, purpose=philox.POSTERIOR) for k in range(n)], 1)


@cache
def drawn(name, k, form):
    """Evidence, temperature, which rows are possible, their strings by the oracle, margins."""
    grammar = DRAWN[name].factorized(k)
    field, tokens = evidence_of(grammar, 3)
    given = {"log_field": None if form == "tokens" else field, "tokens": None if form == "field" else tokens}
    whole, temperature = oracle.evidence(**given, Q=grammar.q), 0.5 if form == "mixed" else 1.0
    possible = ~oracle.tree_posterior(whole, **model(grammar))[2]
    u = numbers(grammar, len(whole), 3, seed=11)[possible]
    return given, temperature, possible, *oracle.draw_strings(whole[possible], u=u, **model(grammar), temperature=temperature)


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("name", DRAWN)
def test_strings_are_those_of_the_oracle(implementation, name, k):
    """Drawn with the same numbers, but where one lies within rounding of a step."""
    grammar = DRAWN[name].factorized(k)
    for form in ("field", "tokens", "mixed"):
        given, temperature, possible, expected, margins = drawn(name, k, form)
        found = draw(grammar, implementation, **given, n=3, temperature=temperature, seed=11)
        with named(form):
            assert found.dtype == (np.int8 if grammar.q <= 127 else np.int16)
            assert (found[~possible] == -1).all()
            clear = margins > 1e-5
            assert clear.mean() > 0.95
            np.testing.assert_array_equal(found[possible][clear], expected[clear])


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("name", DRAWN)
def test_samples_are_those_of_the_oracle(name, k):
    grammar = DRAWN[name].factorized(k)
    u = philox.uniforms(5, n=40, count=2 * grammar.length, offset=9, purpose=philox.DATA)
    expected, margins = oracle.draw_strings(np.zeros((1, grammar.length, grammar.q)), u=u[None], **model(grammar))
    clear = margins[0] > 1e-9
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(grammar.sample(40, seed=5, offset=9)[clear], expected[0][clear])
    np.testing.assert_array_equal(grammar.sample(60, seed=5)[9:49], grammar.sample(40, seed=5, offset=9))


@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.parametrize("name", ["paper", "3 children", "dense"])
def test_strings_keep_their_numbers(implementation, name, k, monkeypatch):
    """However many strings, rows or blocks: odd sizes, too."""
    grammar = DRAWN[name].factorized(k)
    field, tokens = evidence_of(grammar, 4)
    for given in ({"log_field": field}, {"tokens": tokens}):
        whole = draw(grammar, implementation, **given, n=5, seed=3)
        assert (whole[:, 0] != whole[:, 1]).any()
        for n, rows in ((1, 40), (3, 7), (5, 1), (2, 33), (0, 4)):
            part = {name: values[:rows] for name, values in given.items()}
            np.testing.assert_array_equal(draw(grammar, implementation, **part, n=n, seed=3), whole[:rows, :n])
        one = {name: values[0] for name, values in given.items()}
        np.testing.assert_array_equal(draw(grammar, implementation, **one, n=5, seed=3), whole[0])
        assert (draw(grammar, implementation, **given, n=5, seed=4) != whole).any()
        with monkeypatch.context() as small_blocks:
            small_blocks.setattr("biasgen.backends.cpu_backend.FIELD_BLOCK", 1)
            small_blocks.setattr("biasgen.backends.torch_backend.MAX_MEMORY", 1)
            np.testing.assert_array_equal(draw(grammar, implementation, **given, n=5, seed=3), whole)


def assert_counts(found, p, n, bound=5.5):
    """Every z-score of counts (...,) of n draws against p below the bound: some thousand comparisons pass it by chance once in 10 000."""
    assert not found[p == 0].any()
    variance = n * p * (1 - p)
    kept = variance > 25
    assert kept.any()
    z = (found[kept] - n * p[kept]) / np.sqrt(variance[kept])
    assert abs(z).max() < bound
    assert 0.7 < np.sqrt((z**2).mean()) < 1.4   # neither too far nor too near


BIG = {
    "paper, 5 levels": TreeGrammar.random(depth=5),
    "hierarchy, 6 levels": TreeGrammar.random_hierarchy(8, 4, 2, 6),
    "ambiguous, 4 levels": grammar_of(1, 5, 2, 4, 4),
    "3 children, 4 levels": TreeGrammar.random_hierarchy(6, 3, 3, 4),
    "4 children, 3 levels": grammar_of(2, 4, 4, 3, 4),
}


@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("name", BIG)
def test_marginals_of_strings(implementation, name, k):
    """Leaves, and pairs of neighbors where the rules of the last level tell them: against belief propagation by the oracle."""
    grammar = BIG[name].factorized(k)
    n, L, q = 4000, grammar.length, grammar.q
    field = np.random.default_rng(k).standard_normal((1, L, q))
    field[0, 0, 1] = -np.inf
    strings = draw(grammar, implementation, field.repeat(n // 4, 0), n=4, seed=k).reshape(n, L)
    marginals, _, _, ruled = oracle.tree_posterior(field, **model(grammar), levels="rules")
    assert_counts(np.stack([np.bincount(column, minlength=q) for column in strings.T]), marginals[0, -L:], n)
    rules = np.unique(oracle.blocks(*arguments(grammar)[:3], grammar.depth)[-1][0][:, 1:], axis=0)
    block = oracle.blocks(*arguments(grammar)[:3], grammar.depth)[-1][0]
    families = strings.reshape(n, -1, grammar.arity)
    counts = np.stack([(families == family).all(2).sum(0) for family in rules], 1)
    shares = np.stack([ruled[-1][0][:, (block[:, 1:] == family).all(1)].sum(1) for family in rules], 1)
    assert_counts(counts, shares, n)


@pytest.mark.parametrize("name", BIG)
def test_marginals_of_samples(name):
    grammar, n = BIG[name], 20_000
    for k in (0, 2):
        marginals = oracle.tree_posterior(np.zeros((1, grammar.length, grammar.q)), **model(grammar.factorized(k)))[0][0]
        strings = grammar.factorized(k).sample(n, seed=k + 1)
        assert_counts(np.stack([np.bincount(column, minlength=grammar.q) for column in strings.T]), marginals, n)


@pytest.mark.parametrize("case", [("paper", 0), ("ambiguous, 3 children", 1), ("one symbol", 0)], ids=str)
def test_certain_and_impossible_evidence(implementation, case):
    grammar = small(case)
    assert case in CASES
    tokens = grammar.sample(6, seed=1).astype(int)
    field = np.where(np.eye(grammar.q)[tokens] > 0, 0.0, -np.inf)
    field[2, 1] = -np.inf
    for temperature in (1.0, 0.2):
        found = draw(grammar, implementation, field, n=2, temperature=temperature)
        assert (found[2] == -1).all()
        rest = [0, 1, 3, 4, 5]
        np.testing.assert_array_equal(found[rest], tokens[rest][:, None].repeat(2, 1))
        np.testing.assert_array_equal(found[rest], draw(grammar, implementation, None, n=2, tokens=tokens)[rest])
    strings, log_p = most_probable(grammar, implementation, field)
    assert (strings[2] == -1).all()
    assert log_p[2] == -np.inf
    np.testing.assert_array_equal(strings[rest], tokens[rest])
    assert (log_p[rest] <= posterior(grammar, implementation, field, levels=None).log_z[rest] + 2e-5).all()
