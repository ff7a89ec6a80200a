"""Grammars of any arity, with rules of each level and a root prior: enumeration, float64 messages, sampling, errors."""
import numpy as np
import pytest
from scipy import stats

from biasgen import TreeGrammar
from biasgen.ops import philox
from biasgen.ops.tree import Tree
from biasgen.ops.tree_posterior import tree_posterior
from biasgen.oracle import tree_posterior as oracle
from biasgen.results import TreePosterior
from biasgen.testing import assert_posterior_close
from tests.tree_problems import arguments, grammar_of


def field_of(grammar, n, seed=0):
    rng = np.random.default_rng(seed)
    field = rng.choice([0.1, 3, 1e3, 1e5], (n, 1, 1)) * rng.standard_normal((n, grammar.length, grammar.q))
    field[rng.random(field.shape) < 0.05] = -np.inf
    field[-1, 0] = -np.inf
    return field


@pytest.mark.parametrize(
    ("q", "s", "depth", "m"), [(3, 2, 3, 2), (8, 2, 2, 3), (3, 3, 2, 2), (8, 3, 1, 5), (2, 4, 2, 2), (5, 4, 1, 5), (1, 3, 2, 1)]
)
def test_enumeration_of_all_levels(implementation, q, s, depth, m):
    grammar = grammar_of(q, q, s, depth, m)
    for typed in (field_of(grammar, 20), field_of(grammar, 5).astype(np.float32)):
        expected = oracle.enumerate_posterior(typed, *arguments(grammar), levels="all")
        found = tree_posterior(typed, grammar.tree, levels="all", backend=implementation)
        assert [part.shape[1] for part in found.marginals] == [s**d for d in range(depth + 1)]
        whole = np.concatenate(found.marginals, 1)
        assert_posterior_close(TreePosterior(whole, found.log_z, found.impossible), expected)
        leaves = tree_posterior(typed, grammar.tree, backend=implementation)
        np.testing.assert_array_equal(leaves.marginals, found.marginals[-1])
        np.testing.assert_array_equal(leaves.log_z, found.log_z)


@pytest.mark.parametrize(("q", "s", "depth", "m"), [(6, 2, 10, 4), (5, 3, 5, 3), (4, 4, 4, 3), (40, 2, 3, 1600), (200, 2, 3, 3)])
def test_deep_trees_and_many_rules(implementation, q, s, depth, m):
    grammar = grammar_of(1, q, s, depth, m)
    field = field_of(grammar, 5)
    found = tree_posterior(field, grammar.tree, backend=implementation)
    assert_posterior_close(found, oracle.tree_posterior(field, *arguments(grammar)))


def test_a_prior_far_below_the_evidence(implementation):
    """The only root that the evidence allows has a prior of 1e-300, and nothing may be lost."""
    rules = [(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    field = np.array([[[0, -np.inf, 400], [300, 1, -np.inf]], [[-np.inf, 0, -np.inf], [0, 0, 0]]])
    grammar = np.array(rules), np.ones(3), [0, 3], np.array([1e-300, 1 - 1e-12, 1e-12])
    found = tree_posterior(field, Tree.checked(3, 1, *grammar), backend=implementation)
    assert_posterior_close(found, oracle.enumerate_posterior(field, *grammar))


@pytest.mark.parametrize("s", [2, 3, 4])
def test_bits_do_not_depend_on_the_batch(implementation, s):
    if implementation == "torch":
        pytest.skip("promised of the native kernels")
    grammar = grammar_of(2, 5, s, 2, 4)
    field = field_of(grammar, 17)
    whole = np.concatenate(
        tree_posterior(field, grammar.tree, levels="all", backend=implementation).marginals, 1
    )
    for n in range(17):
        one = tree_posterior(field[n], grammar.tree, levels="all", backend=implementation).marginals
        np.testing.assert_array_equal(np.concatenate(one), whole[n])


@pytest.mark.parametrize(("q", "s", "depth"), [(3, 2, 2), (3, 3, 1), (2, 4, 1)])
def test_samples_have_the_law(q, s, depth):
    grammar, n = grammar_of(3, q, s, depth, 2), 40_000
    code = q ** np.arange(grammar.length)
    everything = np.arange(q**grammar.length)[:, None] // code % q
    law = np.exp(grammar.log_prob(everything))
    np.testing.assert_allclose(law.sum(), 1, rtol=1e-4)
    np.testing.assert_array_equal(grammar.is_grammatical(everything), law > 0)
    for drawn in (grammar.sample(n, seed=1), grammar.posterior_sample(np.zeros((grammar.length, q)), n, seed=1)):
        counts = np.bincount(drawn.astype(int) @ code, minlength=len(law))
        assert not counts[law == 0].any()
        assert stats.chisquare(counts[law > 0], n * law[law > 0] / law.sum()).pvalue > 1e-3


def test_random_hierarchy():
    grammar = TreeGrammar.random_hierarchy(v=8, m=4, s=3, depth=3, seed=1)
    assert grammar.rules.shape == (96, 4)
    levels = grammar.rules.reshape(3, 32, 4)
    for level in levels:
        assert len(np.unique(level[:, 1:], axis=0)) == 32
        np.testing.assert_array_equal(np.bincount(level[:, 0]), 4)
    assert not np.array_equal(levels[0], levels[1])
    np.testing.assert_array_equal(TreeGrammar.random_hierarchy(8, 4, 3, 3, seed=1).rules, grammar.rules)
    np.testing.assert_allclose(grammar.log_prob(grammar.sample(20)), -np.log(8) - 13 * np.log(4), rtol=1e-6)
    shared = TreeGrammar.random_hierarchy(8, 4, 3, 3, seed=1, shared=True)
    np.testing.assert_array_equal(shared.rules, levels[0])
    np.testing.assert_allclose(shared.log_prob(shared.sample(20)), -np.log(8) - 13 * np.log(4), rtol=1e-6)
    assert shared.transitions.shape == (8, 8, 8, 8)
    assert grammar.transitions.shape == (3, 8, 8, 8, 8)
    np.testing.assert_allclose(grammar.transitions.sum((2, 3, 4)), 1)
    assert len(TreeGrammar.random_hierarchy(v=3, m=9, s=3, depth=1).rules) == 27   # every tuple is used
    assert TreeGrammar.random_hierarchy(v=200, m=2, depth=2).sample(3).dtype == np.int16


def test_random_hierarchy_that_needs_every_tuple(monkeypatch):
    """A draw that brings none of those that are missing is not drawn again."""
    drawn, uniforms = set(), philox.uniforms

    def once(seed, **counters):
        key = seed, counters["offset"], counters["step"]
        assert key not in drawn
        drawn.add(key)
        return uniforms(seed, **counters)

    monkeypatch.setattr(philox, "uniforms", once)
    for seed in range(20):
        assert len(TreeGrammar.random_hierarchy(v=2, m=2, depth=5, seed=seed).rules) == 20


TWO_LEVELS = np.array([(0, 0, 1), (1, 1, 1), (0, 1, 1), (1, 0, 0)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [1.0, 1.0, 0.75, 1.0]}, "weights: want a sum of 1 .* got 0.75 for parent 0 in level 1"),
        ({"rules": TWO_LEVELS + 1}, r"rules: want symbols 0..1, got \[1, 1, 2\] in row 0"),
        ({"rules": TWO_LEVELS[[0, 1, 2, 2]]}, r"rules: want each rule once, got \[0, 1, 1\] 2 times in level 1"),
        ({"level_offsets": [0, 1, 4]}, "rules: .*none with parent 1 in level 0"),
        ({"level_offsets": [0, 4]}, r"level_offsets: want \(3,\) integers"),
        ({"level_offsets": [0, 5, 4]}, r"level_offsets: want ascending .*got \[0, 5, 4\]"),
        ({"level_offsets": [0, 0, 4]}, "level_offsets: want ascending"),
        ({"root": [0.5, 0.6]}, "root: want .*sum 1.1"),
        ({"root": [1.5, -0.5]}, "root: want .*least -0.5"),
        ({"root": [1.0]}, r"root: want \(2,\)"),
        ({"depth": 13}, "depth: want 1..12"),
        ({"q": 257}, "q: want 1..256"),
        ({"rules": TWO_LEVELS[:, :2]}, "rules: want .*s = 2, 3 or 4"),
    ],
)
def test_errors(change, message):
    given = {"q": 2, "depth": 2, "rules": TWO_LEVELS, "weights": np.ones(4), "level_offsets": [0, 2, 4]} | change
    with pytest.raises(ValueError, match="^" + message):
        TreeGrammar.from_rules(**given)


@pytest.mark.parametrize(("change", "name"), [({"s": 5}, "s"), ({"m": 17}, "m"), ({"v": 0}, "v"), ({"depth": 13}, "depth")])
def test_errors_of_random_hierarchy(change, name):
    with pytest.raises(ValueError, match=f"^{name}: want"):
        TreeGrammar.random_hierarchy(**change)
