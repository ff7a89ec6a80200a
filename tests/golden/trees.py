"""Golden calls of trees: grammars, posteriors, strings, denoisers, trajectories, schedules."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import torch

from biasgen import (
    EmpiricalDenoiser,
    Level,
    Schedule,
    TreeDenoiser,
    TreeGrammar,
    controls,
    diffusion,
)
from biasgen.metrics.uturn_overlap import uturn_overlap
from biasgen.ops import philox
from biasgen.ops.tree_map import tree_map
from biasgen.ops.tree_posterior import tree_posterior
from biasgen.ops.tree_posterior_sample import tree_posterior_sample
from biasgen.trees import trajectories

CLOSE = 2e-5  # twice what docs/exactness.md promises of belief propagation
DOUBLE = 1e-9  # sums in double whose order is left to NumPy
SCHEDULE = Schedule.linear(100)


def _table(seed, *shape):
    made = np.random.default_rng(seed).gamma(1.0, size=shape)
    made[made < 0.3] = 0
    made.reshape(-1, shape[-2] * shape[-1])[:, 0] += 1e-3
    return made / made.sum((-2, -1), keepdims=True)


@cache
def grammars():
    """Of every constructor."""
    rng = np.random.default_rng(4)
    rules = np.array(
        [(p, a, b) for p in range(3) for a in range(3) for b in range(3) if (a + b) % 2 == p % 2]
    )
    weights = rng.random(len(rules))
    weights /= np.bincount(rules[:, 0], weights)[rules[:, 0]]
    paper = TreeGrammar.random()
    return {
        "paper": paper,
        "random": TreeGrammar.random(q=5, depth=3, q_eff=2, sigma=2.0, seed=7),
        "hierarchy": TreeGrammar.random_hierarchy(8, 3, 2, 3),
        "shared hierarchy": TreeGrammar.random_hierarchy(6, 2, 2, 3, seed=1, shared=True),
        "3 children": TreeGrammar.random_hierarchy(5, 3, 3, 2, seed=2),
        "4 children": TreeGrammar.random_hierarchy(4, 3, 4, 2, seed=3),
        "own rules": TreeGrammar.from_rules(3, 3, rules, weights, root=np.array([0.2, 0.0, 0.8])),
        "table": TreeGrammar.from_transitions(3, _table(5, 4, 4, 4)),
        "tables": TreeGrammar.from_transitions(3, list(_table(6, 3, 4, 4, 4))),
        "BP_2": paper.factorized(2),
        "BP_4": paper.factorized(4),
        "floored": TreeGrammar.random(q=4, depth=2, q_eff=2).floored(1e-16),
    }


def field(name, B=5, seed=0):
    """(B, L, Q) float64."""
    grammar = grammars()[name]
    return 3 * np.random.default_rng(seed).normal(size=(B, grammar.length, grammar.q))


def noised(name, level, seed=0, n=5):
    """Noised one-hot rows of the grammar, float32."""
    grammar = grammars()[name]
    x = np.eye(grammar.q)[grammar.sample(n, seed=seed)]
    z = np.random.default_rng(seed).normal(size=x.shape)
    return torch.from_numpy(level.scale * x + level.sigma * z).float()


def calls():
    """(name, function, tolerance) of each call."""
    yield from _grammars()
    yield from _posteriors()
    yield from _denoisers()
    yield from _noise()
    yield from _controls()


def _grammars():
    for name, g in grammars().items():
        parts = g.q, g.depth, g.k, g.rules, g.weights, g.level_offsets, g.root, g.channels
        yield f"grammar {name}", lambda parts=parts: parts, DOUBLE
        yield f"sample {name}", lambda g=g: g.sample(7, seed=3, offset=11), None
    for name in ("paper", "own rules", "3 children", "BP_2"):
        g = grammars()[name]
        tokens = np.concatenate([g.sample(4, seed=1), g.sample(4, seed=1)[:, ::-1]])
        yield f"log_prob {name}", lambda g=g, t=tokens: g.log_prob(t), CLOSE
        yield f"is_grammatical {name}", lambda g=g, t=tokens: g.is_grammatical(t), None
    for name in ("paper", "tables"):
        yield f"transitions {name}", lambda n=name: grammars()[n].transitions, DOUBLE
    yield (
        "field",
        lambda: grammars()["paper"].field(noised("paper", Level(0.6, 0.8)), Level(0.6, 0.8)),
        DOUBLE,
    )


def _posteriors():
    for name in ("paper", "own rules", "3 children", "tables", "BP_2"):
        for levels in (None, "leaves", "all", "rules"):
            yield (
                f"posterior {name}, {levels}",
                lambda n=name, levels=levels: grammars()[n].posterior(field(n), levels),
                CLOSE,
            )
    paper, BP_2 = grammars()["paper"], grammars()["BP_2"]
    masked = paper.sample(5, seed=2)
    masked[:, ::3] = -1
    x = field("paper")
    yield "posterior of tokens", lambda: paper.posterior(tokens=masked), CLOSE
    yield "posterior of tokens and field", lambda: paper.posterior(x, tokens=masked), CLOSE
    yield (
        "posterior of the authors' masks",
        lambda: paper.posterior(tokens=np.where(masked < 0, 7, masked), compat="paper"),
        CLOSE,
    )
    for T in (0.5, 2.0):
        yield f"posterior T={T}", lambda T=T: paper.posterior(x, "all", temperature=T), CLOSE
        yield f"posterior BP_2 T={T}", lambda T=T: BP_2.posterior(x, temperature=T), CLOSE
    impossible = x.copy()
    impossible[1, :2] = -np.inf
    yield "posterior of the impossible", lambda: paper.posterior(impossible), CLOSE
    yield "posterior of one field", lambda: paper.posterior(x[0].astype(np.float32)), CLOSE
    yield "posterior of a tensor", lambda: paper.posterior(torch.from_numpy(x)), CLOSE
    yield "gradient of log_z", _gradient, CLOSE
    own = TreeGrammar(3, 3, grammars()["own rules"].rules, grammars()["own rules"].weights)
    y = field("own rules")
    yield "op tree_posterior", lambda: tree_posterior(y, own.tree), CLOSE
    yield "op tree_map", lambda: tree_map(y, own.tree), CLOSE
    yield (
        "op tree_posterior_sample",
        lambda: tree_posterior_sample(y, own.tree, 2, seed=5),
        None,
    )
    for name in ("paper", "own rules", "3 children", "BP_2"):
        g, x = grammars()[name], field(name)
        yield f"posterior_sample {name}", lambda g=g, x=x: g.posterior_sample(x, 3, seed=4), None
        yield f"map_estimate {name}", lambda g=g, x=x: g.map_estimate(x), CLOSE
    yield (
        "posterior_sample of tokens",
        lambda: paper.posterior_sample(None, 2, tokens=masked, temperature=0.7),
        None,
    )
    yield "map_estimate of tokens", lambda: paper.map_estimate(tokens=masked), CLOSE


def _gradient():
    x = torch.from_numpy(field("paper")).requires_grad_()
    (gradient,) = torch.autograd.grad(grammars()["paper"].posterior(x).log_z.sum(), x)
    return gradient


def _denoisers():
    level = SCHEDULE.at(40)
    x = noised("paper", level)
    for k in (0, 2):
        denoiser = TreeDenoiser(grammars()["paper"], factorized=k)
        yield f"TreeDenoiser BP_{k}", lambda d=denoiser: d(x, level), CLOSE
        yield f"TreeDenoiser BP_{k} score", lambda d=denoiser: d.score(x, level), CLOSE
        yield f"TreeDenoiser BP_{k} posterior", lambda d=denoiser: d.posterior(x, level), CLOSE
    paper = TreeDenoiser(grammars()["paper"], compat="paper")
    low = SCHEDULE.at(6)
    random = torch.eye(6)[torch.from_numpy(np.random.default_rng(1).integers(0, 6, (5, 16)))]
    yield "TreeDenoiser of the authors", lambda: paper(low.scale * random, low), CLOSE
    deep = TreeDenoiser(grammars()["4 children"])
    y = noised("4 children", level)
    yield "TreeDenoiser log_density", lambda: deep.log_density(y.numpy(), level), CLOSE
    starts = grammars()["paper"].sample(12, seed=8)
    samples = {"steps": 10, "seed": 3}
    sample = trajectories.sample_tokens
    yield (
        "trajectories",
        lambda: sample(grammars()["paper"], SCHEDULE, 12, offset=5, **samples),
        None,
    )
    yield (
        "trajectories from strings",
        lambda: sample(grammars()["paper"], SCHEDULE, 12, start=starts, t_start=50, **samples),
        None,
    )
    yield (
        "trajectories BP_2",
        lambda: sample(TreeDenoiser(grammars()["BP_2"]), SCHEDULE, 9, **samples),
        None,
    )
    exact = TreeDenoiser(grammars()["paper"])
    yield "uturn_overlap", lambda: uturn_overlap(exact, SCHEDULE, starts, 30), DOUBLE
    network = diffusion.as_denoiser(lambda x, level: torch.softmax(4 * x, -1), "x0")
    yield (
        "uturn_overlap of a network",
        lambda: uturn_overlap(network, SCHEDULE, starts, 30, Q=6, seed=2),
        DOUBLE,
    )


def _noise():
    schedules = {
        "linear": Schedule.linear(),
        "vp": Schedule.vp(np.linspace(0.98, 0, 9)),
        "flow": Schedule.flow(10),
        "edm": Schedule.edm(12, rho=5.0),
        "diffusers": Schedule.from_diffusers(
            SimpleNamespace(alphas_cumprod=torch.linspace(0.99, 0.01, 8))
        ),
    }
    for name, schedule in schedules.items():
        steps = np.unique(np.linspace(1, schedule.T, 5).astype(int))
        yield (
            f"schedule {name}",
            lambda s=schedule, at=steps: (
                s.at(at),
                s.at(2),
                s.posterior(s.T, 2),
                s.posterior(3, 0),
            ),
            DOUBLE,
        )
    numbers = {"n": 3, "count": 10, "offset": 1 << 33, "step": 7}
    yield "philox words", lambda: philox.words(1 << 40, **numbers), None
    yield "philox uniforms", lambda: philox.uniforms(5, **numbers, purpose=philox.REVERSE), None
    yield "philox normals", lambda: philox.normals(5, **numbers), 1e-6
    yield "reverse_times", lambda: diffusion.reverse_times(77, 13), None
    network = diffusion.as_denoiser(lambda x, level: torch.tanh(x), "x0")
    yield (
        "sample_tokens",
        lambda: diffusion.sample_tokens(network, SCHEDULE, 7, shape=(6, 4), steps=9, batch_size=3),
        None,
    )
    x = torch.linspace(-2, 2, 12).reshape(3, 4)
    yield (
        "reverse_trajectory",
        lambda: diffusion.reverse_trajectory(network, SCHEDULE, x, [100, 60, 20, 0], seed=3),
        1e-5,
    )
    for prediction in ("x0", "eps", "v", "score", "flow"):
        yield (
            f"as_denoiser {prediction}",
            lambda p=prediction: diffusion.as_denoiser(lambda x, level: 0.3 * x, p)(
                x, SCHEDULE.at(60)
            ),
            1e-6,
        )


def _controls():
    train = grammars()["paper"].sample(40, seed=5).astype(np.int64)
    fresh = grammars()["paper"].sample(30, seed=6).astype(np.int64)
    exact, empirical = TreeDenoiser(grammars()["paper"]), EmpiricalDenoiser(train)
    yield "mix_samples", lambda: controls.mix_samples(fresh, train, 0.4, seed=2), None
    yield (
        "mix_samples of tensors",
        lambda: controls.mix_samples(torch.from_numpy(fresh), torch.from_numpy(train), 0.2),
        None,
    )
    yield "uturn", lambda: controls.uturn(train, exact, SCHEDULE, 35, seed=1, offset=4), None
    rows = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    of_rows = EmpiricalDenoiser(np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32))
    yield "uturn of floats", lambda: controls.uturn(rows, of_rows, SCHEDULE, 25), 1e-4
    level = SCHEDULE.at(60)
    x = noised("paper", level, seed=9).double()
    mixture = controls.MixtureDenoiser(exact, empirical, 0.3)
    yield "MixtureDenoiser", lambda: (mixture(x, level), mixture.log_density(x, level)), CLOSE
    constant = controls.ConstantMixture(exact, empirical, 0.3)
    yield "ConstantMixture", lambda: constant(x, level), CLOSE
    batches = controls.fresh_batches(grammars()["paper"].sample, 3, seed=2, offset=10)
    yield "fresh_batches", lambda: [next(batches), next(batches)], None
