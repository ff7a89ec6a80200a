"""Trees too deep to list, against messages in the log domain, float64; the sweep over hard fields; bits."""
from functools import cache

import numpy as np
import pytest

from biasgen import TreeGrammar
from biasgen.oracle import tree_posterior as oracle
from biasgen.oracle.tree_evidence import hard_fields
from biasgen.testing import assert_posterior_close, posterior_errors
from tests.tree_problems import arguments, assert_output, draw, evidence_of, grammar_of, model, most_probable, named, posterior, swept

DEEP = {
    "paper, 4": TreeGrammar.random(depth=4),
    "paper, 7": TreeGrammar.random(depth=7),
    "paper, 10": TreeGrammar.random(depth=10),
    "hierarchy 16, 10": TreeGrammar.random_hierarchy(16, 4, 2, 10),
    "hierarchy 64, 5": TreeGrammar.random_hierarchy(64, 8, 2, 5),
    "64 symbols, 6": TreeGrammar.random(64, 6, 9),
    "ambiguous, 12": grammar_of(1, 6, 2, 12, 4),
    "3 children, 7": TreeGrammar.random_hierarchy(6, 4, 3, 7),
    "ambiguous, 3 children, 6": grammar_of(2, 16, 3, 6, 3),
    "4 children, 6": TreeGrammar.random_hierarchy(6, 4, 4, 6),
    "ambiguous, 4 children, 4": grammar_of(3, 6, 4, 4, 5),
    "200 symbols, 4 children, 2": grammar_of(4, 200, 4, 2, 3),
}


@cache
def deep_evidence(name, form):
    """Four rows."""
    field, tokens = evidence_of(DEEP[name], len(DEEP[name].rules), scales=(3.0, 1e4))
    field, tokens = field[[1, 12, 21, 33]], tokens[[0, 9, 19, 30]]
    return {"log_field": None if form == "tokens" else field, "tokens": None if form == "field" else tokens, "temperature": 1.0}


@cache
def by_messages(name, k, form, levels):
    return oracle.tree_posterior(**deep_evidence(name, form), **model(DEEP[name].factorized(k)), levels=levels)


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("name", DEEP)
def test_messages(implementation, name, k):
    grammar = DEEP[name].factorized(min(k, DEEP[name].depth))
    for form, levels in (("field", "leaves"), ("field", "all"), ("tokens", "all"), ("mixed", "rules")):
        with named(form, levels):
            found = posterior(grammar, implementation, **deep_evidence(name, form), levels=levels)
            assert_output(found, by_messages(name, grammar.k, form, levels))


@cache
def hard(depth, name, k=0, levels="leaves"):
    """(field (160, L, Q), the oracle's answer)."""
    grammar = swept(depth)[name].factorized(k)
    field = np.concatenate(list(hard_fields(depth, depth, *arguments(grammar)).values()))
    return field, oracle.tree_posterior(field, **model(grammar), levels=levels)


@pytest.mark.parametrize("depth", [2, 4, 6, 8, 10])
def test_hard_fields(implementation, depth):
    worst = []
    for name, grammar in swept(depth).items():
        field, expected = hard(depth, name)
        assert expected[2].any()
        assert not expected[2].all()
        with named(name):
            found = posterior(grammar, implementation, field)
            assert_posterior_close(found, expected)
            worst.append(posterior_errors(found, expected))
    marginal, log_z = np.max(worst, 0)
    print(f"{implementation}, depth {depth}: marginals off by {marginal:.1e} of themselves, log_z by {log_z:.2f} of what is promised")


@pytest.mark.parametrize(("depth", "k"), [(2, 0), (4, 0), (6, 0), (2, 1), (2, 2), (4, 2), (6, 4)])
def test_hard_fields_and_every_output(implementation, depth, k):
    for name, grammar in swept(depth).items():
        field, expected = hard(depth, name, k, "rules")
        with named(name):
            assert_output(posterior(grammar.factorized(k), implementation, field, levels="rules"), expected)


def outputs(grammar, implementation, what, field, tokens):
    """Every array of an output, rows first."""
    if what == "strings":
        return [draw(grammar, implementation, field, n=3, seed=1)]
    if what == "most probable":
        return [*most_probable(grammar, implementation, field), *most_probable(grammar, implementation, tokens=tokens)]
    k, given = (1, {"log_field": field}) if what == "factorized" else (0, {"tokens": tokens} if what == "tokens" else {"log_field": field})
    levels = what if what in (None, "leaves", "all", "rules") else "all"
    found = posterior(grammar.factorized(k), implementation, **given, levels=levels)
    marginals = found.marginals if isinstance(found.marginals, list) else [found.marginals]
    every = [found.log_z, found.impossible, *marginals, *(found.rule_marginals or [])]
    return [values for values in every if values is not None]


@pytest.mark.parametrize("what", ["leaves", "all", None, "rules", "factorized", "tokens", "most probable", "strings"])
@pytest.mark.parametrize("s", [2, 3, 4])
def test_bits_do_not_depend_on_the_batch(implementation, s, what, monkeypatch):
    if implementation == "torch":
        pytest.skip("promised of the native kernels; torch's vectorized tails may differ")
    grammar = grammar_of(s, 5, s, 3, 4)
    field, tokens = evidence_of(grammar, s)
    field, tokens = field[:37], tokens[:37]
    whole = outputs(grammar, implementation, what, field, tokens)
    for start, stop in [*((0, n) for n in (1, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33)), (5, 6), (11, 36), (36, 37)]:
        if what == "strings" and start:   # drawn with the numbers of their row
            continue
        for part, values in zip(outputs(grammar, implementation, what, field[start:stop], tokens[start:stop]), whole, strict=True):
            np.testing.assert_array_equal(part, values[start:stop])
    monkeypatch.setattr("biasgen.backends.cpu_backend.FIELD_BLOCK", 1)   # blocks of 16
    for part, values in zip(outputs(grammar, implementation, what, field, tokens), whole, strict=True):
        np.testing.assert_array_equal(part, values)
