"""compat="paper": the floor under the authors' logarithms, their gamma, their symbol of a masked leaf."""
from functools import partial

import numpy as np
import pytest
import torch

from biasgen import Schedule, TreeDenoiser, TreeGrammar
from biasgen.diffusion import sample_tokens

GRAMMAR, SCHEDULE = TreeGrammar.random(), Schedule.linear()
RANDOM = np.random.default_rng(0).integers(0, 6, (300, 16))     # sequences that the grammar does not generate
EXACT, PAPER = TreeDenoiser(GRAMMAR), TreeDenoiser(GRAMMAR, compat="paper")


def authors_marginals(field, M, depth, factorized=0):
    """Their belief propagation in torch: dense, over log(M + 1e-16); BP_k in its middle layer in probabilities, with 1e-16 added wherever
    they divide or take a logarithm (docs/paper_differences.md); here in float64."""
    log_m = torch.log(torch.as_tensor(M) + 1e-16)
    inside = [torch.log_softmax(field, -1)]
    for _ in range(depth - factorized):
        left, right = inside[0][:, ::2], inside[0][:, 1::2]
        terms = log_m + left[:, :, None, :, None] + right[:, :, None, None, :]
        inside.insert(0, torch.log_softmax(terms.logsumexp((-1, -2)), -1))
    outside = torch.zeros_like(inside[0])
    if factorized:
        channels = torch.as_tensor(GRAMMAR.factorized(factorized).channels)
        told = torch.einsum("jrc,bjc->bjr", channels, inside[0].exp())
        told /= told.sum(-1, keepdim=True)
        cavity = told.prod(1, keepdim=True) / (told + 1e-16)
        context = torch.einsum("jrc,bjr->bjc", channels, cavity)
        outside = torch.log(context / context.sum(-1, keepdim=True) + 1e-16)
    for below in inside[1:]:
        left, right = below[:, ::2], below[:, 1::2]
        terms = log_m + outside[..., None, None]
        to_left = (terms + right[:, :, None, None, :]).logsumexp((-1, -3))
        to_right = (terms + left[:, :, None, :, None]).logsumexp((-2, -3))
        outside = torch.log_softmax(torch.stack([to_left, to_right], 2).flatten(1, 2), -1)
    return torch.softmax(outside + inside[-1], -1)


def noised(tokens, t):
    level = SCHEDULE.at(t)
    eps = torch.randn(len(tokens), 16, 6, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
    return level.scale * torch.nn.functional.one_hot(torch.as_tensor(tokens).long(), 6) + level.sigma * eps


@pytest.mark.parametrize("t", [1, 12, 25, 37, 150])
@pytest.mark.parametrize("rows", [RANDOM, GRAMMAR.sample(50)], ids=["random", "grammatical"])
def test_the_floor_is_theirs(rows, t):
    x_t, level = noised(rows, t), SCHEDULE.at(t)
    alpha_bar = np.float32(level.scale**2)
    expected = authors_marginals(x_t * float(np.sqrt(alpha_bar) / (1 - alpha_bar)), GRAMMAR.transitions, 4)
    torch.testing.assert_close(PAPER(x_t, level).double(), expected, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("t", [25, 37, 150])
def test_factorized_denoisers_with_the_floor_are_theirs(t, k):
    """The floor in the rules alone; theirs has more of them in the middle layer, which show nowhere else."""
    for rows in (RANDOM, GRAMMAR.sample(50)):
        x_t, level = noised(rows, t), SCHEDULE.at(t)
        expected = authors_marginals(x_t * level.gamma, GRAMMAR.transitions, 4, k)
        off = (TreeDenoiser(GRAMMAR, factorized=k, compat="paper")(x_t, level).double() - expected).abs().amax((1, 2))
        assert (off > 1e-3).double().mean() <= 0.02
        assert off.median() < 1e-5


def test_their_gamma():
    """5000.16 for 4999.50 at the first level."""
    seen = []

    class Spy(TreeGrammar):
        def field(self, x_t, level):
            seen.append(level.gamma)
            return super().field(x_t, level)

        def floored(self, floor):
            return self

    spy = Spy(GRAMMAR.q, GRAMMAR.depth, GRAMMAR.rules, GRAMMAR.weights)
    for compat in (None, "paper"):
        TreeDenoiser(spy, compat=compat)(noised(RANDOM, 1), SCHEDULE.at(1))
    assert seen == [pytest.approx(4999.50, abs=0.005), pytest.approx(5000.16, abs=0.005)]
    rows = PAPER(noised(RANDOM[:3], 5), SCHEDULE.at(np.array([5, 50, 400])))
    for i, t in enumerate((5, 50, 400)):
        assert torch.equal(rows[i : i + 1], PAPER(noised(RANDOM[:3], 5)[i : i + 1], SCHEDULE.at(t)))


def test_the_floor_moves_a_turn_from_a_random_sequence():
    """500 sequences with paired noise from t = 25: overlap .834 with the floor and .776 without, 41 % and all grammatical."""
    turn = partial(sample_tokens, schedule=SCHEDULE, n=300, shape=(16, 6), steps=25, start=RANDOM, t_start=25, seed=1)
    exact, paper = (turn(denoiser).numpy() for denoiser in (EXACT, PAPER))
    for found, overlap, grammatical in ((exact, 0.776, 1.0), (paper, 0.834, 0.41)):
        rows = (found == RANDOM).mean(1)
        error = 3 * np.hypot(rows.std() / np.sqrt(300), rows.std() / np.sqrt(500))
        assert rows.mean() == pytest.approx(overlap, abs=error)
        share = grammatical * (1 - grammatical)
        assert GRAMMAR.is_grammatical(found).mean() == pytest.approx(grammatical, abs=3 * np.sqrt(share / 300 + share / 500) + 1e-12)
    data = GRAMMAR.sample(300, seed=2)
    from_data = partial(turn, start=data)
    assert torch.equal(from_data(EXACT), from_data(PAPER))     # on data starts no difference


def test_factorized_denoisers():
    x_t, level = noised(RANDOM[:20], 40), SCHEDULE.at(40)
    for k in range(5):
        by_grammar = TreeDenoiser(GRAMMAR.factorized(k))(x_t, level)
        assert torch.equal(TreeDenoiser(GRAMMAR, factorized=k)(x_t, level), by_grammar)
    assert TreeDenoiser(GRAMMAR.factorized(2)).grammar.k == 2
    assert TreeDenoiser(GRAMMAR, factorized=3, compat="paper").grammar.k == 3
    torch.testing.assert_close(TreeDenoiser(GRAMMAR, 4, "paper")(x_t, level), by_grammar, rtol=1e-2, atol=1e-4)   # no zeros in P_4


def test_floored_grammars_keep_levels_root_and_arity():
    rhm = TreeGrammar.random_hierarchy(v=3, m=2, s=3, depth=2, seed=1)
    floored = rhm.floored(1e-16)
    assert len(floored.rules) == 2 * 81
    np.testing.assert_allclose(floored.transitions, rhm.transitions + 1e-16, rtol=0, atol=1e-30)
    assert GRAMMAR.factorized(2).floored(1e-16).k == 2
    rooted = TreeGrammar.from_rules(6, 4, GRAMMAR.rules, GRAMMAR.weights, root=np.array([1.0, 0, 0, 0, 0, 0])).floored(1e-16)
    assert rooted.root.tolist() == [1, 0, 0, 0, 0, 0]
    assert len(rooted.rules) == 216


def test_their_masked_symbol():
    tokens = GRAMMAR.sample(5, seed=3)
    tokens[:, ::3] = -1
    theirs = np.where(tokens == -1, 7, tokens)
    exact = GRAMMAR.posterior(tokens=tokens)
    for given in (theirs, theirs.astype(np.uint8), torch.from_numpy(theirs)):
        found = GRAMMAR.posterior(tokens=given, compat="paper")
        assert type(found.marginals) is (torch.Tensor if isinstance(given, torch.Tensor) else np.ndarray)
        np.testing.assert_array_equal(found.marginals, exact.marginals)
        np.testing.assert_array_equal(found.log_z, exact.log_z)
    everything = GRAMMAR.posterior(tokens=np.full((1, 16), 7), compat="paper")
    assert everything.log_z[0] == pytest.approx(0, abs=1e-5)     # theirs is 16, in log_q: one a masked leaf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TreeDenoiser(GRAMMAR, compat="numba"), r"^compat: want None or 'paper', got 'numba'"),
        (lambda: TreeDenoiser(GRAMMAR, factorized=5), r"^k: want 0..4, got 5"),
        (lambda: PAPER.log_density(noised(RANDOM, 9), SCHEDULE.at(9)), r"^compat: 'paper' has no density"),
        (lambda: PAPER(noised(RANDOM, 9), Schedule.flow(9).at(3)), r"^level: compat='paper' wants"),
        (lambda: PAPER(noised(RANDOM, 9), Schedule.vp([1 - 1e-9]).at(1)), r"^level: compat='paper' wants"),
        (lambda: TreeGrammar.random_hierarchy(v=65, m=2, s=3, depth=2).floored(1e-16), r"^floor: want at most 16777216 rules"),
        (lambda: GRAMMAR.floored(0.0), r"^floor: want a weight"),
        (lambda: GRAMMAR.floored(1e-12), r"^floor: want a weight"),
        (lambda: GRAMMAR.posterior(tokens=np.full((1, 16), 6), compat="paper"), r"^tokens: compat='paper' wants .* 6 means nothing"),
        (lambda: GRAMMAR.posterior(tokens=np.full((1, 16), -1), compat="paper"), r"^tokens: compat='paper' wants symbols 0..5, or 7"),
        (lambda: GRAMMAR.posterior(np.zeros((16, 6)), compat="paper"), r"^compat: 'paper' is a way to read tokens, got none"),
        (lambda: GRAMMAR.posterior(tokens=np.zeros((1, 16), int), compat="p"), r"^compat: want None or 'paper', got 'p'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
