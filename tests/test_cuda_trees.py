"""The CUDA tree kernels without a GPU: on the host shim against their oracles, in several thread orders and under sanitizers."""
import importlib
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import tree_checks, tree_kernels
from benchmarks.host_reads import NoHostReads
from biasgen import _settings, backends
from biasgen.backends import _cuda_trees, cuda_backend
from biasgen.diffusion import sampler
from biasgen.diffusion.schedule import Schedule
from biasgen.ops.tree_posterior import tree_posterior
from biasgen.testing import assert_posterior_close
from biasgen.trees import trajectories
from biasgen.trees.denoiser import TreeDenoiser
from biasgen.trees.grammar import TreeGrammar

ROOT = Path(__file__).resolve().parents[1]
SANITIZE = ["-g", "-O0", "-fsanitize=address,undefined", "-fsanitize-sections=biasgen_shared", "-fno-sanitize-recover=all"]
PAPER = TreeGrammar.random()
CPU = torch.device("cpu")


def need(tool):
    """Skips where a tool is missing; fails where BIASGEN_REQUIRE_BACKENDS asks for it."""
    if shutil.which(tool) is None:
        (pytest.fail if tool in _settings.required_backends() else pytest.skip)(f"{tool} is not installed here")


@pytest.fixture(params=[0, 1, 2])
def ordered(request, kernels):
    kernels.set_fibre_order(request.param)
    return kernels


@pytest.mark.parametrize("B", [1, 3, 37])
def test_paper_tree(ordered, B):
    tree_checks.check_paper_tree(ordered, "cpu", B)


def test_any_tree(ordered):
    tree_checks.check_any_tree(ordered, "cpu")
    tree_checks.check_any_tree(ordered, "cpu", shapes=[(2, 5, 4), (5, 7, 6)], sizes=(33, 70))


@pytest.mark.parametrize("check", ["steps", "samples", "draws", "cancellation", "refusals", "normals"])
def test_the_other_kernels(ordered, check):
    getattr(tree_checks, f"check_{check}")(ordered, "cpu")


def test_trajectories(ordered):
    tree_checks.check_trajectories(ordered, "cpu", 37, steps=12)


def test_steps_of_a_u_turn_at_the_smallest_noise(kernels):
    """Field 5000 times x_t at t = 1."""
    tree_checks.check_steps(kernels, "cpu", t_start=4, steps=4)


@pytest.mark.parametrize("options", [[], SANITIZE], ids=["plain", "sanitized"])
def test_the_host_shim_catches_what_it_should(options, tmp_path):
    need("g++")
    program = tmp_path / "host_shim_test"
    subprocess.run([*tree_kernels.HOST, *options, ROOT / "csrc/tests/host_shim_test.cpp", "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "host_shim_test: 0 failures\n"


@pytest.mark.parametrize("options", [[], SANITIZE], ids=["plain", "sanitized"])
def test_the_program_that_compute_sanitizer_runs(options, tmp_path):
    """Of all kernels, their memory on the chip and in scratch; on a device benchmarks/gpu/sanitizer.py compiles it."""
    need("g++")
    program = tree_kernels.host_test(tmp_path, *options)
    for order in ("0", "1", "2"):
        done = subprocess.run([program, order], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.fullmatch(r"tree_kernels_test: \d{5,} checks hold\n", done.stdout)


def test_golden_values(kernels):
    """Numbers of the authors' code for the same field."""
    field = 2 * np.sin(1.3 * np.arange(16)[:, None] + 0.7 * np.arange(6))
    got = tree_checks.posterior(kernels, PAPER, field[None])
    first = [0.024565453924, 0.380527280980, 0.054648962120, 0.067372361242, 0.455357737466, 0.017528204268]
    last = [0.108828325109, 0.466004940234, 0.349115216853, 0.016623398507, 0.051386916677, 0.008041202619]
    np.testing.assert_allclose(got.marginals[0, [0, 15]], [first, last], rtol=1e-6)
    assert float(np.square(got.marginals, dtype=float).sum()) == pytest.approx(7.283820599382, rel=1e-6)


@pytest.mark.parametrize("grammar", [PAPER, tree_checks.random_grammar(0, 5, 7, 6), tree_checks.random_grammar(0, 7, 6, 4)])
def test_bits_depend_on_neither_order_nor_batch_mates(kernels, grammar):
    field = 30 * np.random.default_rng(0).standard_normal((37, grammar.length, grammar.q))
    kernels.set_fibre_order(0)
    want = tree_checks.posterior(kernels, grammar, field)
    for order in (1, 2, 3):
        kernels.set_fibre_order(order)
        got = tree_checks.posterior(kernels, grammar, field)
        np.testing.assert_array_equal(got.marginals, want.marginals)
        np.testing.assert_array_equal(got.log_z, want.log_z)
    for rows in (slice(0, 1), slice(7, 10), slice(30, 37)):
        alone = tree_checks.posterior(kernels, grammar, field[rows])
        np.testing.assert_array_equal(alone.marginals, want.marginals[rows])
        np.testing.assert_array_equal(alone.log_z, want.log_z[rows])


def test_the_papers_kernel_takes_any_weights_and_fewer_rules_in_any_order(kernels):
    rng = np.random.default_rng(0)
    order = rng.permutation(24)
    weights = rng.dirichlet(np.ones(4), 6)
    tree_checks.check_paper_tree(kernels, "cpu", 8, TreeGrammar(6, 4, PAPER.rules[order], weights.ravel()[order]))
    weights[:, 1] = 1e-300
    weights[:, 2] = 0.0
    weights /= weights.sum(1, keepdims=True)
    few = TreeGrammar(6, 4, PAPER.rules[order], weights.ravel()[order])
    tree_checks.check_paper_tree(kernels, "cpu", 8, few)
    assert kernels.tree_posterior_scratch(8, 16, 6, few.tree.arrays, 0) == 0


def test_another_grammar_of_the_papers_shape_takes_the_other_kernel(kernels):
    rules = PAPER.rules.copy()
    rules[3, 1:] = 0, 0   # a pair that the paper's grammar forbids
    tree_checks.check_paper_tree(kernels, "cpu", 8, TreeGrammar(6, 4, rules, PAPER.weights))


def test_field_at_an_odd_address(kernels):
    storage = torch.randn(1 + 96 * 3, generator=torch.Generator().manual_seed(0))
    shifted = storage[1:].reshape(3, 16, 6)
    got, want = (
        _cuda_trees.tree_posterior(kernels, f, PAPER.tree) for f in (shifted, shifted.clone())
    )
    for part in ("marginals", "log_z", "impossible"):
        assert torch.equal(getattr(got, part), getattr(want, part))


def test_no_rows(kernels):
    for grammar in (PAPER, tree_checks.random_grammar(0, 3, 5, 4)):
        none = np.zeros((0, grammar.length, grammar.q))
        assert tree_checks.posterior(kernels, grammar, none).marginals.shape == none.shape
    assert _cuda_trees.tree_sample(kernels, PAPER.tree, 0, device=CPU).shape == (0, 16)


def test_scratch_is_bounded(kernels):
    arrays = PAPER.tree.arrays
    assert kernels.tree_posterior_scratch(10**6, 16, 9, arrays, 0) == 0
    deep = kernels.tree_posterior_scratch(10**9, 1024, 64, arrays, 0)
    assert 2**29 < deep <= 2**30
    assert (
        kernels.tree_posterior_scratch(1, 1024, 64, arrays, 0)
        == ((3 * 1024 - 2) * 64 + 1) * 8 + 1024 * 24
    )


def test_launches_refuse_what_they_cannot_do(kernels):
    grammar = tree_checks.random_grammar(0, 3, 5, 4)
    for L, Q in ((3, 5), (2048, 5), (8, 65), (8, 0)):
        with pytest.raises(RuntimeError, match=r"^log_field: want L = 2, 4, ... 1024 leaves and Q"):
            kernels.tree_posterior(1, L, Q, grammar.tree.arrays, 0, 0, False, *[0] * 9)
    with pytest.raises(RuntimeError, match=r"^log_field: want a 16-byte aligned pointer"):
        kernels.tree_posterior(1, 8, 5, grammar.tree.arrays, 0, 8, False, *[0] * 9)
    level = np.zeros(1, _cuda_trees.LEVEL)
    with pytest.raises(RuntimeError, match=r"^rules: only those of TreeGrammar.random"):
        _cuda_trees.tree_trajectory(kernels, grammar.tree, level, n=1, device=CPU)
    with pytest.raises(ValueError, match=r"^levels: want at least one step"):
        _cuda_trees.tree_trajectory(kernels, PAPER.tree, level[:0], n=1, device=CPU)
    x = torch.zeros(3, 16, 6)
    x[2, 5, 1] = torch.nan
    level["gamma"], level["c0"] = 1.0, 1.0
    with pytest.raises(ValueError, match=r"^x: want finite numbers .* not so in sample 2"):
        _cuda_trees.tree_trajectory(kernels, PAPER.tree, level, n=3, device=CPU, x=x)


def test_impossible_evidence_draws_no_string(kernels):
    field = torch.zeros(3, 16, 6)
    field[1] = torch.where(torch.arange(6) == 0, 0.0, -torch.inf)   # (0, 0) has no parent
    drawn = _cuda_trees.tree_posterior_sample(kernels, field, PAPER.tree, 4, 0)
    assert (drawn[1] == -1).all()
    assert PAPER.is_grammatical(drawn[[0, 2]].reshape(-1, 16)).all()


def test_while_a_stream_is_captured_nothing_is_read_back(kernels, monkeypatch):
    field = torch.zeros(3, 16, 6)
    field[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="in sample 1, leaf 2"):
        _cuda_trees.tree_posterior(kernels, field, PAPER.tree)
    with pytest.raises(AssertionError, match="_local_scalar_dense waits for the device"), NoHostReads():
        _cuda_trees.tree_posterior(kernels, field, PAPER.tree)
    monkeypatch.setattr(_cuda_trees, "is_capturing", lambda device: True)
    with NoHostReads():
        found = _cuda_trees.tree_posterior(kernels, field, PAPER.tree)
    assert (
        found.marginals.isnan().all((1, 2)).tolist()
        == found.log_z.isnan().tolist()
        == [False, True, False]
    )
    assert not found.impossible.any()
    with pytest.raises(RuntimeError, match=r"^backend: cuda copies a grammar .* call once before"):
        _cuda_trees.tree_posterior(kernels, field, TreeGrammar.random(seed=99).tree)


def test_a_graph_can_capture_what_a_user_calls(kernels, monkeypatch):
    op = importlib.import_module("biasgen.ops.tree_posterior")
    field = torch.from_numpy(tree_checks.random_field(PAPER, 5))
    want = PAPER.posterior(field)
    tree_checks.posterior(kernels, PAPER, field.numpy())   # the call before the capture
    for module in (op, _cuda_trees):
        monkeypatch.setattr(module, "is_capturing", lambda device: True)
    with pytest.raises(ValueError, match=r"^log_field: only the cuda backend runs while a CUDA graph is captured, got torch, which"):
        tree_posterior(field, PAPER.tree, backend="torch")
    monkeypatch.setattr(cuda_backend, "_cuda", kernels)
    monkeypatch.setattr(op, "choose", lambda *_, **__: ("cuda", cuda_backend))
    with NoHostReads():
        got = PAPER.posterior(field)
    assert_posterior_close(tree_checks.on_host(got), want)


def test_what_a_graph_reads_outlives_the_cache(monkeypatch):
    monkeypatch.setattr(_cuda_trees, "_READ_BY_GRAPHS", {})
    monkeypatch.setattr(_cuda_trees, "is_capturing", lambda device: False)
    first = _cuda_trees._constant(b"grammar", CPU)
    assert _cuda_trees._READ_BY_GRAPHS == {}
    monkeypatch.setattr(_cuda_trees, "is_capturing", lambda device: True)
    assert _cuda_trees._constant(b"grammar", CPU) is first
    assert [*_cuda_trees._READ_BY_GRAPHS.values()] == [first]


def test_a_constant_belongs_to_the_device_that_is_current(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(_cuda_trees, "is_capturing", lambda device: False)
    monkeypatch.setattr(_cuda_trees, "_copied", lambda content, device: device)
    for asked, used in (("cpu", "cpu"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0")):
        assert _cuda_trees._constant(b"", torch.device(asked)) == torch.device(used)


def test_the_backend_has_the_op_and_refuses_without_a_device(kernels, monkeypatch):
    assert set(cuda_backend.OPS["tree_posterior"]["dtypes"]) == {"float32", "float64"}
    if backends.load("cuda")[0] is None:
        with pytest.raises(ValueError, match=r"^backend: none can run tree_posterior here; cuda: "):
            tree_posterior(np.zeros((16, 6)), PAPER.tree, backend="cuda")
    monkeypatch.setattr(cuda_backend, "_cuda", kernels)
    field, tree = torch.zeros(1, 16, 6), PAPER.tree
    assert abs(float(cuda_backend.tree_posterior(field, tree, "leaves").log_z[0])) < 1e-6
    assert torch.equal(
        cuda_backend.tree_posterior_sample(field, tree, 3, 1, None),
        _cuda_trees.tree_posterior_sample(kernels, field, tree, 3, 1)
    )
    assert np.array_equal(
        cuda_backend.tree_sample(tree, 5, device=CPU, seed=2), PAPER.sample(5, seed=2)
    )


class OnTheShim:
    """The cuda backend, with what it would put on a device on the CPU."""

    def __init__(self, kernels):
        self.kernels, self.calls = kernels, 0

    def tree_trajectory(self, tree, levels, *, device, **arguments):
        self.calls += 1
        assert device.type == "cuda"
        return _cuda_trees.tree_trajectory(self.kernels, tree, levels, device=CPU, **arguments)


def test_sample_tokens_takes_the_kernel_where_it_can(kernels, monkeypatch):
    schedule = Schedule.linear()
    want = sampler.sample_tokens(TreeDenoiser(PAPER), schedule, 7, shape=(16, 6), steps=9, seed=4, offset=2)
    assert torch.equal(trajectories.sample_tokens(PAPER, schedule, 7, steps=9, seed=4, offset=2), want)
    other = TreeGrammar.random(q=3, depth=2, q_eff=2)
    start = other.sample(5)
    turned = sampler.sample_tokens(TreeDenoiser(other), schedule, 5, shape=(4, 3), steps=9, start=start, t_start=90)
    assert torch.equal(trajectories.sample_tokens(other, schedule, 5, steps=9, start=start, t_start=90), turned)
    fake = OnTheShim(kernels)
    monkeypatch.setattr(backends, "load", lambda name: (fake, None))
    assert torch.equal(trajectories.sample_tokens(PAPER, schedule, 7, steps=9, seed=4, offset=2, device="cuda"), want)
    assert fake.calls == 1
    assert not trajectories.has_kernel(TreeGrammar.random(seed=1))
    with pytest.raises(ValueError, match=r"^start, t_start: want both or neither"):
        trajectories.sample_tokens(PAPER, schedule, 7, steps=9, t_start=90, device="cuda")
    with pytest.raises(ValueError, match=r"^offset: samples .* leave \[0, 2\*\*48\)"):
        trajectories.sample_tokens(PAPER, schedule, 7, steps=9, offset=2**48, device="cuda")
    with pytest.raises(ValueError, match=r"^start: want symbols 0..5, got 0..6"):
        trajectories.sample_tokens(PAPER, schedule, 1, steps=9, start=np.full((1, 16), 6) * np.eye(16)[0], t_start=90, device="cuda")
