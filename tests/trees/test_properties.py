"""What holds for every tree, every field and every k: sums, derivatives, symmetries, limits, equal evidence in other words."""
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biasgen import TreeGrammar
from biasgen.oracle import tree_posterior as oracle
from tests.tree_problems import derivations, draw, grammar_of, most_probable, posterior, tables

CLOSE = {"rtol": 2e-5, "atol": 1e-30}   # two answers, each right to a relative 1e-5


def cases(strong=True):
    """(grammar with some k, log_field (3, L, Q), NumPy generator): fields of every size, -inf, impossible rows now and then."""

    @st.composite
    def case(draw_from):
        s = draw_from(st.integers(2, 4))
        depth = draw_from(st.integers(1, {2: 4, 3: 3, 4: 2}[s]))
        q = draw_from(st.integers(1, 6))
        seed = draw_from(st.integers(0, 2**32 - 1))
        grammar = grammar_of(seed, q, s, depth, draw_from(st.integers(1, min(4, q**s))))
        rng = np.random.default_rng(seed)
        scales = draw_from(st.lists(st.sampled_from([0.01, 1.0, 30.0] + [1e3, 1e5] * strong), min_size=3, max_size=3))
        field = np.array(scales)[:, None, None] * rng.standard_normal((3, grammar.length, q))
        field[rng.random(field.shape) < draw_from(st.sampled_from([0.0, 0.05, 0.4]))] = -np.inf
        return grammar.factorized(draw_from(st.integers(0, depth))), field, rng

    return case()


def many(count):
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_same(found, wanted, shift=0.0, order=lambda tables: tables):
    """TreePosterior of levels="all"; log_z may differ by `shift` (B,); order: what became of the tables."""
    np.testing.assert_array_equal(found.impossible, wanted.impossible)
    possible = ~wanted.impossible
    for one, other in zip(tables(found), order(tables(wanted)), strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)
    L = tables(found)[-1].shape[1]
    shifted = (wanted.log_z + shift)[possible]
    slack = 2 * max(1e-5, 1e-7 * L) + 2e-7 * np.max(abs(shift), initial=0)
    np.testing.assert_allclose(found.log_z[possible], shifted, rtol=3e-7, atol=slack)


def assert_sums(grammar, found):
    """A possible row sums to 1 at every node; rules tell parents and children."""
    sure = np.where(found.impossible, 0.0, 1.0)
    for table in tables(found):
        np.testing.assert_allclose(table.sum(2, dtype=float), np.broadcast_to(sure[:, None], table.shape[:2]), rtol=2e-5)
    if found.rule_marginals is None:
        return
    for level, (rows, _) in enumerate(oracle.blocks(grammar.rules, grammar.weights, grammar.level_offsets, grammar.depth)):
        table = found.rule_marginals[level]
        if table is None:
            assert level < grammar.k
            continue
        for column in range(rows.shape[1]):
            nodes = found.marginals[level] if column == 0 else found.marginals[level + 1][:, column - 1 :: grammar.arity]
            told = np.stack([table[..., rows[:, column] == a].sum(-1, dtype=float) for a in range(grammar.q)], -1)
            np.testing.assert_allclose(told, nodes, rtol=2e-5, atol=1e-36)


@many(40)
@given(case=cases())
def test_sums(implementation, case):
    grammar, field, _ = case
    for levels in ("all", "rules"):
        assert_sums(grammar, posterior(grammar, implementation, field, levels=levels))


@many(40)
@given(case=cases())
def test_every_output_says_the_same(implementation, case):
    grammar, field, _ = case
    leaves = posterior(grammar, implementation, field)
    for levels in ("all", None, "rules"):
        found = posterior(grammar, implementation, field, levels=levels)
        np.testing.assert_array_equal(found.impossible, leaves.impossible)
        np.testing.assert_array_equal(found.log_z, leaves.log_z)
        if levels:
            np.testing.assert_array_equal(found.marginals[-1], leaves.marginals)
        else:
            assert found.marginals is None


@many(25)
@given(case=cases(strong=False))
def test_derivative_of_log_z(case):
    """In float64, by torch: marginals, of every k."""
    grammar, field, rng = case
    field = field[:1]
    found = posterior(grammar, "torch", field)
    if found.impossible[0]:
        return
    step = 1e-4
    for _ in range(6):
        i, a = rng.integers(grammar.length), rng.integers(grammar.q)
        if field[0, i, a] == -np.inf:
            continue
        shifted = field.repeat(2, 0)
        shifted[:, i, a] += step, -step
        high, low = posterior(grammar, "torch", shifted, levels=None).log_z
        assert (high - low) / (2 * step) == pytest.approx(found.marginals[0, i, a], abs=1e-6)


@many(40)
@given(case=cases())
def test_a_constant_of_each_leaf(implementation, case):
    grammar, field, rng = case
    constant = 100 * rng.standard_normal((*field.shape[:2], 1))
    found, plain = (posterior(grammar, implementation, f, levels="all") for f in (field + constant, field))
    # the sum rounds where the field is 1e5: a relative 1e-11 of the marginals
    assert_same(found, plain, constant.sum((1, 2)))


@many(40)
@given(case=cases())
def test_other_names_of_the_symbols(implementation, case):
    grammar, field, rng = case
    names = rng.permutation(grammar.q)   # of the symbols
    inverse = np.argsort(names)
    other = TreeGrammar.from_rules(
        grammar.q, grammar.depth, names[grammar.rules], grammar.weights, level_offsets=grammar.level_offsets, root=grammar.root[inverse]
    ).factorized(grammar.k)
    found, plain = (posterior(g, implementation, f, levels="all") for g, f in ((other, field[..., inverse]), (grammar, field)))
    assert_same(found, plain, order=lambda tables: [table[..., inverse] for table in tables])
    strings, log_p = most_probable(grammar, implementation, field)
    renamed, same = most_probable(other, implementation, field[..., inverse])
    np.testing.assert_allclose(same[log_p > -np.inf], log_p[log_p > -np.inf], rtol=2e-7, atol=2e-5)
    np.testing.assert_array_equal(strings[:, 0] == -1, renamed[:, 0] == -1)


@many(40)
@given(case=cases())
def test_children_in_reverse(implementation, case):
    grammar, field, _ = case
    rules = np.concatenate([grammar.rules[:, :1], grammar.rules[:, :0:-1]], 1)
    other = replace(grammar, rules=rules)
    found, plain = (posterior(g, implementation, f, levels="all") for g, f in ((other, field[:, ::-1]), (grammar, field)))
    assert_same(found, plain, order=lambda tables: [table[:, ::-1] for table in tables])


def in_words(grammar, field, rng):
    """[(log_field or None, tokens, the field that says the same)]."""
    tokens = rng.integers(0, grammar.q, field.shape[:2])
    tokens[0] = grammar.sample(1, seed=int(rng.integers(99)))
    tokens[rng.random(tokens.shape) < 0.4] = -1
    return [(part, tokens, oracle.evidence(part, tokens, grammar.q)) for part in (None, field)]


@many(40)
@given(case=cases())
def test_tokens_are_fields(implementation, case):
    """Equal bits in torch: a seen symbol is a field of 0 there and -inf elsewhere, a masked leaf the field, or 0 everywhere."""
    grammar, field, rng = case
    for part, tokens, said in in_words(grammar, field, rng):
        pairs = []
        for levels in ("leaves", "rules"):
            found = posterior(grammar, implementation, part, tokens=tokens, levels=levels)
            wanted = posterior(grammar, implementation, said, levels=levels)
            pairs += [(found.log_z, wanted.log_z), *zip(tables(found), tables(wanted), strict=True)]
        for one, other in pairs:
            if implementation == "torch" or part is not None:
                np.testing.assert_array_equal(one, other)
            else:
                np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5 if one.dtype == float else 1e-30)
        if implementation == "torch" or part is not None:
            strings, same = draw(grammar, implementation, part, n=2, tokens=tokens), draw(grammar, implementation, said, n=2)
            np.testing.assert_array_equal(strings, same)


@many(40)
@given(case=cases())
def test_the_most_probable_derivation_of_tokens(implementation, case):
    grammar, field, rng = case
    for part, tokens, said in in_words(grammar, field, rng):
        best = (most_probable(grammar, implementation, part, tokens=tokens), most_probable(grammar, implementation, said))
        for one, other in zip(*best, strict=True):
            if implementation == "torch" or part is not None:
                np.testing.assert_array_equal(one, other)
            elif one.dtype.kind == "f":
                np.testing.assert_allclose(one, other, rtol=2e-7, atol=2e-5)


@many(20)
@given(case=cases())
def test_kinds_of_tokens(implementation, case):
    grammar, _, rng = case
    tokens = rng.integers(-1, grammar.q, (3, grammar.length))
    found = posterior(grammar, implementation, tokens=tokens, levels="all")
    for kind in (np.int8, np.int16, np.int32):
        same = posterior(grammar, implementation, tokens=tokens.astype(kind), levels="all")
        for one, other in zip(tables(same), tables(found), strict=True):
            np.testing.assert_array_equal(one, other)
    seen = tokens.clip(0)
    unsigned = posterior(grammar, implementation, tokens=seen.astype(np.uint8))
    np.testing.assert_array_equal(unsigned.marginals, posterior(grammar, implementation, tokens=seen).marginals)


@many(60)
@given(case=cases(strong=False), temperature=st.sampled_from([0.02, 0.1, 0.5]))
def test_the_cold_posterior_is_the_most_probable_derivation(implementation, case, temperature):
    """log_p <= T log_z(T) <= log_p + T log(number of derivations); the derivation's leaves are as sure as itself, or more."""
    grammar, field, _ = case
    least = min(table[table > 0].min(initial=1.0) for table in (grammar.weights, grammar.root, grammar.channels))
    temperature = max(temperature, -np.log(least) / 600)   # else it vanishes
    strings, log_p = most_probable(grammar, implementation, field)
    cold = posterior(grammar, implementation, field, temperature=temperature)
    possible = log_p > -np.inf
    np.testing.assert_array_equal(cold.impossible, ~possible)
    gap = temperature * cold.log_z[possible] - log_p[possible]
    slack = 2e-5 + 2e-7 * abs(log_p[possible])
    assert (gap >= -slack).all()
    assert (gap <= temperature * np.log(derivations(grammar)) + slack).all()
    at_best = np.take_along_axis(cold.marginals[possible], strings[possible, :, None].astype(int), 2)[..., 0]
    assert (at_best >= np.exp(-(gap + slack) / temperature)[:, None] * (1 - 1e-5)).all()


@many(30)
@given(case=cases())
def test_the_most_probable_derivation_is_one_of_many(implementation, case):
    grammar, field, _ = case
    strings, log_p = most_probable(grammar, implementation, field)
    found = posterior(grammar, implementation, field, levels=None)
    np.testing.assert_array_equal(log_p == -np.inf, found.impossible)
    np.testing.assert_array_equal((strings == -1).all(1), found.impossible)
    kept = ~found.impossible
    if kept.any():
        assert (log_p[kept] <= found.log_z[kept] + 2e-5 + 2e-7 * abs(log_p[kept]) + 1e-7 * grammar.length).all()
        said = field[kept][np.arange(kept.sum())[:, None], np.arange(grammar.length), strings[kept]].sum(1)
        assert (log_p[kept] <= grammar.log_prob(strings[kept]) + said + 2e-5 + 2e-7 * abs(said)).all()
