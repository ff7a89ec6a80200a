"""Strings from the posterior of a tree: the oracle's, the law, fixed by their coordinates, errors."""
import numpy as np
import pytest
import torch
from scipy import stats

from biasgen.ops import philox
from biasgen.ops.tree_posterior_sample import tree_posterior_sample
from biasgen.oracle import tree_posterior as oracle
from biasgen.trees.grammar import TreeGrammar


def field_of(grammar, B, seed=0):
    rng = np.random.default_rng(seed)
    field = 2 * rng.standard_normal((B, grammar.length, grammar.q))
    field[rng.random(field.shape) < 0.05] = -np.inf
    return field


@pytest.mark.parametrize(("q", "depth", "q_eff"), [(6, 4, 4), (9, 3, 2), (2, 1, 2)])
def test_oracle(q, depth, q_eff, monkeypatch):
    grammar = TreeGrammar.random(q, depth, q_eff)
    field = field_of(grammar, 6)
    u = np.stack([philox.uniforms(3, n=6, count=grammar.length, step=k, purpose=philox.POSTERIOR) for k in range(9)], 1)
    possible = ~grammar.posterior(field).impossible
    expected, margins = oracle.draw_strings(field[possible], grammar.rules, grammar.weights, u[possible])
    found = grammar.posterior_sample(field, 9, seed=3)
    assert margins.min() > 1e-9
    np.testing.assert_array_equal(found[possible], expected)
    assert (found[~possible] == -1).all()
    monkeypatch.setattr("biasgen.backends.torch_backend.MAX_MEMORY", 1)   # blocks of one row
    np.testing.assert_array_equal(grammar.posterior_sample(field, 9, seed=3), found)


def test_law():
    grammar, n = TreeGrammar.random(q=3, depth=2, q_eff=2), 40_000
    field = np.random.default_rng(1).standard_normal((4, 3))
    leaves, logs = map(np.concatenate, zip(*(oracle.derivations(r, 2, grammar.rules, grammar.weights) for r in range(3)), strict=True))
    p = np.exp(logs + field[np.arange(4), leaves].sum(1))
    code = 3 ** np.arange(4)
    drawn = np.bincount(grammar.posterior_sample(field, n, seed=2).astype(int) @ code, minlength=81)
    law = np.bincount(leaves @ code, p / p.sum(), 81)
    assert not drawn[law == 0].any()
    assert stats.chisquare(drawn[law > 0], n * law[law > 0]).pvalue > 1e-3


def test_strings_are_fixed_by_row_seed_and_number():
    grammar = TreeGrammar.random()
    field = field_of(grammar, 3)
    whole = grammar.posterior_sample(field, 8, seed=5)
    assert whole.dtype == np.int8
    np.testing.assert_array_equal(grammar.posterior_sample(field, 3, seed=5), whole[:, :3])
    np.testing.assert_array_equal(grammar.posterior_sample(field[0], 8, seed=5), whole[0])
    assert not np.array_equal(grammar.posterior_sample(field, 8, seed=6), whole)
    assert torch.equal(grammar.posterior_sample(torch.from_numpy(field), 8, seed=5), torch.from_numpy(whole))
    assert grammar.posterior_sample(field, 0).shape == (3, 0, 16)


def test_certain_and_impossible_evidence():
    grammar = TreeGrammar.random()
    strings = grammar.sample(4, seed=1)
    field = np.where(np.eye(6, dtype=bool)[strings], 0.0, -np.inf)
    field[2] = np.where(np.arange(6) == 0, 0.0, -np.inf)   # (0, 0) has no parent
    strings[2] = -1
    np.testing.assert_array_equal(grammar.posterior_sample(field, 2), np.repeat(strings[:, None], 2, 1))


def test_refusals():
    grammar, field = TreeGrammar.random(), np.zeros((1, 16, 6))
    with pytest.raises(ValueError, match=r"^n: want a number of strings >= 0, got -1"):
        tree_posterior_sample(field, grammar.tree, -1)
    with pytest.raises(ValueError, match=r"^seed: want an integer in \[0, 2\*\*64\), got -1"):
        grammar.posterior_sample(field, 1, seed=-1)
    with pytest.raises(ValueError, match=r"^log_field: want \(B, 16, 6\) or"):
        grammar.posterior_sample(np.zeros((8, 6)), 1)
    field[0, 2, 3] = np.nan
    with pytest.raises(ValueError, match="in sample 0, leaf 2, symbol 3"):
        grammar.posterior_sample(field, 1)
