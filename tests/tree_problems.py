"""What the tests of trees share: grammars, evidence, the call of an op on an implementation, the comparison with an oracle."""
import contextlib
from functools import partial

import numpy as np

from biasgen import TreeGrammar
from biasgen.ops.tree_map import tree_map
from biasgen.ops.tree_posterior import tree_posterior
from biasgen.ops.tree_posterior_sample import tree_posterior_sample
from biasgen.oracle.tree_evidence import draw_leaves, hard_fields
from biasgen.oracle.tree_posterior import blocks
from biasgen.results import TreePosterior
from biasgen.testing import assert_posterior_close


def grammar_of(seed, q, s, depth, per_parent):
    """Ambiguous: children drawn without regard to other parents; rules in no order; the last two levels share; a root with a zero.
    per_parent: rules of a symbol, or a list, those of each level that has its own."""
    rng = np.random.default_rng(seed)
    counts = [per_parent] * max(1, depth - 1) if isinstance(per_parent, int) else per_parent
    rules, weights, offsets = [], [], [0]
    for count in counts:
        codes = np.concatenate([rng.choice(q**s, count, replace=False) for _ in range(q)])
        order = rng.permutation(len(codes))
        rows = np.column_stack([np.repeat(np.arange(q), count), codes[:, None] // q ** np.arange(s) % q])
        rules.append(rows[order])
        weights.append(rng.dirichlet(np.ones(count), q).ravel()[order])
        offsets.append(offsets[-1] + len(rows))
    offsets += [offsets[-1]] * (depth + 1 - len(offsets))
    root = rng.dirichlet(np.ones(q))
    root[0] = 0 if q > 1 else 1
    return TreeGrammar.from_rules(q, depth, np.concatenate(rules), np.concatenate(weights), level_offsets=offsets, root=root / root.sum())


def dense(seed, q, s, depth, tables=1):
    """Every child after every parent, but for a fifth of the tuples; `tables` of them, one a level."""
    rng = np.random.default_rng(seed)
    made = rng.gamma(1.0, size=(tables, q, q**s)) * (rng.random((tables, q, q**s)) > 0.2)
    made[:, :, 0] += 1e-3
    made = (made / made.sum(2, keepdims=True)).reshape(tables, q, *(q,) * s)
    return TreeGrammar.from_transitions(depth, made[0] if tables == 1 else list(made), root=rng.dirichlet(np.ones(q)))


def derivations(grammar):
    """How many there are."""
    below = np.ones(grammar.q)
    for rows, _ in blocks(*arguments(grammar)[:3], grammar.depth)[grammar.k :][::-1]:
        below = np.bincount(rows[:, 0], below[rows[:, 1:]].prod(1), grammar.q)
    if grammar.k:
        below = ((grammar.channels > 0) * below).sum(2).prod(0)
    return (below * (grammar.root > 0)).sum()


def arguments(grammar):
    """What the oracles take of a whole tree, in order."""
    return grammar.rules, grammar.weights, grammar.level_offsets, grammar.root


def model(grammar):
    """What ops and oracles take, by name."""
    return dict(zip(("rules", "weights", "level_offsets", "root"), arguments(grammar), strict=True)) | {"channels": grammar.channels}


SMALL = {   # few derivations
    "paper": TreeGrammar.random(6, 2, 4),
    "paper, 3 levels": TreeGrammar.random(3, 3, 2),
    "hierarchy, 8 symbols": TreeGrammar.random_hierarchy(8, 2, 2, 3),
    "hierarchy, 3 children": TreeGrammar.random_hierarchy(4, 2, 3, 2),
    "hierarchy, 4 children": TreeGrammar.random_hierarchy(3, 2, 4, 2),
    "ambiguous": grammar_of(1, 5, 2, 2, 3),
    "ambiguous, 3 levels": grammar_of(2, 3, 2, 3, 2),
    "ambiguous, 8 symbols": grammar_of(3, 8, 2, 2, 3),
    "ambiguous, 3 children": grammar_of(4, 3, 3, 2, 3),
    "ambiguous, 3 children, 3 levels": grammar_of(5, 2, 3, 3, [3, 2, 1]),
    "ambiguous, 4 children": grammar_of(6, 2, 4, 2, [3, 2]),
    "ambiguous, 4 children, 3 levels": grammar_of(7, 3, 4, 3, [2, 2, 1]),
    "one level, 3 children": grammar_of(8, 8, 3, 1, 5),
    "one level, 4 children": grammar_of(9, 5, 4, 1, 5),
    "dense": dense(1, 3, 2, 2),
    "dense, tables of each level": dense(2, 2, 2, 3, tables=3),
    "dense, 3 children": dense(3, 3, 3, 1),
    "one symbol": grammar_of(10, 1, 3, 2, 1),
}


CASES = [(name, k) for name, grammar in SMALL.items() for k in range(grammar.depth + 1) if derivations(grammar.factorized(k)) < 20_000]
"""(name of a small grammar, k of BP_k) that can be listed."""


def small(case):
    name, k = case
    return SMALL[name].factorized(k)


def evidence_of(grammar, seed=0, scales=(0.3, 1e3)):
    """(log_field (B, L, Q), tokens (B, L), -1 where masked), B = 20 a scale."""
    rng = np.random.default_rng(seed)
    field = np.concatenate(list(hard_fields(seed, grammar.depth, *arguments(grammar), scales=scales).values()))
    tokens = draw_leaves(rng, len(field), grammar.depth, *arguments(grammar))
    tokens[3::4] = rng.integers(0, grammar.q, tokens[3::4].shape)
    tokens[rng.random(tokens.shape) < np.linspace(0, 1, len(tokens))[:, None]] = -1
    return field, tokens


def swept(depth):
    """{name: grammar} of the sweep over hard fields."""
    return {
        "paper's": TreeGrammar.random(depth=depth),
        "hierarchy": TreeGrammar.random_hierarchy(16, 4, 2, depth),
        "ambiguous": grammar_of(depth, 5, 2, depth, 6),
    }


def call(op, grammar, implementation, log_field=None, **options):
    """The op with this grammar on this backend."""
    return op(log_field, grammar.tree, **options, backend=implementation)


posterior, most_probable, draw = (partial(call, op) for op in (tree_posterior, tree_map, tree_posterior_sample))


@contextlib.contextmanager
def named(*what):
    """Says in a failure which of several it was."""
    try:
        yield
    except AssertionError as error:
        error.add_note(", ".join(map(str, what)))
        raise


def tables(found):
    """[(..., nodes, Q) of each level that has any]."""
    return [table for table in found.marginals if table is not None] if isinstance(found.marginals, list) else [found.marginals]


def assert_output(found, expected):
    """found: TreePosterior of any `levels`; expected: what the oracle says for the same."""
    marginals, log_z, impossible, *ruled = expected
    if found.marginals is None:   # then `expected` has the leaves
        leaves = np.where(marginals < 2.0**-126, 0, marginals).astype(np.float32)
        shown, right = [], []
    else:
        *shown, leaves = tables(found)
        *right, marginals = np.split(marginals, np.cumsum([table.shape[1] for table in shown]), 1)
    assert_posterior_close(TreePosterior(leaves, found.log_z, found.impossible), (marginals, log_z, impossible))
    assert (found.rule_marginals is not None) == bool(ruled)
    if ruled:
        own = [table for table in found.rule_marginals if table is not None]
        shown, right = shown + own, right + ruled[0]
    for table, wanted in zip(shown, right, strict=True):   # log_z is promised for the leaves' number, which they do not have
        assert_posterior_close(TreePosterior(table, found.log_z, found.impossible), (wanted, found.log_z, impossible))
