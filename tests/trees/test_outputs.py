"""Every output of a tree's posterior, BP_k and the most probable derivation, for every form of evidence: against the list of all
derivations, closed forms and golden values."""
from functools import cache

import numpy as np
import pytest

from biasgen import TreeGrammar
from biasgen.oracle import tree_posterior as oracle
from tests.tree_problems import (
    CASES,
    arguments,
    assert_output,
    evidence_of,
    grammar_of,
    model,
    most_probable,
    named,
    posterior,
    small,
)

FORMS = ("field", "float32", "tokens", "mixed", "cold", "hot", "hot tokens")


@cache
def evidence(case, form):
    """{log_field, tokens, temperature} as ops and oracles take them."""
    field, tokens = evidence_of(small(case), CASES.index(case))
    return {
        "log_field": None if "tokens" in form else field.astype(np.float32) if form == "float32" else field,
        "tokens": tokens if form == "mixed" or "tokens" in form else None,
        "temperature": {"cold": 0.3, "hot": 2.5, "hot tokens": 1.7}.get(form, 1.0),
    }


@cache
def listed(case, form, levels):
    return oracle.enumerate_posterior(**evidence(case, form), **model(small(case)), levels=levels)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_enumeration(implementation, case):
    wanted = [("field", "leaves"), ("field", "all"), ("float32", "leaves"), ("cold", "all"), ("field", None), ("tokens", "leaves")]
    for form, levels in wanted + [(form, "rules") for form in FORMS]:
        with named(form, levels):
            found = posterior(small(case), implementation, **evidence(case, form), levels=levels)
            assert_output(found, listed(case, form, levels or "leaves"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_oracle_by_messages(case):
    for form in FORMS:
        found = oracle.tree_posterior(**evidence(case, form), **model(small(case)), levels="rules")
        marginals, log_z, impossible, ruled = listed(case, form, "rules")
        np.testing.assert_array_equal(found[2], impossible)
        np.testing.assert_allclose(found[1], log_z, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found[0], marginals, rtol=1e-8, atol=1e-300)
        for table, right in zip(found[3], ruled, strict=True):
            np.testing.assert_allclose(table, right, rtol=1e-8, atol=1e-300)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_most_probable_derivation(implementation, case):
    for form in ("field", "float32", "tokens", "mixed"):
        given = {name: evidence(case, form)[name] for name in ("log_field", "tokens")}
        best, leaves = oracle.enumerate_map(**given, **model(small(case)))
        strings, log_p = most_probable(small(case), implementation, **given)
        possible = best > -np.inf
        with named(form):
            assert (strings.dtype, log_p.dtype) == (np.int8, np.float64)
            np.testing.assert_array_equal(log_p == -np.inf, ~possible)
            np.testing.assert_allclose(log_p[possible], best[possible], rtol=1e-7, atol=1e-5)
            assert (strings[~possible] == -1).all()
            assert all((leaves[b] == strings[b]).all(1).any() for b in np.flatnonzero(possible))


def test_equal_derivations_are_taken_in_order(implementation):
    """All that the evidence allows are equally likely: the lowest root, then the first rule of each node."""
    grammar = TreeGrammar.random_hierarchy(4, 4, 2, 3, seed=1)
    barred = np.zeros((2, 8, 4))
    barred[1] = np.where(np.eye(4)[grammar.sample(1)[0]] > 0, 0, -np.inf)
    barred[1, 2:] = 0
    strings, _ = most_probable(grammar, implementation, barred)
    found = oracle.every_derivation(3, *arguments(grammar))
    order = np.lexsort(np.hstack([found.symbols[0], *found.rules]).T[::-1])
    for row, field in zip(strings, barred, strict=True):
        allowed = [i for i in order if field[np.arange(8), found.symbols[-1][i]].sum() == 0]
        np.testing.assert_array_equal(row, found.symbols[-1][allowed[0]])


GOLDEN = {   # leaf 0, leaf 15, sum of the squares of all marginals: appendix A of the specification
    0: (".024565453924 .380527280980 .054648962120 .067372361242 .455357737466 .017528204268",
        ".108828325109 .466004940234 .349115216853 .016623398507 .051386916677 .008041202619", 7.283820599382),
    1: (".017340993819 .341249221246 .042794321148 .043015285995 .544552548167 .011047629625",
        ".124026507222 .435137723026 .367443595500 .014973756365 .050883783266 .007534634623", 7.662079955563),
    2: (".018089826434 .285229188195 .027792184357 .032755119283 .620455638056 .015678043675",
        ".069658831764 .682048681146 .202433428998 .010812105877 .028507535888 .006539416326", 8.168203646360),
    3: (".029052055912 .289302269108 .031586726034 .086380589201 .529358516643 .034319843102",
        ".050315004050 .722763283192 .164513334224 .020258122022 .031734904349 .010415352163", 7.720348060475),
    4: (".033326946397 .287101138348 .109936541275 .190263321855 .342468388696 .036903663429",
        ".080099058454 .536312349966 .313714762706 .030888599033 .032271294365 .006713935476", 6.109789367042),
}


@pytest.mark.parametrize("k", range(5))
def test_golden_rows_of_the_factorized_models(implementation, k):
    field = 2 * np.sin(1.3 * np.arange(16)[:, None] + 0.7 * np.arange(6))
    marginals = posterior(TreeGrammar.random().factorized(k), implementation, field).marginals.astype(float)
    first, last, squares = GOLDEN[k]
    np.testing.assert_allclose(marginals[0], list(map(float, first.split())), rtol=1e-5)
    np.testing.assert_allclose(marginals[15], list(map(float, last.split())), rtol=1e-5)
    assert (marginals**2).sum() == pytest.approx(squares, rel=1e-5)


@pytest.mark.parametrize("k", range(5))
def test_evidence_of_the_factorized_models(implementation, k):
    """F_k of the specification, 2.3, from dense tables in the linear domain; half of the strings have masked leaves."""
    grammar = TreeGrammar.random()
    table, q = grammar.transitions, grammar.q
    step = table.sum(2), table.sum(1)   # of the left child, of the right one
    rng = np.random.default_rng(k)
    tokens = grammar.sample(24, seed=k).astype(int)
    tokens[12:][rng.random((12, 16)) < 0.5] = -1
    likelihood = np.where(tokens[..., None] == -1, 1.0, np.eye(q)[tokens])
    while likelihood.shape[1] > 2**k:
        likelihood = np.einsum("pab,nia,nib->nip", table, likelihood[:, 0::2], likelihood[:, 1::2])
    heard = np.ones((24, q))
    for j in range(2**k):
        channel = np.eye(q)
        for digit in f"{j:0{k}b}" if k else "":
            channel = channel @ step[int(digit)]
        np.testing.assert_allclose(channel, grammar.factorized(k).channels[j] if k else np.eye(q), rtol=1e-12, atol=1e-15)
        heard *= likelihood[:, j] @ channel.T
    evidence = heard.mean(1)
    found = posterior(grammar.factorized(k), implementation, tokens=tokens, levels=None)
    np.testing.assert_array_equal(found.impossible, evidence == 0)
    np.testing.assert_allclose(np.exp(found.log_z), evidence, rtol=2e-5)
    assert posterior(grammar.factorized(k), implementation, tokens=np.full(16, -1), levels=None).log_z == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("q", "s", "depth"), [(6, 2, 5), (8, 3, 3), (5, 4, 2)])
def test_independent_leaves(implementation, q, s, depth):
    """k = depth, as a mixture of products: an elimination of each leaf, in the linear domain."""
    grammar = grammar_of(3, q, s, depth, 3).factorized(depth)
    rng = np.random.default_rng(q)
    weight = rng.random((9, s**depth, q)) * (rng.random((9, s**depth, q)) > 0.1)
    of_leaf = np.einsum("ira,nia->nir", grammar.channels, weight)
    joint = grammar.root * of_leaf.prod(1)
    others = np.stack([np.delete(of_leaf, i, 1).prod(1) for i in range(s**depth)], 1)
    marginals = np.einsum("r,nir,ira,nia->nia", grammar.root, others, grammar.channels, weight)
    with np.errstate(divide="ignore"):
        found = posterior(grammar, implementation, np.log(weight), levels="all")
    total = joint.sum(1)
    roots, leaves = (table / total[:, None, None] for table in (joint[:, None], marginals))
    assert [table is None for table in found.marginals] == [False, *[True] * (depth - 1), False]
    assert_output(found, (np.concatenate([roots, leaves], 1), np.log(total), total == 0))


@pytest.mark.parametrize("case", [(name, k) for name, k in CASES if k == 0], ids=str)
def test_nothing_factorized_is_the_whole_tree(implementation, case):
    grammar = small(case)
    assert len(grammar.channels) == 0
    given = evidence(case, "field")["log_field"]
    plain = TreeGrammar(grammar.q, grammar.depth, *arguments(grammar))
    found, whole = (posterior(g, implementation, given, levels="rules") for g in (grammar.factorized(0), plain))
    for one, other in zip([*found.marginals, *found.rule_marginals], [*whole.marginals, *whole.rule_marginals], strict=True):
        np.testing.assert_array_equal(one, other)


def test_children_that_are_independent_given_their_parent(implementation):
    """Then BP_1 leaves nothing out."""
    left, right = np.random.default_rng(0).dirichlet(np.ones(4), (2, 4))
    grammar = TreeGrammar.from_transitions(3, left[:, :, None] * right[:, None])
    field = evidence_of(grammar)[0]
    assert_output(posterior(grammar.factorized(1), implementation, field), oracle.tree_posterior(field, *arguments(grammar)))


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("s", [2, 3])
def test_weights_far_below_one(implementation, s, k):
    """1e-100 of a rule, of a root's symbol, of a channel: nothing that evidence leaves is lost."""
    rng = np.random.default_rng(s)
    q = 3
    table = 10.0 ** rng.uniform(-100, 0, (q, q**s))
    table[rng.random(table.shape) < 0.3] = 0
    table[:, 0] = 1
    table /= table.sum(1, keepdims=True)
    root = np.array([1e-90, 1e-20, 1.0])
    grammar = TreeGrammar.from_transitions(2, table.reshape(q, *(q,) * s), root=root / root.sum()).factorized(k)
    field = np.concatenate([scale * rng.standard_normal((8, s * s, q)) for scale in (1, 300)])
    field[rng.random(field.shape) < 0.4] = -np.inf
    tokens = rng.integers(-1, q, (16, s * s))
    for given in ({"log_field": field}, {"log_field": None, "tokens": tokens}):
        expected = oracle.tree_posterior(**given, **model(grammar), levels="rules")
        assert not expected[2].all()
        assert_output(posterior(grammar, implementation, **given, levels="rules"), expected)
