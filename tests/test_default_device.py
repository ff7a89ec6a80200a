"""torch.set_default_device says where a caller's tensors are made, and must not move ours: answers
are the same under the default device "meta", whose tensors hold no numbers."""
import ast
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils import _device

import biasgen
from biasgen import backends
from biasgen.distances import DISTANCES
from biasgen.metrics.excess import excess
from biasgen.metrics.uturn_overlap import uturn_overlap
from biasgen.trees.trajectories import sample_tokens

PACKAGE = Path(biasgen.__file__).parent
MAKERS = {function.__name__ for function in _device._device_constructors()}
RNG = np.random.default_rng(0)
FLOATS, OTHERS = RNG.normal(size=(2, 40, 12)).astype(np.float32)
BYTES = RNG.integers(0, 6, (40, 12)).astype(np.uint8)
TOKENS = RNG.integers(0, 6, (24, 16))
GRAMMAR = biasgen.TreeGrammar.random()
SCHEDULE = biasgen.Schedule.linear(T=24)
FIELD = RNG.normal(size=(5, 16, 6))
BACKENDS = [name for name in ("cpu", "torch") if backends.load(name)[0] is not None]


def searches(backend):
    for distance in DISTANCES:
        rows = BYTES if distance == "hamming" else FLOATS
        train = biasgen.TrainingSet(rows[:30], distance)
        refused = backends.refusal(
            backend, "knn", device="cpu", dtype=train.prepared.dtype,
            distance=train.prepared.searched.distance,
        )  # fmt: skip
        named = None if refused else backend
        found = biasgen.knn(rows, train, 3, backend=named)
        yield found.distances, found.indices, found.tie_counts
        yield biasgen.knn(rows[:30], train, 2, exclude_self=True, backend=named).indices
        yield biasgen.nearest_credit(rows, train, backend=named).weights
        yield biasgen.range_count(rows, train, 2.0)
        yield biasgen.distance_histogram(rows, train, [0.0, 1.0, 9.0])
        yield biasgen.pairwise_distances(rows, rows[:9], distance=distance)
        yield biasgen.paired_distances(rows, rows[::-1], distance=distance)
    views = biasgen.TrainingSet(FLOATS.reshape(40, 3, 4), views=("identity", "hflip"))
    yield biasgen.knn(FLOATS.reshape(40, 3, 4), views, 2, backend=backend).indices
    streamed = biasgen.TrainingSet(FLOATS, max_memory=8 * 48 * 7)
    yield biasgen.knn(OTHERS, streamed, 2, backend=backend).indices


def denoising(backend):
    level = SCHEDULE.at(7)
    found = biasgen.EmpiricalDenoiser(FLOATS)(OTHERS[:5], level)
    yield found
    yield biasgen.EmpiricalDenoiser(TOKENS)(RNG.normal(size=(2, 16, 6)) * 0 + 0.1, level)
    x = torch.from_numpy(OTHERS[:5].astype(float)).requires_grad_()
    op = importlib.import_module("biasgen.ops.empirical_denoise").empirical_denoise
    found = op(x, torch.from_numpy(FLOATS), level.scale, level.sigma)
    found.log_density.sum().backward()
    yield x.grad


def posteriors(backend):
    ops = "biasgen.ops.tree_posterior"
    tree_posterior = importlib.import_module(ops).tree_posterior
    found = tree_posterior(FIELD, GRAMMAR.tree, backend=backend)
    yield found.marginals, found.log_z
    yield GRAMMAR.posterior(tokens=TOKENS).log_z
    yield GRAMMAR.posterior(tokens=TOKENS, compat="paper").log_z
    yield GRAMMAR.posterior_sample(FIELD, n=2, seed=1)
    yield GRAMMAR.map_estimate(FIELD)
    yield GRAMMAR.sample(5, seed=3)
    denoiser = biasgen.TreeDenoiser(GRAMMAR)
    yield denoiser(FIELD, SCHEDULE.at(3))
    yield sample_tokens(denoiser, SCHEDULE, 3, steps=4)
    yield float(uturn_overlap(denoiser, SCHEDULE, TOKENS, t0=4))


def metrics(backend):
    sets = {"gen": OTHERS, "train": FLOATS[:20], "heldout": FLOATS[20:]}
    for name in ("nn_auc", "nn_ks", "nn_wasserstein", "train_affinity"):
        yield float(getattr(biasgen, name)(**sets))
    yield biasgen.leakage(**sets).weights
    yield float(biasgen.near_copies(**sets))
    tables = FIELD.astype(float), FIELD + 1
    yield biasgen.loss_decomposition(*tables, exact=FIELD.tolist()).share.value
    yield float(excess(np.exp(FIELD), FIELD, FIELD + 0.1))


def same(found, wanted):
    if isinstance(found, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in found)
    if isinstance(found, tuple | list):
        return all(map(same, found, wanted))
    return np.array_equal(np.asarray(found), np.asarray(wanted))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("calls", [searches, denoising, posteriors, metrics])
def test_answers_are_the_same(calls, backend):
    wanted = [*calls(backend)]
    torch.set_default_device("meta")
    try:
        found = [*calls(backend)]
    finally:
        torch.set_default_device(None)
    assert len(found) == len(wanted)
    for i, pair in enumerate(zip(found, wanted, strict=True)):
        assert same(*pair), i


def unplaced(path):
    """Where a file makes tensors without a word about the device: line numbers."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "torch"
            and node.func.attr in MAKERS
            and "device" not in {keyword.arg for keyword in node.keywords}
        ):
            yield node.lineno


def test_every_tensor_that_is_made_names_its_device(tmp_path):
    """But in experiments, which make the CPU the default device themselves."""
    (tmp_path / "wrong.py").write_text("import torch\nx = torch.zeros(3, dtype=torch.int8)\n")
    assert [*unplaced(tmp_path / "wrong.py")] == [2]
    files = [path for path in PACKAGE.rglob("*.py") if "experiments" not in path.parts]
    assert len(files) > 100
    assert {str(path): lines for path in files if (lines := [*unplaced(path)])} == {}
