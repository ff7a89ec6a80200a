"""Belief propagation on trees: golden values, enumeration, float64 messages, extreme fields, errors, bits."""
import contextlib
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from biasgen.ops.tree import Tree
from biasgen.ops.tree_posterior import tree_posterior
from biasgen.oracle import tree_posterior as oracle
from biasgen.oracle.tree_evidence import hard_fields
from biasgen.testing import assert_posterior_close

# Appendix A of the specification: the paper's grammar (q = 6, sigma = 1, q_eff = 4, seed 0).
RULES = np.array(
    [
        (0, 2, 4), (0, 3, 2), (0, 5, 0), (0, 5, 1), (1, 0, 2), (1, 1, 4), (1, 1, 5), (1, 4, 5), (2, 1, 2), (2, 4, 4), (2, 5, 2), (2, 5, 3),
        (3, 1, 1), (3, 2, 2), (3, 2, 5), (3, 4, 2), (4, 1, 0), (4, 3, 5), (4, 4, 0), (4, 4, 1), (5, 1, 3), (5, 3, 1), (5, 3, 3), (5, 5, 4)
    ],
    np.int16,
)
WEIGHTS = np.array(
    [
        0.15118322062699815, 0.1316558596878152, 0.5529291622143115, 0.16423175747087493, 0.41816414477907243, 0.21345050280237549,
        0.08257566142233073, 0.2858096909962215, 0.12271106294705304, 0.5683115965382897, 0.18833887566502464, 0.1206384648496327,
        0.5241843530775024, 0.13758335831787594, 0.15339211221235885, 0.18484017639226272, 0.0940819721410314, 0.10813218904618427,
        0.03378186718904593, 0.7640039716237383, 0.2639772693070953, 0.04944841072958273, 0.09038012223249434, 0.5961941977308276
    ]
)
GREEDY = np.array([5, 4, 4, 1, 4, 1, 0, 2, 5, 4, 4, 1, 5, 4, 5, 0])


def run(implementation, log_field, rules=RULES, weights=WEIGHTS):
    L, Q = log_field.shape[-2:]
    return tree_posterior(
        log_field, Tree.checked(Q, L.bit_length() - 1, rules, weights), backend=implementation
    )


def random_grammar(rng, q, per_parent):
    """Unambiguous: the q * q pairs are dealt out to the parents."""
    pairs = rng.permutation(q * q)
    rules = np.array([(p, *divmod(int(pair), q)) for p in range(q) for pair in pairs[p * q : p * q + per_parent]], np.int16)
    return rules, rng.dirichlet(np.ones(per_parent), q).ravel()


def fields(seed, depth, rules=RULES, weights=WEIGHTS):
    """(B, L, Q): all that is hard."""
    return np.concatenate(list(hard_fields(seed, depth, rules, weights).values()))


def one_hot(tokens, q=6):
    return np.where(np.eye(q, dtype=bool)[tokens], 0.0, -np.inf)


def test_golden_denoiser_rows(implementation):
    field = 2 * np.sin(1.3 * np.arange(16)[:, None] + 0.7 * np.arange(6))
    marginals = run(implementation, field).marginals.astype(float)
    expected = [0.024565453924, 0.380527280980, 0.054648962120, 0.067372361242, 0.455357737466, 0.017528204268]
    np.testing.assert_allclose(marginals[0], expected, rtol=1e-5)
    expected = [0.108828325109, 0.466004940234, 0.349115216853, 0.016623398507, 0.051386916677, 0.008041202619]
    np.testing.assert_allclose(marginals[15], expected, rtol=1e-5)
    assert (marginals**2).sum() == pytest.approx(7.283820599382, rel=1e-5)


def test_golden_evidence(implementation):
    greedy = run(implementation, one_hot(GREEDY))
    assert greedy.log_z == pytest.approx(-5.142210512376554 * math.log(6), abs=1e-5)
    np.testing.assert_array_equal(greedy.marginals, np.eye(6)[GREEDY])
    masked = run(implementation, np.zeros((16, 6)))
    assert masked.log_z == pytest.approx(0, abs=1e-5)
    expected = [0.0845901244657686, 0.200066913346875, 0.0373714435961099, 0.0820189641385594, 0.3953089088101675, 0.2006436456425195]
    np.testing.assert_allclose(masked.marginals[0], expected, rtol=1e-5)


@pytest.mark.parametrize(("q", "per_parent", "depth"), [(3, 2, 2), (6, 4, 2), (2, 1, 1), (1, 1, 3)])
def test_enumeration(implementation, q, per_parent, depth):
    rng = np.random.default_rng([q, depth])
    rules, weights = random_grammar(rng, q, per_parent)
    field = fields(q, depth, rules, weights)
    for typed in (field, field.astype(np.float32)):
        assert_posterior_close(run(implementation, typed, rules, weights), oracle.enumerate_posterior(typed, rules, weights))


@pytest.mark.parametrize("depth", [3, 4, 8, 10])
def test_deep_trees(implementation, depth):
    field = fields(depth, depth)
    for typed in (field, field.astype(np.float32)):
        assert_posterior_close(run(implementation, typed), oracle.tree_posterior(typed, RULES, WEIGHTS))


@pytest.mark.parametrize(("q", "per_parent"), [(9, 9), (64, 8), (5, 3)])
def test_other_alphabets(implementation, q, per_parent):
    rng = np.random.default_rng(q)
    rules, weights = random_grammar(rng, q, per_parent)
    order = rng.permutation(len(rules))
    field = np.concatenate([s * rng.standard_normal((3, 8, q)) for s in (1, 100, 1e4)])
    expected = oracle.tree_posterior(field, rules, weights)
    assert_posterior_close(run(implementation, field, rules[order], weights[order]), expected)


def test_ambiguous_grammars_and_tiny_weights(implementation):
    rng = np.random.default_rng(5)
    rules = np.array([(p, a, b) for p in range(4) for a in range(4) for b in range(4)], np.int16)
    weights = 10.0 ** rng.uniform(-300, 0, 64)
    weights[3::16] = 0
    weights[15::16] = 0
    weights[15::16] = 1 - weights.reshape(4, 16).sum(1)
    weights = abs(weights) / np.repeat(abs(weights).reshape(4, 16).sum(1), 16)
    field = np.concatenate([s * rng.standard_normal((6, 4, 4)) for s in (1, 1e3)])
    field[::2, 1, :3] = -np.inf
    assert_posterior_close(run(implementation, field, rules, weights), oracle.enumerate_posterior(field, rules, weights))


def test_impossible_evidence_is_marked_and_harms_nobody(implementation):
    field = np.zeros((5, 16, 6))
    field[1, 3] = -np.inf
    field[2] = one_hot(GREEDY)
    field[3] = one_hot(np.full(16, 0))  # (0, 0) is no rule
    got = run(implementation, field)
    np.testing.assert_array_equal(got.impossible, [False, True, False, True, False])
    assert (got.log_z[[1, 3]] == -np.inf).all()
    assert not got.marginals[[1, 3]].any()
    assert_posterior_close(got, oracle.tree_posterior(field, RULES, WEIGHTS))


def test_offsets_that_cancel(implementation):
    """Every entry is exact in float64, partial sums over the leaves are not."""
    rng = np.random.default_rng(0)
    field = np.round(16 * rng.standard_normal((3, 16, 6))) / 16
    half = 2.0**46 * rng.integers(1, 6, (3, 8, 1))
    offset = np.concatenate([half, -half[:, rng.permutation(8)]], 1)
    expected = oracle.tree_posterior(field, RULES, WEIGHTS)
    assert_posterior_close(run(implementation, field + offset), expected)


def test_the_largest_spread(implementation):
    rules, weights = np.array([(0, 1, 0), (0, 1, 1), (1, 1, 1)], np.int16), np.array([0.25, 0.75, 1.0])
    spread = 2.0**30 * math.log(2)
    field = np.array([[[0, -0.999 * spread], [0, 0]]])  # the left leaf must be 1
    assert_posterior_close(run(implementation, field, rules, weights), oracle.tree_posterior(field, rules, weights))
    field = np.concatenate([field, field])
    field[1, 1, 1] = 0.002 * spread
    with pytest.raises(ValueError, match=r"^log_field: .*got 7.45e\+08 in sample 1"):
        run(implementation, field, rules, weights)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_do_not_depend_on_the_batch(implementation, dtype):
    if implementation == "torch":
        pytest.skip("promised of the native kernels; torch's vectorized tails may differ")
    rng = np.random.default_rng(2)
    field = (rng.choice([0.1, 10, 1e4], (17, 1, 1)) * rng.standard_normal((17, 8, 6))).astype(dtype)
    field[4, 2] = -np.inf
    whole = run(implementation, field)
    for n in range(1, 18):
        part = run(implementation, field[:n])
        np.testing.assert_array_equal(part.marginals, whole.marginals[:n])
        np.testing.assert_array_equal(part.log_z, whole.log_z[:n])
        np.testing.assert_array_equal(run(implementation, field[n - 1]).marginals, whole.marginals[n - 1])
    order = rng.permutation(17)
    np.testing.assert_array_equal(run(implementation, field[order]).marginals, whole.marginals[order])


def test_bits_do_not_depend_on_threads(implementation, monkeypatch):
    monkeypatch.setattr("biasgen.backends.cpu_backend.FIELD_BLOCK", 4096)
    field = 5 * np.random.default_rng(3).standard_normal((200, 16, 6))
    results = []
    for threads in ("1", "2"):
        monkeypatch.setenv("BIASGEN_NUM_THREADS", threads)
        results.append(run(implementation, field))
    np.testing.assert_array_equal(results[0].marginals, results[1].marginals)
    np.testing.assert_array_equal(results[0].log_z, results[1].log_z)


@contextlib.contextmanager
def flush_denormal():
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def test_the_callers_floating_point_mode(implementation):
    rules, weights = np.array([(0, 0, 0), (0, 0, 1), (1, 1, 1)], np.int16), np.array([1.0, 1e-310, 1.0])
    field = np.array([[[0.0, -np.inf], [-np.inf, 0.0]]])  # only the rule of subnormal weight
    before = run(implementation, field, rules, weights)
    with flush_denormal():
        after = run(implementation, field, rules, weights)
        tiny = torch.full((1,), 1e-30) * 1e-10
        assert float(tiny) == 0  # still the caller's mode
    if implementation != "torch":  # torch computes in the caller's mode
        assert after.log_z == before.log_z == pytest.approx(math.log(1e-310) - math.log(2), rel=1e-6)
        np.testing.assert_array_equal(after.marginals, before.marginals)


def test_gradient_of_the_oracle():
    rng = np.random.default_rng(1)
    rules, weights = random_grammar(rng, 3, 2)
    field, step = rng.standard_normal((1, 8, 3)), 1e-5
    marginals = oracle.tree_posterior(field, rules, weights)[0]
    for i, a in np.ndindex(8, 3):
        shift = np.zeros_like(field)
        shift[0, i, a] = step
        high, low = (oracle.tree_posterior(field + sign * shift, rules, weights)[1][0] for sign in (1, -1))
        assert (high - low) / (2 * step) == pytest.approx(marginals[0, i, a], abs=1e-8)


def test_the_two_oracles_agree():
    rng = np.random.default_rng(7)
    field = rng.choice([1, 30, 1000], (9, 1, 1)) * rng.standard_normal((9, 8, 6))
    field[0], field[1, 0] = one_hot(np.zeros(8, int)), -np.inf
    by_list, by_message = (f(field, RULES, WEIGHTS) for f in (oracle.enumerate_posterior, oracle.tree_posterior))
    np.testing.assert_allclose(by_message[0], by_list[0], rtol=1e-10, atol=1e-300)
    np.testing.assert_allclose(by_message[1], by_list[1], rtol=1e-13)
    np.testing.assert_array_equal(by_message[2], by_list[2])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(q=st.integers(1, 4), depth=st.integers(1, 2), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_any_small_tree(implementation, q, depth, seed, data):
    rules, weights = random_grammar(np.random.default_rng(seed), q, data.draw(st.integers(1, q)))
    entry = st.floats(-1e5, 1e5) | st.just(-math.inf) | st.floats(-30, 30)
    field = data.draw(hnp.arrays(np.float64, (2, 2**depth, q), elements=entry))
    expected = oracle.enumerate_posterior(field, rules, weights)
    assert_posterior_close(run(implementation, field, rules, weights), expected)


@pytest.mark.parametrize("tiny", [5e-324, 1e-40, 1e-20, 1e-8])
def test_differences_that_a_half_swallows(implementation, tiny):
    rules, weights = random_grammar(np.random.default_rng(0), 2, 2)
    field = np.random.default_rng(1).choice([0, tiny, -tiny], (8, 4, 2))
    field[0] = tiny
    assert_posterior_close(run(implementation, field, rules, weights), oracle.enumerate_posterior(field, rules, weights))


def test_kinds_of_input(implementation):
    field = np.random.default_rng(4).standard_normal((3, 4, 6)).astype(np.float32)
    expected = run(implementation, field)
    tensor = run(implementation, torch.from_numpy(field), torch.from_numpy(RULES), torch.from_numpy(WEIGHTS))
    assert isinstance(tensor.marginals, torch.Tensor)
    assert isinstance(expected.marginals, np.ndarray)
    assert (tensor.marginals.dtype, tensor.log_z.dtype, tensor.impossible.dtype) == (torch.float32, torch.float64, torch.bool)
    read_only = field.copy()
    read_only.flags.writeable = False
    spread_out = np.zeros((3, 4, 12), np.float32)
    spread_out[:, :, ::2] = field
    for same in (tensor, *(run(implementation, f) for f in (read_only, spread_out[:, :, ::2], field.astype(">f4")))):
        np.testing.assert_array_equal(same.marginals, expected.marginals)
    single = run(implementation, field[1])
    assert single.marginals.shape == (4, 6)
    assert np.ndim(single.log_z) == np.ndim(single.impossible) == 0
    assert run(implementation, field[:0]).marginals.shape == (0, 4, 6)


FIELD, TREE = np.zeros((2, 4, 6)), Tree.checked(6, 2, RULES, WEIGHTS)


def with_value(value, at):
    field = FIELD.copy()
    field[at] = value
    return field


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (FIELD.astype(np.float16), "log_field: want float32 or float64, got float16"),
        (np.zeros(6), r"log_field: want \(B, 4, 6\) or \(4, 6\), got \(6,\)"),
        (np.zeros((2, 1, 6)), r"log_field: .*got \(2, 1, 6\)"),
        (np.zeros((2, 12, 6)), "log_field: .*12"),
        (np.zeros((2, 8, 6)), "log_field: .*8"),
        (np.zeros((1, 4, 7)), "log_field: .*7"),
        (np.zeros((1, 1, 4, 6)), "log_field: .*1, 1, 4, 6"),
        (with_value(np.nan, (1, 2, 3)), "log_field: .*got nan in sample 1, leaf 2, symbol 3"),
        (with_value(np.inf, (1, 0, 5)), "log_field: .*got inf in sample 1, leaf 0, symbol 5"),
        (with_value(-1e30, (0, 1, 0)), r"log_field: .*got 1e\+30 in sample 0"),
    ],
)
def test_errors(implementation, field, message):
    with pytest.raises(ValueError, match="^" + message):
        tree_posterior(field, TREE, backend=implementation)


@pytest.mark.parametrize(
    ("rules", "weights", "message"),
    [
        (RULES[:, :2], WEIGHTS, r"rules: .*\(24, 2\)"),
        (RULES.astype(float), WEIGHTS, "rules: .*float64"),
        (RULES[:0], WEIGHTS[:0], r"rules: .*\(0, 3\)"),
        (
            np.where(RULES == 5, 6, RULES),
            WEIGHTS,
            r"rules: want symbols 0..5, got \[0, 6, 0\] in row 2",
        ),
        (RULES - 1, WEIGHTS, "rules: want symbols 0..5"),
        (
            np.vstack([RULES, RULES[3:4]]),
            np.append(WEIGHTS, 0),
            r"rules: want each rule once, got \[0, 5, 1\] 2 times",
        ),
        (RULES[4:], WEIGHTS[4:], "rules: .*none with parent 0"),
        (RULES, WEIGHTS[1:], r"weights: want \(24,\) floats.*\(23,\)"),
        (RULES, np.ones(24, int), "weights: .*int64"),
        (RULES, WEIGHTS * np.where(np.arange(24) == 9, np.nan, 1), "weights: .*got nan in row 9"),
        (RULES, WEIGHTS * np.where(np.arange(24) == 9, -1, 1), "weights: .*in row 9"),
        (
            RULES,
            WEIGHTS + np.where(np.arange(24) == 9, 1e-8, 0),
            "weights: want a sum of 1 .*for parent 2",
        ),
    ],
)
def test_wrong_grammars(rules, weights, message):
    with pytest.raises(ValueError, match="^" + message):
        Tree.checked(6, 2, rules, weights)


def test_wrong_kinds_of_object():
    with pytest.raises(TypeError, match=r"^log_field: want a NumPy array or a torch tensor, got list"):
        tree_posterior([[0.0]], TREE)
    with pytest.raises(ValueError, match=r"^backend: none can run tree_posterior here; numba: no such backend"):
        tree_posterior(FIELD, TREE, backend="numba")
