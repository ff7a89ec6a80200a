"""The paper's grammar: golden values, sampling, likelihood, errors."""
import numpy as np
import pytest
import torch
from scipy import stats

from biasgen import Schedule, TreeDenoiser, TreeGrammar

GOLDEN = {   # the authors' M for q=6, q_eff=4, sigma=1, seed 0, in the order of its shuffle
    0: {(5, 1): 0.16423175747087493, (3, 2): 0.1316558596878152, (2, 4): 0.15118322062699815, (5, 0): 0.5529291622143115},
    1: {(1, 4): 0.21345050280237549, (0, 2): 0.41816414477907243, (1, 5): 0.08257566142233073, (4, 5): 0.2858096909962215},
    2: {(5, 3): 0.1206384648496327, (4, 4): 0.5683115965382897, (5, 2): 0.18833887566502464, (1, 2): 0.12271106294705304},
    3: {(2, 5): 0.15339211221235885, (2, 2): 0.13758335831787594, (1, 1): 0.5241843530775024, (4, 2): 0.18484017639226272},
    4: {(4, 1): 0.7640039716237383, (4, 0): 0.03378186718904593, (1, 0): 0.0940819721410314, (3, 5): 0.10813218904618427},
    5: {(3, 3): 0.09038012223249434, (3, 1): 0.04944841072958273, (1, 3): 0.2639772693070953, (5, 4): 0.5961941977308276},
}
SAMPLED = [   # sample(3, seed=0): pinned, since A, B and H of every experiment are rows of this list
    [2, 5, 1, 3, 1, 4, 2, 2, 4, 0, 0, 2, 4, 1, 0, 2],
    [4, 0, 5, 0, 4, 1, 5, 4, 4, 1, 0, 2, 4, 1, 1, 4],
    [5, 0, 5, 2, 1, 2, 5, 4, 1, 3, 3, 5, 5, 3, 4, 1],
]
GREEDY = [5, 4, 4, 1, 4, 1, 0, 2, 5, 4, 4, 1, 5, 4, 5, 0]


def test_the_authors_grammar():
    grammar = TreeGrammar.random()
    assert {p: list(children) for p, children in GOLDEN.items()} == {
        p: [tuple(rule[1:]) for rule in grammar.rules.tolist() if rule[0] == p] for p in range(6)
    }
    table = [weight for children in GOLDEN.values() for weight in children.values()]
    np.testing.assert_allclose(grammar.weights, table, rtol=4e-16, atol=0)
    np.testing.assert_allclose(grammar.transitions.sum((1, 2)), 1, rtol=1e-15)


def test_samples_are_fixed_by_seed_and_number():
    grammar = TreeGrammar.random()
    whole = grammar.sample(1000, seed=5)
    assert whole.dtype == np.int8
    np.testing.assert_array_equal(grammar.sample(100, seed=5, offset=900), whole[900:])
    np.testing.assert_array_equal(grammar.sample(3, seed=0), SAMPLED)
    assert not np.array_equal(grammar.sample(1000, seed=6), whole)


def test_samples_have_the_law_of_the_grammar():
    grammar = TreeGrammar.random(depth=2)
    n = 200_000
    sequences, counts = np.unique(grammar.sample(n, seed=1), axis=0, return_counts=True)
    probability = np.exp(grammar.log_prob(sequences))
    assert len(sequences) == 6 * 4**3
    assert probability.sum() == pytest.approx(1, abs=1e-4)
    assert stats.chisquare(counts, n * probability / probability.sum()).pvalue > 1e-3


def test_likelihood_of_the_greedy_sequence():
    grammar = TreeGrammar.random()
    assert grammar.log_prob(np.array([GREEDY]))[0] == pytest.approx(-5.142210512376554 * np.log(6), rel=1e-6)
    forbidden = [*GREEDY[:-1], 5]
    assert grammar.log_prob(np.array([forbidden]))[0] == -np.inf
    assert grammar.is_grammatical(np.array([GREEDY, forbidden])).tolist() == [True, False]


def test_entropy():
    grammar = TreeGrammar.random()
    assert grammar.log_prob(grammar.sample(20_000, seed=2)).mean() == pytest.approx(-17.5765, abs=0.06)


def test_torch_in_torch_out():
    grammar = TreeGrammar.random()
    tokens = grammar.sample(7, seed=0)
    log_prob = grammar.log_prob(torch.from_numpy(tokens))
    assert isinstance(log_prob, torch.Tensor)
    np.testing.assert_array_equal(log_prob.numpy(), grammar.log_prob(tokens))


def test_denoiser_is_the_posterior_mean():
    """E[x_0] over x_t is the data's mean: at high noise on average, at low noise the denoiser is the data."""
    grammar, schedule = TreeGrammar.random(), Schedule.linear()
    x0 = torch.nn.functional.one_hot(torch.from_numpy(grammar.sample(4000, seed=3)).long(), 6).float()
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    exact = TreeDenoiser(grammar)
    for t, cross_entropy in ((25, 0.00003), (75, 0.397), (150, 1.284)):   # optimal loss, golden table
        level = schedule.at(t)
        probability = exact(level.scale * x0 + level.sigma * eps, level)
        torch.testing.assert_close(probability.sum(-1), torch.ones(4000, 16), rtol=1e-5, atol=0)
        got = -probability.clamp_min(1e-30).log()[x0 > 0].mean().item()
        assert got == pytest.approx(cross_entropy, abs=max(0.02 * cross_entropy, 2e-4))
        torch.testing.assert_close(probability.mean((0, 1)), x0.mean((0, 1)), rtol=0, atol=0.01)


def test_level_a_row():
    grammar, schedule = TreeGrammar.random(), Schedule.linear()
    x = torch.randn(3, 16, 6, generator=torch.Generator().manual_seed(0))
    exact = TreeDenoiser(grammar)
    rows = exact(x, schedule.at(np.array([5, 50, 400])))
    for i, t in enumerate((5, 50, 400)):
        assert torch.equal(rows[i : i + 1], exact(x[i : i + 1], schedule.at(t)))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda g: TreeGrammar.random(q_eff=7), "q_eff"),
        (lambda g: TreeGrammar.random(depth=13), "depth"),
        (lambda g: TreeGrammar.random(q=1, q_eff=1), "q"),
        (lambda g: TreeGrammar.random(sigma=-1), "sigma"),
        (lambda g: g.sample(-1), "n"),
        (lambda g: g.log_prob(np.zeros((2, 15), np.int8)), "tokens"),
        (lambda g: g.log_prob(np.full((2, 16), 6)), "tokens"),
        (lambda g: g.log_prob(np.zeros((2, 16))), "tokens"),
        (lambda g: g.field(torch.zeros(2, 16, 5), Schedule.linear().at(1)), "x_t"),
        (lambda g: g.posterior(np.zeros((2, 8, 6))), "log_field"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        call(TreeGrammar.random())
