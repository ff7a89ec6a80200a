"""The grammar as ops take it: copied, checked once, its sizes; the result as backends give it."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from biasgen import Level, Schedule, TreeDenoiser, TreeGrammar, backends
from biasgen.ops import tree as module
from biasgen.ops.tree import Tree, of_tensors
from biasgen.results import TreePosterior
from biasgen.trees.trajectories import sample_tokens

GRAMMAR = TreeGrammar.random(depth=3)
THREE = TreeGrammar.random_hierarchy(v=4, m=2, s=3, depth=3, seed=1)
ARRAYS = "rules", "weights", "level_offsets", "root", "channels"


def test_a_grammar_keeps_its_own_arrays():
    """Neither the arrays that it was made of nor those that it shows change an answer."""
    given = {
        "rules": GRAMMAR.rules.copy(),
        "weights": GRAMMAR.weights.copy(),
        "level_offsets": np.array([0, 24, 24, 24]),
    }
    grammar = TreeGrammar(6, 3, **given, root=np.full(6, 1 / 6))
    field = np.random.default_rng(0).normal(size=(2, 8, 6))
    before = grammar.posterior(field).marginals, grammar.sample(9), grammar.transitions
    for array in given.values():
        array[...] = -1
    for name in ARRAYS:
        getattr(grammar, name)[...] = 0
        with pytest.raises(ValueError, match="read-only"):
            getattr(grammar.tree.arrays, name)[...] = 0
    for found, expected in zip(
        (grammar.posterior(field).marginals, grammar.sample(9), grammar.transitions),
        before,
        strict=True,
    ):
        assert np.array_equal(found, expected)
    with pytest.raises(ValueError, match=r"^level_offsets: want ascending"):
        replace(grammar)  # anew, of what the arrays hold now


def test_the_constructor_checks():
    with pytest.raises(ValueError, match=r"^weights: want a sum of 1"):
        TreeGrammar(6, 3, GRAMMAR.rules, GRAMMAR.weights / 2)
    with pytest.raises(ValueError, match=r"^rules: want symbols 0\.\.4"):
        replace(GRAMMAR, q=5)
    with pytest.raises(ValueError, match=r"^k: want 0\.\.3, got 4"):
        replace(GRAMMAR, k=4)


@pytest.mark.parametrize("k", [0, 2])
def test_no_call_checks_again(monkeypatch, k):
    grammar = GRAMMAR.factorized(k)
    field = torch.zeros(2, 8, 6)

    def refuse(*_):
        raise AssertionError("the grammar was checked again")

    monkeypatch.setattr(module, "checked_parts", refuse)
    for levels in TreePosterior.LEVELS:
        grammar.posterior(field, levels, temperature=0.9)
        grammar.posterior(field.clone().requires_grad_(), levels).log_z.sum().backward()
    grammar.posterior_sample(field, 2)
    grammar.map_estimate(field)
    grammar.is_grammatical(grammar.sample(3))
    grammar.factorized(1).log_prob(grammar.sample(3))
    TreeDenoiser(grammar, factorized=3).log_density(field, Level(0.8, 0.6))
    sample_tokens(grammar, Schedule.linear(), 3, steps=2)
    for same in (copy.copy(grammar), copy.deepcopy(grammar), pickle.loads(pickle.dumps(grammar))):
        assert all(np.array_equal(getattr(same, name), getattr(grammar, name)) for name in ARRAYS)
        assert same.posterior(field).log_z.shape == (2,)
    with pytest.raises(AssertionError, match="checked again"):
        replace(grammar)  # anew, from its arrays


@pytest.mark.parametrize("k", [0, 1, 3])
def test_tensors_of_a_grammar_are_found_again(k):
    """What the registered op takes; anything else is checked."""
    grammar = THREE.factorized(k)
    tree = grammar.tree
    parts = tree.rules, tree.weights, list(tree.level_offsets), tree.root, tree.channels
    assert of_tensors(*parts) is tree
    copies = copy.deepcopy(grammar).tree, pickle.loads(pickle.dumps(grammar)).tree
    for other in (*copies, of_tensors(tree.rules, tree.weights.clone(), *parts[2:])):
        assert other is not tree
        assert (other.level_offsets, other.nodes) == (tree.level_offsets, tree.nodes)
        assert all(np.array_equal(*pair) for pair in zip(other.arrays, tree.arrays, strict=True))
        offsets = list(other.level_offsets)
        assert of_tensors(other.rules, other.weights, offsets, other.root, other.channels) is other
    with pytest.raises(ValueError, match=r"^weights: want finite numbers"):
        of_tensors(tree.rules, -tree.weights, *parts[2:])
    with pytest.raises(ValueError, match=r"^rules: want"):  # the same address, another shape
        of_tensors(tree.rules[:, :2], *parts[1:])
    with pytest.raises(ValueError, match=r"^level_offsets: want"):
        of_tensors(*parts[:2], [0, 8, 8, 23], *parts[3:])


@pytest.mark.parametrize("levels", TreePosterior.LEVELS)
def test_the_gradient_of_no_rows(levels):
    field = torch.zeros(0, 8, 6, requires_grad=True)
    GRAMMAR.posterior(field, levels).log_z.sum().backward()
    assert field.grad.shape == (0, 8, 6)


@pytest.mark.parametrize("grammar", [GRAMMAR, THREE])
@pytest.mark.parametrize("k", range(4))
def test_sizes(grammar, k):
    tree, s = grammar.factorized(k).tree, grammar.arity
    assert (tree.arity, tree.depth, tree.Q, tree.L) == (s, 3, grammar.q, s**3)
    assert tree.factorized == grammar.factorized(k).k == k
    assert tree.nodes == tuple(s**d if d in (0, *range(k, 4)) else 0 for d in range(4))
    own = 24 if grammar is GRAMMAR else 8
    assert tree.rule_counts == tuple(own if d >= k else 0 for d in range(3))
    assert tree.shared is (grammar is GRAMMAR)
    assert tree.channels.shape == (s**k if k else 0, grammar.q, grammar.q)
    expanded = sum(s**d for d in range(k, 3))
    assert tree.draws == 1 + len(tree.channels) + expanded


def test_a_block_of_the_level_above():
    tree = Tree.checked(1, 4, [(0, 0, 0)] * 2, [1.0, 1.0], [0, 1, 1, 2, 2])
    assert tree.blocks == ((0, 1), (0, 1), (1, 2), (1, 2))
    assert tree.rule_counts == (1, 1, 1, 1)


@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_backends_give_what_is_asked_for(backend, k):
    if backends.load(backend)[0] is None:
        pytest.skip(f"{backend}: {backends.load(backend)[1]}")
    tree = THREE.factorized(k).tree
    evidence = torch.zeros(5, tree.L, tree.Q)
    for levels in TreePosterior.LEVELS:
        found = vars(backends.load(backend)[0].tree_posterior(evidence, tree, levels))
        wanted = TreePosterior.flat(tree, levels)
        for name, table in found.items():
            if name not in wanted:
                assert table is None
                continue
            dtype, shape = wanted[name]
            assert (str(table.dtype), table.shape) == (f"torch.{dtype}", (5, *shape))
