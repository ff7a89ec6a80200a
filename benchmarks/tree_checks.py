"""Every CUDA tree kernel against its oracle.

On a GPU gpu/trees.py runs the checks, on the host shim tests/test_cuda_trees.py.

A check raises AssertionError where a promise is broken. kernels: tree_kernels.TreeKernels; device: where its tensors lie.
"""
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from biasgen.backends import _cuda_trees
from biasgen.diffusion import sampler
from biasgen.diffusion.process import reverse_step
from biasgen.diffusion.schedule import Schedule
from biasgen.ops import philox
from biasgen.oracle import tree_posterior as oracle
from biasgen.oracle.tree_evidence import hard_fields
from biasgen.results import TreePosterior
from biasgen.testing import assert_posterior_close
from biasgen.trees.denoiser import TreeDenoiser
from biasgen.trees.grammar import TreeGrammar
from biasgen.trees.trajectories import launch_arguments, step_levels

SCALES = (0.1, 1000.0, 1e6)
# depth, symbols, rules a symbol: on the chip with 32, 16 .. 1 samples a block; messages in scratch; rules in global memory; both.
SHAPES = ((1, 1, 1), (1, 3, 3), (2, 5, 4), (3, 6, 5), (5, 7, 6), (7, 6, 4), (10, 2, 2), (10, 6, 4), (3, 64, 9), (4, 64, 64), (8, 64, 9))


def posterior(kernels, grammar: TreeGrammar, log_field: np.ndarray, device: str = "cpu") -> TreePosterior:
    field = torch.from_numpy(np.ascontiguousarray(log_field)).to(device)
    return on_host(_cuda_trees.tree_posterior(kernels, field, grammar.tree))


def on_host(found: TreePosterior) -> TreePosterior:
    """Marginals of the leaves, log_z and impossible as arrays."""
    return TreePosterior(
        *(part.cpu().numpy() for part in (found.marginals, found.log_z, found.impossible))
    )


def check_paper_tree(kernels, device: str, B: int, grammar: TreeGrammar | None = None) -> None:
    """Every kind of evidence at every scale, both field types."""
    grammar = grammar or TreeGrammar.random()
    for log_field in hard_fields(B, grammar.depth, grammar.rules, grammar.weights, n=B, scales=SCALES).values():
        for typed in (log_field, log_field.astype(np.float32)):
            found = posterior(kernels, grammar, typed, device)
            assert_posterior_close(found, oracle.tree_posterior(typed, grammar.rules, grammar.weights))


def random_grammar(seed: int, depth: int, symbols: int, per_parent: int) -> TreeGrammar:
    """Unambiguous, rules in no order; a twentieth of the weights is tiny or zero."""
    rng = np.random.default_rng([seed, depth, symbols])
    pairs = rng.permutation(symbols**2)[: symbols * per_parent]
    rules = np.stack([np.repeat(np.arange(symbols), per_parent), *np.divmod(pairs, symbols)], 1).astype(np.int16)
    weights = rng.dirichlet(np.ones(per_parent), symbols)
    if per_parent > 2:
        weights[::20, 0], weights[10::20, 1] = 1e-200, 0.0
        weights /= weights.sum(1, keepdims=True)
    order = rng.permutation(len(rules))
    return TreeGrammar(symbols, depth, rules[order], weights.ravel()[order])


def random_field(grammar: TreeGrammar, size: int, dtype: str = "float64") -> np.ndarray:
    """(size, L, Q) normal numbers at three strengths, some excluded, the first leaf of every fourth row altogether."""
    rng = np.random.default_rng(size)
    shape = size, grammar.length, grammar.q
    field = rng.choice([0.1, 3, 1e3], (size, 1, 1)) * rng.standard_normal(shape)
    field[rng.random(shape) < 0.03] = -np.inf
    field[3::4, 0] = -np.inf
    return field.astype(dtype)


def check_any_tree(kernels, device: str, shapes=SHAPES, sizes=(1, 5)) -> None:
    """Shapes that take every path of the kernel with rules at run time."""
    for shape in shapes:
        grammar = random_grammar(0, *shape)
        for size, dtype in zip(sizes, ("float64", "float32"), strict=True):
            field = random_field(grammar, size, dtype)
            found = posterior(kernels, grammar, field, device)
            assert_posterior_close(found, oracle.tree_posterior(field, grammar.rules, grammar.weights))


def check_steps(kernels, device: str, n: int = 9, t_start: int = 500, steps: int = 8) -> None:
    """One fused step after the other, each from the CPU's x_t: denoiser, score, log-density, noise and the step itself."""
    grammar, schedule = TreeGrammar.random(), Schedule.linear()
    denoiser = TreeDenoiser(grammar)
    times = sampler.reverse_times(t_start, steps)
    x = torch.from_numpy(philox.normals(7, n=n, count=96, purpose=philox.START)).reshape(n, 16, 6)
    for t, s, level in zip(times, times[1:], step_levels(grammar, schedule, times), strict=False):
        noise = torch.from_numpy(philox.normals(7, n=n, count=96, offset=3, step=t, purpose=philox.REVERSE)).reshape(n, 16, 6)
        found = {}
        for name, given in (("counter", None), ("buffer", noise[None].to(device))):
            found[name] = _cuda_trees.tree_trajectory(
                kernels,
                grammar.tree,
                level[None].copy(),
                n=n,
                device=torch.device(device),
                seed=7,
                offset=3,
                x=x.to(device),
                noise=given,
                outputs=("end", "strings", "x0_hat", "score", "log_density"),
            )
        got = {name: value.cpu() for name, value in found["buffer"].items()}
        x0_hat, log_density = denoiser.posterior(x, schedule.at(t))
        np.testing.assert_allclose(got["x0_hat"], x0_hat, rtol=2e-5, atol=1e-30)
        np.testing.assert_allclose(got["log_density"], log_density, rtol=1e-6, atol=2e-5)
        score = denoiser.score(x, schedule.at(t))
        np.testing.assert_allclose(got["score"], score, rtol=1e-6, atol=2e-5 * schedule.at(t).gamma)
        x = reverse_step(x, x0_hat, schedule, t, s, noise if s else None)
        np.testing.assert_allclose(got["end"], x, rtol=2e-5, atol=3e-6)
        np.testing.assert_allclose(found["counter"]["end"].cpu(), got["end"], rtol=1e-6, atol=2e-6)
        np.testing.assert_array_equal(got["strings"], got["end"].argmax(-1))


def check_trajectories(kernels, device: str, n: int, steps: int) -> None:
    """Whole generations and U-turns: the strings of the CPU sampler, but for the odd row that noise within 4 ulp may turn."""
    grammar, schedule = TreeGrammar.random(), Schedule.linear()
    for start, t_start in ((None, None), (grammar.sample(n, seed=5), 150)):
        levels, begin = launch_arguments(grammar, schedule, steps=steps, start=start, t_start=t_start, device=torch.device(device))
        noise = [philox.normals(2**40 + 3, n=n, count=96, offset=2**33, step=int(t), purpose=philox.REVERSE) for t in levels["t"]]
        buffer = torch.from_numpy(np.stack(noise)).reshape(steps, n, 16, 6).to(device)
        begin |= {"n": n, "device": torch.device(device), "seed": 2**40 + 3, "offset": 2**33}
        found, read = (
            _cuda_trees.tree_trajectory(kernels, grammar.tree, levels, noise=given, **begin)[
                "strings"
            ]
            for given in (None, buffer)
        )
        assert int((found != read).any(1).sum()) <= n // 100, "strings: noise from a buffer leads elsewhere"
        expected = sampler.sample_tokens(
            TreeDenoiser(grammar), schedule, n, shape=(16, 6), steps=steps, seed=2**40 + 3, offset=2**33, start=start, t_start=t_start
        )
        different = int((found.cpu() != expected).any(1).sum())
        assert different <= n // 100, f"strings: {different} of {n} differ from the CPU's"


def check_samples(kernels, device: str, n: int = 70) -> None:
    """Data equal to TreeGrammar.sample, also where a parent's weights fall short of 1 and its last rule takes the rest."""
    paper = TreeGrammar.random()
    short = TreeGrammar.of_tree(replace(paper.tree, weights=paper.tree.weights / 2))
    for grammar in (paper, short, TreeGrammar.random(q=5, depth=1, q_eff=1), TreeGrammar.random(q=64, depth=7, q_eff=9)):
        found = _cuda_trees.tree_sample(
            kernels, grammar.tree, n, device=torch.device(device), seed=2**40 + 7, offset=2**33
        )
        np.testing.assert_array_equal(found.cpu(), grammar.sample(n, seed=2**40 + 7, offset=2**33))


def check_draws(kernels, device: str, n: int = 5) -> None:
    """Posterior strings equal to the oracle's, but where a number lies within rounding of a step of its distribution function."""
    for grammar in (TreeGrammar.random(), random_grammar(1, 3, 9, 4), random_grammar(1, 2, 64, 9), random_grammar(1, 9, 6, 3)):
        log_field = random_field(grammar, 3)
        numbers = [philox.uniforms(5, n=3, count=grammar.length, step=k, purpose=philox.POSTERIOR) for k in range(n)]
        expected, margins = oracle.draw_strings(log_field, grammar.rules, grammar.weights, np.stack(numbers, 1))
        field = torch.from_numpy(log_field).to(device)
        found = _cuda_trees.tree_posterior_sample(kernels, field, grammar.tree, n, 5).cpu().numpy()
        assert found.shape == expected.shape
        clear = margins > 1e-5
        assert clear.mean() > 0.5
        np.testing.assert_array_equal(found[clear], expected[clear])


def check_cancellation(kernels, device: str) -> None:
    """Fields of 1e12 and opposite sign on different leaves: log_z keeps what is left of their sum."""
    rng = np.random.default_rng(0)
    for grammar in (TreeGrammar.random(), random_grammar(0, 3, 5, 4), random_grammar(0, 7, 6, 4)):
        field = random_field(grammar, 7)
        large = 1e12 * rng.standard_normal((7, grammar.length, 1))
        field += large - rng.permuted(large, axis=1)
        found = posterior(kernels, grammar, field, device)
        assert_posterior_close(found, oracle.tree_posterior(field, grammar.rules, grammar.weights))


def check_refusals(kernels, device: str) -> None:
    """NaN, +inf and too large a spread, also where the exponents wrap: the first such sample is named, the others stay right."""
    for grammar in (TreeGrammar.random(), random_grammar(0, 3, 5, 4), random_grammar(0, 10, 2, 2)):
        field = random_field(grammar, 40)
        field[17, -1, 0], field[20, 1, 1] = np.nan, np.inf
        field[30, :, 0], field[30, :, 1] = 0.0, -1e300
        field[33, 0, :2] = 0.0, -(2.0**30) * np.log(2)
        field[35, 0, :2] = 0.0, -(2.0**29)
        field = torch.from_numpy(field).to(device)
        for bad in (17, 20, 30, 33):
            message = ""
            try:
                _cuda_trees.tree_posterior(kernels, field, grammar.tree)
            except ValueError as error:
                message = str(error)
            assert message.startswith("log_field: want"), f"sample {bad} was not refused"
            assert f"in sample {bad}" in message, message
            field[bad] = 0.0
        found = on_host(_cuda_trees.tree_posterior(kernels, field, grammar.tree))
        assert_posterior_close(
            found, oracle.tree_posterior(field.cpu().numpy(), grammar.rules, grammar.weights)
        )


def check_normals(kernels, device: str, n: int = 600) -> None:
    """Start noise within 4 ulp of ops/philox.py. At level (0, -1) the score is the start itself."""
    grammar, level = TreeGrammar.random(), np.zeros(1, _cuda_trees.LEVEL)
    level["one_over_variance"] = -1
    found = (
        _cuda_trees.tree_trajectory(
            kernels,
            grammar.tree,
            level,
            n=n,
            device=torch.device(device),
            seed=2**63 + 5,
            offset=2**40 - 9,
            start=(0.0, 1.0, 2**32 - 1, philox.FORWARD),
            outputs=("score",),
        )["score"]
        .cpu()
        .numpy()
        .reshape(n, 96)
        .astype(np.float32)
    )
    expected = philox.normals(2**63 + 5, n=n, count=96, offset=2**40 - 9, step=2**32 - 1, purpose=philox.FORWARD)
    np.testing.assert_array_max_ulp(found, expected, 4)


def check_large_batch(kernels, device: str, B: int) -> None:
    """A batch that fills any device: every sample has the bits that it has in a batch of 64."""
    for grammar, size in ((TreeGrammar.random(), B // 64), (random_grammar(0, 5, 7, 6), B // 256)):
        field = torch.from_numpy(random_field(grammar, 64, "float32")).to(device)
        alone = _cuda_trees.tree_posterior(kernels, field, grammar.tree)
        found = _cuda_trees.tree_posterior(kernels, field.repeat(size, 1, 1), grammar.tree)
        for name in ("marginals", "log_z", "impossible"):
            part, wanted = getattr(found, name), getattr(alone, name)
            assert (part.unflatten(0, (size, 64)) == wanted).all(), "bits depend on the batch"


def checks(kernels, device: str, n: int) -> dict[str, Callable[[], None]]:
    """Every check, by name; n: samples of the paper's tree, whose oracle takes most of the time."""
    return {
        "paper tree": partial(check_paper_tree, kernels, device, n),
        "any tree": partial(check_any_tree, kernels, device),
        "steps": partial(check_steps, kernels, device),
        "trajectories": partial(check_trajectories, kernels, device, n, steps=10),
        "samples": partial(check_samples, kernels, device),
        "draws": partial(check_draws, kernels, device),
        "cancellation": partial(check_cancellation, kernels, device),
        "refusals": partial(check_refusals, kernels, device),
        "normals": partial(check_normals, kernels, device),
        "large batch": partial(check_large_batch, kernels, device, 1024 * n),
    }
