"""What ops on trees and grammars refuse: one error that begins with the argument's name. What is empty is not refused."""
import math

import numpy as np
import pytest
import torch

from biasgen import TreeGrammar
from biasgen.ops.tree import Tree
from biasgen.ops.tree_map import tree_map
from biasgen.ops.tree_posterior import tree_posterior
from biasgen.ops.tree_posterior_sample import tree_posterior_sample
from tests.tree_problems import draw, most_probable, posterior, tables

GRAMMAR = TreeGrammar.random(depth=2)
FIELD, TOKENS = np.zeros((2, 4, 6)), np.zeros((2, 4), int)
CHANNELS = GRAMMAR.factorized(1).channels
COPIES, SURE = (
    Tree.checked(6, 2, [(a, a, a) for a in range(6)], np.ones(6), None, root)
    for root in (None, np.eye(6)[0])
)   # no weight vanishes; SURE: and no probability of the root


def with_value(table, at, value):
    changed = table.copy()
    changed[at] = value
    return changed


BAD = [
    ({"log_field": None}, "log_field: want a log-field, tokens or both, got None and None"),
    ({"log_field": FIELD.astype(np.float16)}, "log_field: want float32 or float64, got float16"),
    (
        {"log_field": np.zeros((2, 4, 5))},
        r"log_field: want \(B, 4, 6\) or \(4, 6\), got \(2, 4, 5\)",
    ),
    ({"log_field": np.zeros((2, 4, 7))}, r"log_field: .* got \(2, 4, 7\)"),
    ({"log_field": np.zeros((2, 5, 6))}, r"log_field: .* got \(2, 5, 6\)"),
    (
        {"log_field": None, "tokens": TOKENS.astype(float)},
        "tokens: want integers, got torch.float64",
    ),
    ({"log_field": None, "tokens": TOKENS.astype(bool)}, "tokens: want integers, got torch.bool"),
    (
        {"log_field": None, "tokens": TOKENS.astype(np.uint64)},
        "tokens: want integers, got torch.uint64",
    ),
    (
        {"log_field": None, "tokens": TOKENS + 6},
        r"tokens: want symbols 0\.\.5, or -1 for a leaf that is masked, got 6\.\.6",
    ),
    ({"log_field": None, "tokens": TOKENS - 2}, "tokens: want symbols .* got -2"),
    (
        {"log_field": None, "tokens": TOKENS[:, :3]},
        r"tokens: want \(B, 4\) or \(4,\), got \(2, 3\)",
    ),
    ({"log_field": None, "tokens": TOKENS[None]}, r"tokens: want .* got \(1, 2, 4\)"),
    ({"log_field": None, "tokens": np.array(0)}, r"tokens: want .* got \(\)"),
    ({"tokens": TOKENS[:1]}, r"tokens: want one a leaf of log_field, \(2, 4\), got \(1, 4\)"),
    ({"tokens": TOKENS[0]}, "tokens: want one a leaf of log_field"),
    ({"tokens": np.zeros((2, 8), int)}, r"tokens: want .* got \(2, 8\)"),
    ({"tokens": TOKENS > 0}, "tokens: want integers, got torch.bool"),  # no mask beside tokens
    ({"backend": "numba"}, "backend: none can run .* here; numba: no such backend"),
]
BAD_GRAMMARS = [
    ({"rules": np.array([(0, 0, 1, 2, 3, 4)])}, r"rules: want \(R, 1 \+ s\) integers .* got int64 of shape \(1, 6\)"),
    ({"weights": GRAMMAR.weights * 1.01}, "weights: want a sum of 1 over the rules of each parent, got 1.01 for parent"),
    ({"weights": with_value(GRAMMAR.weights, 3, np.nan)}, "weights: want finite numbers >= 0, got nan in row 3"),
    ({"level_offsets": np.array([0, 24])}, r"level_offsets: want \(3,\) integers"),   # of another depth
    ({"level_offsets": np.array([0, 12, 24])}, "rules: .* none with parent 3 in level 0"),
    ({"root": np.full(5, 0.2)}, r"root: want \(6,\)"),
    ({"root": np.full(6, 0.2)}, "root: want .* sum 1.2"),
    ({"root": np.array([1.5, -0.5, 0, 0, 0, 0])}, "root: want .* least -0.5"),
    ({"root": np.full(6, np.nan)}, "root: want .* sum nan"),
    ({"channels": CHANNELS[:1]}, r"channels: want \(2\^k, 6, 6\) floats, k <= 2, got float64 of shape \(1, 6, 6\)"),
    ({"channels": np.repeat(CHANNELS, 4, 0)}, r"channels: .* got float64 of shape \(8, 6, 6\)"),
    ({"channels": CHANNELS[:, :5, :5]}, r"channels: .* got float64 of shape \(2, 5, 5\)"),
    ({"channels": np.array([np.eye(6, dtype=int)] * 2)}, "channels: .* got int64"),
    ({"channels": with_value(CHANNELS, (1, 2, 3), 0.9)}, "channels: want probabilities that sum to 1 .* 0.9.* for node 1, root 2"),
    ({"channels": with_value(CHANNELS, (1, 4), [1.5, -0.5, 0, 0, 0, 0])}, "channels: want probabilities .* for node 1, root 4"),
    ({"channels": with_value(CHANNELS, (0, 5, 0), np.nan)}, "channels: want probabilities .* for node 0, root 5"),
]
COLD = [
    *(
        ({"temperature": t}, f"temperature: want a finite number above 0, got {t}")
        for t in (0, -1, 0.0, math.inf, math.nan)
    ),
    ({"temperature": 1e-3}, "temperature: 0.001 is so low that weights of 0.0338 vanish"),
    (
        {"temperature": 1e-3, "tree": COPIES},
        "temperature: 0.001 is so low that root of 0.167 vanish",
    ),
    (
        {"temperature": 5e-4, "tree": COPIES.with_channels(np.full((2, 6, 6), 1 / 6))},
        "temperature: 0.0005 is so low that root of 0.167 vanish",
    ),
    (
        {"temperature": 5e-4, "tree": SURE.with_channels(np.full((2, 6, 6), 1 / 6))},
        "temperature: 0.0005 is so low that channels of 0.167 vanish",
    ),
    (
        {"temperature": 1e-9, "tree": SURE, "log_field": FIELD - 1e300 * np.eye(6)[:4]},
        "temperature: 1e-09 is so low that log_field leaves",
    ),
]
CALLS = {
    tree_posterior: {},
    tree_posterior_sample: {"n": 1},
    tree_map: {},
}


@pytest.mark.parametrize(("change", "message"), BAD + COLD)
@pytest.mark.parametrize("op", CALLS)
def test_ops(op, change, message):
    if op is tree_map and "temperature" in change:
        return   # it has none
    given = {"log_field": FIELD, "tree": GRAMMAR.tree} | CALLS[op] | change
    with pytest.raises(ValueError, match="^" + message):
        op(**given)


@pytest.mark.parametrize(("change", "message"), BAD_GRAMMARS)
def test_arrays(change, message):
    given = {"q": 6, "depth": 2, "rules": GRAMMAR.rules, "weights": GRAMMAR.weights} | change
    with pytest.raises(ValueError, match="^" + message):
        Tree.checked(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"levels": "roots"}, "levels: want None, 'leaves', 'all', 'rules', got 'roots'"), ({"levels": 1}, "levels: want .* got 1")],
)
def test_levels(change, message):
    with pytest.raises(ValueError, match="^" + message):
        tree_posterior(FIELD, GRAMMAR.tree, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n": -1}, "n: want a number of strings >= 0, got -1"), ({"seed": -1}, "seed: want"), ({"seed": 2**64}, "seed: want")],
)
def test_numbers(change, message):
    with pytest.raises(ValueError, match="^" + message):
        tree_posterior_sample(FIELD, GRAMMAR.tree, **{"n": 1} | change)


@pytest.mark.parametrize("op", [posterior, most_probable, draw])
@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        ((1, 2, 3), np.nan, "log_field: .* got nan in sample 1, leaf 2, symbol 3"),
        ((1, 2, 3), np.inf, "log_field: .* got inf in sample 1, leaf 2, symbol 3"),
        ((1, 2, 3), -1e9, r"log_field: want finite fields that spread over less than 7.443e\+08 nats .* got 1e\+09 in sample 1"),
        ((0, 2, 3), 1e300, r"log_field: want finite fields .* got 1e\+300 in sample 0"),
    ],
)
def test_fields(implementation, op, at, value, message):
    """Of the samples that are wrong the first is named."""
    field = with_value(FIELD, at, value)
    more = {"n": 1} if op is draw else {}
    for typed in (field, np.concatenate([field, field])):
        with pytest.raises(ValueError, match="^" + message):
            op(GRAMMAR, implementation, typed, **more)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_field_that_a_token_hides(implementation, value):
    tokens = np.array([[-1, -1, 3, -1]] * 2)
    shown, hidden = (posterior(GRAMMAR, implementation, with_value(FIELD, (1, 2, 3), v), tokens=tokens) for v in (0, value))
    np.testing.assert_array_equal(hidden.marginals, shown.marginals)


def test_a_spread_that_the_temperature_makes(implementation):
    field = with_value(FIELD, (1, 2, 3), -1e8)
    assert not posterior(GRAMMAR, implementation, field).impossible.any()
    with pytest.raises(ValueError, match=r"^log_field: want finite fields .* got 1e\+09 in sample 1"):
        posterior(GRAMMAR, implementation, field, temperature=0.1)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: GRAMMAR.posterior(np.zeros((2, 4, 5))), "log_field"),
        (lambda: GRAMMAR.posterior(np.zeros((2, 8, 6))), "log_field"),
        (lambda: GRAMMAR.posterior(np.zeros(6)), "log_field"),
        (lambda: GRAMMAR.posterior(), "log_field"),
        (lambda: GRAMMAR.posterior(tokens=np.zeros((2, 8), int)), "tokens"),
        (lambda: GRAMMAR.posterior_sample(np.zeros((2, 4, 5)), 1), "log_field"),
        (lambda: GRAMMAR.map_estimate(np.zeros((2, 4, 5))), "log_field"),
        (lambda: GRAMMAR.map_estimate(tokens=np.zeros((2, 3), int)), "tokens"),
        (lambda: GRAMMAR.log_prob(np.full((1, 4), -1)), "tokens"),
        (lambda: GRAMMAR.is_grammatical(np.zeros(4, int)), "tokens"),
        (lambda: GRAMMAR.factorized(-1), "k"),
        (lambda: GRAMMAR.factorized(3), "k"),
        (lambda: GRAMMAR.factorized(1.5), "k"),
        (lambda: TreeGrammar.random(64, 10).factorized(10).factorized(11), "k"),
        (lambda: TreeGrammar.random_hierarchy(256, 1, 2, 12).factorized(12), "k"),   # 2 GiB of channels
        (lambda: GRAMMAR.sample(1, offset=-1), "offset"),
        (lambda: TreeGrammar.from_transitions(0, np.ones((1, 1, 1))), "depth"),
        (lambda: TreeGrammar.from_transitions(2, np.ones((3, 3, 2))), "transitions"),
        (lambda: TreeGrammar.from_transitions(2, [np.ones((1, 1, 1))] * 3), "transitions"),
        (lambda: TreeGrammar.from_transitions(2, []), "transitions"),
        (lambda: TreeGrammar.from_transitions(2, np.ones((3, 3, 3))), "weights"),
        (lambda: TreeGrammar.from_transitions(2, -np.ones((2, 2, 2)) / 4), "weights"),
        (lambda: TreeGrammar.from_transitions(2, np.full((2, 2, 2), np.nan)), "weights"),
    ],
)
def test_grammars(call, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        call()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: tree_posterior([[0.0]], GRAMMAR.tree), "log_field"),
        (lambda: tree_map(None, GRAMMAR.tree, tokens=[0, 0, 0, 0]), "tokens"),
        (lambda: GRAMMAR.posterior(tokens=[0, 0, 0, 0], compat="paper"), "tokens"),
        (lambda: GRAMMAR.posterior([[0.0]]), "log_field"),
        (lambda: GRAMMAR.posterior(tokens=[0, 0, 0, 0]), "tokens"),
        (lambda: GRAMMAR.log_prob([[0, 0, 0, 0]]), "tokens"),
    ],
)
def test_other_kinds_of_object(call, name):
    with pytest.raises(TypeError, match=f"^{name}: want a NumPy array or a torch tensor, got list"):
        call()


@pytest.mark.parametrize("k", [0, 1, 2])
def test_nothing(implementation, k):
    """No rows, no strings."""
    grammar = GRAMMAR.factorized(k)
    for given in ({"log_field": FIELD[:0]}, {"tokens": TOKENS[:0]}):
        for levels, nodes in (("leaves", [4]), ("all", [2**d for d in range(3) if d == 0 or d >= k])):
            found = posterior(grammar, implementation, **given, levels=levels)
            assert [table.shape for table in tables(found)] == [(0, n, 6) for n in nodes]
            assert found.log_z.shape == found.impossible.shape == (0,)
        ruled = posterior(grammar, implementation, **given, levels="rules").rule_marginals
        assert [None if table is None else table.shape for table in ruled] == [None] * k + [(0, 2**d, 24) for d in range(k, 2)]
        assert posterior(grammar, implementation, **given, levels=None).marginals is None
        assert draw(grammar, implementation, **given, n=3).shape == (0, 3, 4)
        assert draw(grammar, implementation, **given, n=0).shape == (0, 0, 4)
        strings, log_p = most_probable(grammar, implementation, **given)
        assert (strings.shape, log_p.shape) == ((0, 4), (0,))
    assert draw(grammar, implementation, FIELD, n=0).shape == (2, 0, 4)
    assert draw(grammar, implementation, FIELD[0], n=0).shape == (0, 4)


@pytest.mark.parametrize("k", [0, 1])
def test_one_sample_without_its_axis(implementation, k):
    grammar = GRAMMAR.factorized(k)
    for given in ({"log_field": torch.zeros(4, 6)}, {"tokens": torch.tensor([5, 1, 2, -1])}):
        batch = {name: values[None] for name, values in given.items()}
        one, many = (posterior(grammar, implementation, **part, levels="rules") for part in (given, batch))
        for table, whole in zip(tables(one) + one.rule_marginals[k:], tables(many) + many.rule_marginals[k:], strict=True):
            assert torch.equal(table, whole[0])
        assert one.log_z.shape == one.impossible.shape == ()
        assert torch.equal(draw(grammar, implementation, **given, n=2), draw(grammar, implementation, **batch, n=2)[0])
        best, first = (most_probable(grammar, implementation, **part) for part in (batch, given))
        for value, whole in zip(first, best, strict=True):
            assert torch.equal(value, whole[0])
