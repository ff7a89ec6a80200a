"""Gradients of the log-evidence and compiled calls: the same numbers as without, and an error for every derivative that is not computed."""
import copy
import pickle
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.library import opcheck

from biasgen import EmpiricalDenoiser, Level, Schedule, TreeDenoiser, TreeGrammar
from biasgen.diffusion import forward_process, one_hot
from biasgen.ops import empirical_denoise as empirical_module
from biasgen.ops import tree_posterior as tree_module
from biasgen.ops._prepared import of_tensors
from biasgen.ops.empirical_denoise import empirical_denoise
from biasgen.ops.tree import Tree
from biasgen.ops.tree_posterior import tree_posterior

SCHEDULE, GRAMMAR = Schedule.linear(), TreeGrammar.random(depth=3)
TOKENS = GRAMMAR.sample(60, seed=1)
IMAGES = np.random.default_rng(0).standard_normal((1500, 3, 4))
GRAMMARS = {
    "paper": GRAMMAR,
    "three children, levels, root": TreeGrammar.from_rules(
        3, 2, [[0, 1, 1, 0], [0, 2, 1, 0], [1, 2, 0, 2], [2, 0, 0, 1], [2, 0, 2, 0], [0, 1, 0, 0], [1, 1, 1, 1], [2, 0, 2, 2]],
        np.array([0.25, 0.75, 1, 1 / 3, 2 / 3, 1, 1, 1]), level_offsets=np.array([0, 5, 8]), root=np.array([0.1, 0.2, 0.7]),
    ),
    "BP_1": GRAMMAR.factorized(1),
    "BP_3": GRAMMAR.factorized(3),
}  # fmt: skip
DENOISERS = {
    "tree": TreeDenoiser(GRAMMAR), "BP_2": TreeDenoiser(GRAMMAR.factorized(2)),
    "tokens": EmpiricalDenoiser(TOKENS), "floats": EmpiricalDenoiser(IMAGES),
}  # fmt: skip
LEVELS = [SCHEDULE.at(t) for t in (5, 100, 450)] + [SCHEDULE.at(np.array([5, 100, 450]))]


def noised(name, level, dtype=torch.float64):
    rows = torch.from_numpy(IMAGES[:3]) if name == "floats" else one_hot(TOKENS[:3], 6).double()
    return forward_process(rows, level, torch.randn(rows.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)


def field(grammar=GRAMMAR, dtype=torch.float64):
    shape = 4, grammar.length, grammar.q
    values = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[1, 2, : grammar.q // 2] = -torch.inf
    return values.to(dtype).requires_grad_()


def unseen(grammar):
    """(4, L) tokens, the first row without any, some leaves of the others masked."""
    tokens = torch.from_numpy(grammar.sample(4, seed=2)).clone()
    tokens[0], tokens[1:, ::3], tokens[2, 1] = -1, -1, -1
    return tokens


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batched", [False, True])
def test_gradient_of_log_z_is_the_marginals(backend, dtype, batched):
    values = field(dtype=dtype) if batched else field(dtype=dtype)[1].detach().requires_grad_()
    found = tree_posterior(values, GRAMMAR.tree, backend=backend)
    expected = tree_posterior(values.detach(), GRAMMAR.tree, backend=backend)
    assert torch.equal(found.log_z, expected.log_z)
    assert torch.equal(found.marginals, expected.marginals)
    weights = torch.linspace(-1, 2, max(1, found.log_z.numel()), dtype=torch.float64).reshape(found.log_z.shape)
    (found.log_z * weights).sum().backward()
    assert values.grad.dtype == dtype
    assert torch.equal(values.grad, (weights[..., None, None] * expected.marginals).to(dtype))


def kinds_of_calls(name):
    """A function of field and levels for a grammar's calls: tokens in place of some leaves, a temperature; with both as numbers."""
    grammar = GRAMMARS[name]
    for tokens, T in ((None, 1.0), (unseen(grammar), 1.0), (None, 0.7), (unseen(grammar).numpy(), 2.0)):
        yield (
            partial(
                tree_posterior, tree=grammar.tree, tokens=tokens, temperature=T, backend="torch"
            ),
            tokens,
            T,
        )


def flat(posterior):
    """The tensors of a result, in order."""
    parts = [part if isinstance(part, list) else [part] for part in vars(posterior).values()]
    return [part for several in parts for part in several if part is not None]


@pytest.mark.parametrize("levels", [None, "leaves", "all", "rules"])
@pytest.mark.parametrize("name", GRAMMARS)
def test_gradient_of_log_z_in_every_kind_of_call(name, levels):
    """1 / T times the marginals, and nothing where a token was seen."""
    for call, tokens, T in kinds_of_calls(name):
        values, weights = field(GRAMMARS[name]), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
        found, plain = call(values, levels=levels), call(values.detach(), levels=levels)
        assert len(flat(found)) == len(flat(plain))
        for mine, other in zip(flat(found), flat(plain), strict=True):
            assert torch.equal(mine, other)
        (gradient,) = torch.autograd.grad(found.log_z @ weights, values)
        heard = 1.0 if tokens is None else (torch.as_tensor(tokens) == -1).double()[..., None]
        expected = weights[:, None, None] * call(values.detach()).marginals * heard / T
        torch.testing.assert_close(gradient, expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", GRAMMARS)
def test_gradient_of_log_z_by_numbers(name):
    """Not against the marginals, which share its arithmetic."""
    for call, _, _ in kinds_of_calls(name):
        values = field(GRAMMARS[name])
        (gradient,) = torch.autograd.grad(call(values, levels=None).log_z.sum(), values)
        with torch.no_grad():
            for leaf in range(values.shape[1]):
                shift = torch.zeros_like(values)
                shift[:, leaf, -1] = 1e-4
                above, below = (call(values + sign * shift, levels=None).log_z for sign in (1, -1))
                torch.testing.assert_close(gradient[:, leaf, -1], (above - below) / 2e-4, rtol=1e-6, atol=1e-6)


def test_what_carries_no_gradient():
    tokens, values = unseen(GRAMMAR), field()
    assert not GRAMMAR.posterior(tokens=tokens, levels=None).log_z.requires_grad
    for seen, touched in ((torch.from_numpy(TOKENS[:4]), False), (tokens, True)):
        (gradient,) = torch.autograd.grad(GRAMMAR.posterior(values, tokens=seen, levels=None).log_z.sum(), values)
        assert bool(gradient.any()) == touched
    for call in (lambda field: GRAMMAR.map_estimate(field, tokens=tokens), lambda field: [GRAMMAR.posterior_sample(field, 3)]):
        for found, plain in zip(call(values), call(values.detach()), strict=True):
            assert torch.equal(found, plain)
            assert not found.requires_grad


def test_results_are_of_the_kind_of_the_field():
    tokens, values = unseen(GRAMMAR), field().detach()
    for other in (tokens, tokens.numpy()):
        assert isinstance(GRAMMAR.posterior(values, tokens=other).log_z, torch.Tensor)
        assert isinstance(GRAMMAR.posterior(values.clone().requires_grad_(), tokens=other).log_z, torch.Tensor)
        assert isinstance(GRAMMAR.posterior(values.numpy(), tokens=other).log_z, np.ndarray)
        assert type(GRAMMAR.posterior(tokens=other).log_z) is type(other)


def test_evidence_that_is_impossible_has_no_slope():
    values = torch.full((2, 8, 6), -torch.inf, dtype=torch.float64)
    values[1] = 0
    found = GRAMMAR.posterior(values.requires_grad_())
    assert found.impossible.tolist() == [True, False]
    (gradient,) = torch.autograd.grad(found.log_z.sum(), values)
    assert not gradient[0].any()
    torch.testing.assert_close(gradient[1].sum(-1), torch.ones(8, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_the_log_density_is_the_score(name, level, dtype):
    denoiser, x_t = DENOISERS[name], noised(name, level, dtype)
    expected = denoiser.log_density(x_t, level)
    x_t.requires_grad_()
    found = denoiser.log_density(x_t, level)
    assert torch.equal(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), x_t)
    score = denoiser.score(x_t.detach(), level)
    sigma = torch.as_tensor(level.sigma, dtype=torch.float64).reshape(-1, *[1] * (x_t.ndim - 1))
    torch.testing.assert_close(gradient.double() * sigma, score * sigma, rtol=1e-5, atol=2e-5 / float(np.min(level.sigma)))


def test_gradient_of_the_log_density_by_numbers():
    """Not against the score, which shares its arithmetic."""
    for name, denoiser in DENOISERS.items():
        level = SCHEDULE.at(100)
        x_t = noised(name, level).requires_grad_()
        (gradient,) = torch.autograd.grad(denoiser.log_density(x_t, level).sum(), x_t)
        shift = torch.zeros_like(x_t)
        shift[:, 1, 2] = step = 0.01 * level.sigma
        with torch.no_grad():
            by_numbers = (denoiser.log_density(x_t + shift, level) - denoiser.log_density(x_t - shift, level)) / (2 * step)
        torch.testing.assert_close(gradient[:, 1, 2] * level.sigma, by_numbers * level.sigma, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", DENOISERS)
def test_the_chain_rule_into_what_made_x_t(name):
    denoiser, level = DENOISERS[name], SCHEDULE.at(100)
    x_t, factor = noised(name, level), torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    denoiser.log_density(factor * x_t, level).sum().backward()
    expected = (denoiser.score(1.1 * x_t, level) * x_t).sum()
    torch.testing.assert_close(factor.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DENOISERS)
def test_a_model_learns_from_the_exact_score(name):
    """Teacher: least squares on score. The score of a normal distribution is linear; that of data near high noise almost so."""
    denoiser, level = DENOISERS[name], SCHEDULE.at(450)
    x_t = noised(name, level)
    size = x_t[0].numel()
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Linear(size, size, dtype=torch.float64)
    with torch.no_grad():
        model.weight.normal_(0, 0.1, generator=generator)
        model.bias.zero_()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(200):
        batch = torch.randn((64, *x_t.shape[1:]), generator=generator, dtype=torch.float64)
        loss = (model(batch.flatten(1)) - denoiser.score(batch, level).flatten(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.01 * losses[0]


@pytest.mark.parametrize("name", DENOISERS)
def test_a_model_is_trained_to_raise_the_density(name):
    """Guidance: the gradient of log_density goes through x_t into the model, without autocast's or the default type's influence."""
    denoiser, level = DENOISERS[name], SCHEDULE.at(450)
    start, shift = noised(name, level), torch.nn.Parameter(torch.zeros(noised(name, level).shape[1:], dtype=torch.float64))
    before = denoiser.log_density(start, level).mean().item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        density = denoiser.log_density(start + shift, level).mean()
    density.backward()
    with torch.no_grad():
        after = denoiser.log_density(start + 0.1 * shift.grad, level).mean().item()
    torch.testing.assert_close(shift.grad, denoiser.score(start, level).mean(0), rtol=1e-4, atol=1e-4)
    assert after > before


def test_second_derivatives_are_refused():
    for name, denoiser in DENOISERS.items():
        level = SCHEDULE.at(100)
        x_t = noised(name, level).requires_grad_()
        (gradient,) = torch.autograd.grad(denoiser.log_density(x_t, level).sum(), x_t, create_graph=True)
        with pytest.raises(RuntimeError, match=r"^(tree_posterior|empirical_denoise): it has no second derivative here"):
            gradient.square().sum().backward()
        with pytest.raises(RuntimeError, match=r"^(tree_posterior|empirical_denoise): only its log-evidence has a gradient"):
            denoiser(x_t, level).square().sum().backward()
        with pytest.raises(RuntimeError, match=r"only its log-evidence has a gradient"):
            denoiser.score(x_t, level).square().sum().backward()
        x0_hat, log_density = denoiser.posterior(x_t, level)
        with pytest.raises(RuntimeError, match=r"only its log-evidence has a gradient"):
            (x0_hat.sum() + log_density.sum()).backward(retain_graph=True)
        (log_density.sum() + x0_hat.detach().sum()).backward(retain_graph=True)
        (0 * x0_hat.sum() + log_density.sum()).backward()     # a gradient of zero is no demand


@pytest.mark.parametrize("levels", ["leaves", "all", "rules"])
@pytest.mark.parametrize("name", GRAMMARS)
def test_marginals_of_any_kind_are_not_differentiated(name, levels):
    found = GRAMMARS[name].posterior(field(GRAMMARS[name]), levels)
    for table in flat(found):
        if table.requires_grad and table is not found.log_z:
            with pytest.raises(RuntimeError, match=r"^tree_posterior: only its log-evidence has a gradient"):
                table.sum().backward(retain_graph=True)
    found.log_z.sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")     # torch's own, when it enters a level
@pytest.mark.parametrize("name", DENOISERS)
def test_forward_mode_is_refused(name):
    x_t = noised(name, LEVELS[1])
    with forward_ad.dual_level():
        with pytest.raises(RuntimeError, match=r"^forward-mode derivatives are not computed here"):
            DENOISERS[name].log_density(forward_ad.make_dual(x_t, x_t), LEVELS[1])
        DENOISERS[name].log_density(x_t, LEVELS[1])


def test_gradients_by_other_arguments_are_refused():
    leaf = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in (("scale", 1.0), ("sigma", 0.5))}
    x_t, rows = torch.zeros(2, 3), torch.eye(3)
    for name in leaf:
        arguments = {"scale": 1.0, "sigma": 0.5} | {name: leaf[name]}
        with pytest.raises(ValueError, match=rf"^{name}: no gradient by it is computed"):
            empirical_denoise(x_t, rows, **arguments)
    for name in ("rows", "log_weights"):
        arguments = {"rows": rows, "log_weights": torch.zeros(3)}
        arguments[name] = arguments[name].clone().requires_grad_()
        with pytest.raises(ValueError, match=rf"^{name}: no gradient by it is computed"):
            empirical_denoise(x_t, arguments["rows"], 1.0, 0.5, log_weights=arguments["log_weights"])
    tree = GRAMMARS["BP_1"].tree
    for name in ("weights", "root", "channels"):
        parts = {
            part: getattr(tree, part)
            for part in ("rules", "weights", "level_offsets", "root", "channels")
        }
        parts[name] = parts[name].clone().requires_grad_()
        with pytest.raises(ValueError, match=rf"^{name}: no gradient by it is computed"):
            Tree.checked(6, 3, **parts)
        with torch.no_grad():
            Tree.checked(6, 3, **parts)
        with pytest.raises(ValueError, match=rf"^{name}: no gradient by it is computed"):
            torch.ops.biasgen.tree_posterior(field(), None, *parts.values(), 1.0, "leaves", None)


def test_other_calls_do_not_come_here(monkeypatch):
    def refuse(*_):
        raise AssertionError("the registered op was called")

    for module in (tree_module, empirical_module):
        monkeypatch.setattr(module, "_registered", refuse)
    for name, denoiser in DENOISERS.items():
        x_t = noised(name, LEVELS[1])
        for same in (x_t, x_t.numpy()):
            denoiser.log_density(same, LEVELS[1])
        with torch.no_grad():
            assert not denoiser(x_t.requires_grad_(), LEVELS[1]).requires_grad
        with pytest.raises(AssertionError):
            denoiser(x_t, LEVELS[1])


@pytest.mark.parametrize("log_weights", [None, torch.linspace(-3, 0, 60)])
def test_arguments_reach_the_op(log_weights):
    x_t, level = noised("tokens", LEVELS[1]), LEVELS[1]
    options = {"log_weights": log_weights, "backend": "torch", "max_memory": 1000}
    for rows in (TOKENS, DENOISERS["tokens"]):
        expected = empirical_denoise(x_t, rows, level.scale, level.sigma, **options)
        found = empirical_denoise(x_t.clone().requires_grad_(), rows, level.scale, level.sigma, **options)
        assert all(torch.equal(getattr(found, name), value) for name, value in vars(expected).items())
    with pytest.raises(ValueError, match=r"^backend: none can run"):
        empirical_denoise(x_t.requires_grad_(), TOKENS, 1.0, 0.5, backend="numba")
    with pytest.raises(ValueError, match=r"^x_t: want finite numbers.*row 1"):
        DENOISERS["tokens"](torch.where(torch.arange(3)[:, None, None] == 1, torch.nan, x_t), level)
    with pytest.raises(ValueError, match=r"^log_field: want numbers below"):
        GRAMMAR.posterior((0 * field().detach() / 0).requires_grad_())
    with pytest.raises(ValueError, match=r"^tokens: want symbols 0\.\.5"):
        GRAMMAR.posterior(field(), tokens=unseen(GRAMMAR) + 3)


def test_the_op_uses_what_was_prepared():
    for name in ("tokens", "floats"):
        prepared = DENOISERS[name].prepared
        parts = prepared.rows, prepared.multiplicity, prepared.members, prepared.offsets, prepared.distance
        assert of_tensors(*parts, prepared.shape) is prepared
        for other in ((*parts, (prepared.rows.shape[1], 1)), (prepared.rows.clone(), *parts[1:], prepared.shape)):
            made = of_tensors(*other)
            assert made is not prepared
            assert (made.n, made.largest, made.views) == (prepared.n, prepared.largest, prepared.views)
        for copied in (copy.deepcopy(DENOISERS[name]), pickle.loads(pickle.dumps(DENOISERS[name]))):
            found = copied.prepared
            assert of_tensors(found.rows, *parts[1:], prepared.shape) is found
        assert of_tensors(*parts, prepared.shape) is prepared


@pytest.mark.parametrize("levels", ["leaves", "all", "rules"])
@pytest.mark.parametrize("name", GRAMMARS)
def test_opcheck_of_the_tree(name, levels):
    """Of every shape that the op may return; with everything that opcheck knows (1 s) for one."""
    grammar = GRAMMARS[name]
    values, tokens = field(grammar), unseen(grammar)
    tree = grammar.tree
    model = tree.rules, tree.weights, list(tree.level_offsets), tree.root, tree.channels
    differentiable = ("test_schema", "test_autograd_registration", "test_faketensor")     # the last one differentiates every output
    for evidence, options in (
        ((values, tokens), (*model, 2.0, levels, "torch")),
        ((values[0].detach().requires_grad_(), None), (*model, 1.0, levels, None)),
        ((None, tokens), (*model, 0.7, levels, "torch")),
        ((None, tokens[1]), (*model, 1.0, levels, "torch")),
    ):
        opcheck(torch.ops.biasgen.tree_posterior, (*evidence, *options), test_utils=differentiable)
    if (name, levels) in (("paper", "leaves"), ("BP_1", "rules")):
        opcheck(torch.ops.biasgen.tree_posterior, (values.detach(), tokens, *model, 2.0, levels, "torch"))


@pytest.mark.parametrize("name", ["tokens", "floats"])
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_opcheck_of_the_denoiser(name, backend):
    x_t, prepared = noised(name, LEVELS[3]), DENOISERS[name].prepared
    log_weights = torch.zeros(prepared.n) if backend == "torch" else None
    arguments = (
        x_t, prepared.rows, prepared.multiplicity, prepared.members, prepared.offsets, prepared.distance, list(prepared.shape),
        torch.from_numpy(LEVELS[3].scale), torch.from_numpy(LEVELS[3].sigma), log_weights, backend, None,
    )  # fmt: skip
    opcheck(torch.ops.biasgen.empirical_denoise, arguments)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(torch.ops.biasgen.empirical_denoise, (x_t.requires_grad_(), *arguments[1:]), test_utils=checks)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")     # inductor's own
@pytest.mark.parametrize("compiler", ["inductor", "aot_eager"])
@pytest.mark.parametrize("name", DENOISERS)
def test_compiled_denoisers_give_the_same_bits(name, compiler):
    if compiler == "inductor" and (" " in torch.__file__ or shutil.which("g++") is None):
        pytest.skip("inductor wants a C++ compiler, and torch in a path without spaces")
    denoiser = DENOISERS[name]

    def run(x_t, level):
        return denoiser(2 * x_t - x_t, level), denoiser.score(x_t, level)

    compiled = torch.compile(run, fullgraph=True, backend=compiler)
    for level in LEVELS[1 if compiler == "inductor" else 0 :]:
        x_t = noised(name, level, torch.float32)
        for found, expected in zip(compiled(x_t, level), run(x_t, level), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("name", DENOISERS)
def test_compiled_training_steps(name):
    """Forward and backward in one graph; sums of a compiled tree's log_density may be taken in another order."""
    denoiser, level = DENOISERS[name], LEVELS[1]
    gradients = []
    for wrap in (lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")):
        shift = torch.zeros(noised(name, level).shape[1:], dtype=torch.float64, requires_grad=True)
        loss = wrap(lambda x_t, shift: (denoiser.log_density(x_t + shift, level) * torch.arange(1, 4)).sum())(noised(name, level), shift)
        loss.backward()
        gradients.append((loss.detach(), shift.grad))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", GRAMMARS)
def test_compiled_posteriors(name):
    """Every kind of evidence and result."""
    grammar = GRAMMARS[name]

    def run(values, tokens):
        return [
            flat(grammar.posterior(values, levels, tokens=seen, temperature=T))
            for levels, seen, T in ((None, None, 1.0), ("leaves", tokens, 2.0), ("all", None, 0.7), ("rules", tokens, 1.0))
        ] + [flat(grammar.posterior(levels="rules", tokens=tokens))]

    arguments = field(grammar).detach(), unseen(grammar)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(*arguments)
    for found, expected in zip(compiled, run(*arguments), strict=True):
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)     # log_z alone may come from another backend


@pytest.mark.parametrize("name", DENOISERS)
def test_compiled_with_a_network(name):
    """One graph of a network, its loss against the exact score, and the density of what it made; x_t has a gradient, too."""
    denoiser, level = DENOISERS[name], LEVELS[1]
    torch.manual_seed(0)
    size = noised(name, level)[0].numel()
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, 8), torch.nn.Tanh(), torch.nn.Linear(8, size)).double()

    def loss_of(x_t):
        moved = network(x_t).reshape(x_t.shape)
        teacher = denoiser.score(x_t.detach(), level)
        return (moved - teacher).square().mean() - denoiser.log_density(x_t + 0.1 * moved, level).mean()

    found = []
    for run in (loss_of, torch.compile(loss_of, fullgraph=True, backend="aot_eager")):
        x_t = noised(name, level).requires_grad_()
        loss = run(x_t)
        found.append([loss, *torch.autograd.grad(loss, [x_t, *network.parameters()])])
    for compiled, eager in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)
        assert eager.any()


@pytest.mark.parametrize("name", GRAMMARS)
def test_the_first_call_of_a_grammar_may_be_compiled(name):
    grammar, values = replace(GRAMMARS[name]), field(GRAMMARS[name]).detach()
    compiled = torch.compile(grammar.posterior, fullgraph=True, backend="eager")
    assert torch.equal(compiled(values).marginals, GRAMMARS[name].posterior(values).marginals)


def test_compiled_for_any_batch():
    denoiser = DENOISERS["tree"]
    compiled = torch.compile(lambda x_t: denoiser.posterior(x_t, Level(0.8, 0.6)), fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (1, 2, 3):
        x_t = noised("tree", LEVELS[1])[:n]
        for found, expected in zip(compiled(x_t), denoiser.posterior(x_t, Level(0.8, 0.6)), strict=True):
            assert torch.equal(found, expected)
