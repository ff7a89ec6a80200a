"""The CUDA kernels of the probe without a GPU: on the host shim and through the compilers."""
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from biasgen import _settings

ROOT = Path(__file__).resolve().parents[1]
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fsanitize-sections=biasgen_shared", "-fno-sanitize-recover=all"]


def need(tool: str, present: bool) -> None:
    """Skips where a tool is missing; fails where BIASGEN_REQUIRE_BACKENDS asks for it."""
    if not present:
        (pytest.fail if tool in _settings.required_backends() else pytest.skip)(f"{tool} is not installed here")


@pytest.fixture(scope="module")
def probe():
    spec = importlib.util.spec_from_file_location("gpu_probe", ROOT / "benchmarks/gpu_probe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kernel(probe, tmp_path_factory):
    need("g++", shutil.which("g++") is not None)
    return probe.TreeKernel(probe.host_library(tmp_path_factory.mktemp("host")))


@pytest.mark.parametrize("B", [1, 3, 8, 37])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_tree_posterior_agrees_with_the_oracle(probe, kernel, order, B):
    kernel.library.set_fibre_order(order)
    probe.check_tree(kernel, "cpu", B)


def test_tree_posterior_golden_values(kernel):
    """Numbers of the authors' code (spec/tree.md, appendix A)."""
    i, a = np.meshgrid(np.arange(16), np.arange(6), indexing="ij")
    got = kernel(torch.from_numpy((2 * np.sin(1.3 * i + 0.7 * a)).astype(np.float32)[None]))
    first = [0.024565453924, 0.380527280980, 0.054648962120, 0.067372361242, 0.455357737466, 0.017528204268]
    last = [0.108828325109, 0.466004940234, 0.349115216853, 0.016623398507, 0.051386916677, 0.008041202619]
    np.testing.assert_allclose(got.marginals[0, [0, 15]], [first, last], rtol=3e-6)
    assert float(got.marginals.double().square().sum()) == pytest.approx(7.283820599382, rel=1e-6)


def test_tree_posterior_without_evidence_has_log_z_zero(kernel):
    got = kernel(torch.zeros(2, 16, 6))
    np.testing.assert_allclose(got.log_z, 0.0, atol=1e-6)
    first = [0.0845901244657686, 0.200066913346875, 0.0373714435961099, 0.0820189641385594, 0.3953089088101675, 0.2006436456425195]
    np.testing.assert_allclose(got.marginals[0, 0], first, rtol=1e-6)


def test_tree_posterior_leaf_with_every_symbol_excluded(kernel):
    log_field = torch.zeros(5, 16, 6)
    log_field[3, 7] = -torch.inf
    got = kernel(log_field)
    assert got.impossible.tolist() == [False, False, False, True, False]
    assert got.log_z[3] == -torch.inf
    assert not got.marginals[3].any()


def test_tree_posterior_bits_depend_on_neither_order_nor_batch_mates(kernel):
    log_field = torch.from_numpy(np.random.default_rng(0).normal(0, 30, (37, 16, 6)).astype(np.float32))
    kernel.library.set_fibre_order(0)
    want = kernel(log_field)
    for order in (1, 2, 3):
        kernel.library.set_fibre_order(order)
        got = kernel(log_field)
        assert torch.equal(got.marginals, want.marginals)
        assert torch.equal(got.log_z, want.log_z)
    for b in (0, 7, 36):
        alone = kernel(log_field[b : b + 1].clone())
        assert torch.equal(alone.marginals[0], want.marginals[b])
        assert alone.log_z[0] == want.log_z[b]


def test_tree_posterior_takes_weights_at_run_time(probe, kernel, monkeypatch):
    weights = np.random.default_rng(0).dirichlet(np.ones(4), 6).ravel()
    monkeypatch.setattr(kernel, "grammar", type(kernel.grammar)(6, 4, kernel.grammar.rules, weights))
    probe.check_tree(kernel, "cpu", 8)


def test_tree_posterior_refuses_what_it_cannot_do(kernel, monkeypatch):
    assert len(kernel(torch.zeros(0, 16, 6)).log_z) == 0
    with pytest.raises(RuntimeError, match=r"^log_field: want a 16-byte aligned pointer"):
        kernel(torch.zeros(97)[1:].reshape(1, 16, 6))
    grammar = kernel.grammar
    for column in range(3):
        rules = grammar.rules.copy()
        rules[-1, column] -= 1
        monkeypatch.setattr(kernel, "rules", rules)
        with pytest.raises(RuntimeError, match=r"^rules: not the list"):
            kernel(torch.zeros(1, 16, 6))
    monkeypatch.setattr(kernel, "rules", grammar.rules)
    monkeypatch.setattr(kernel, "grammar", type(grammar)(6, 4, grammar.rules, np.zeros(24)))
    with pytest.raises(RuntimeError, match=r"^weights: want"):
        kernel(torch.zeros(1, 16, 6))


@pytest.mark.parametrize("name", ["host_shim_test", "tree_posterior_on_host"])
@pytest.mark.parametrize("options", [[], SANITIZE], ids=["plain", "sanitized"])
def test_host_programs_pass(probe, name, options, tmp_path):
    need("g++", shutil.which("g++") is not None)
    source = ROOT / f"csrc/tests/{name}.cpp"
    subprocess.run([*probe.HOST, *options, "-DBIASGEN_STANDALONE", source, "-o", tmp_path / name], check=True)
    done = subprocess.run([tmp_path / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{name}: 0 failures\n"


@pytest.mark.parametrize("capability", [80, 90])
def test_cuda_sources_compile(probe, capability, tmp_path):
    need("nvcc", shutil.which("nvcc") is not None)
    assert probe.nvcc(capability, "-cubin", "-o", str(tmp_path / "tree.cubin")).endswith(" 0 bytes spilled")
    flags = [f"-arch=sm_{capability}", "-std=c++17", "-Werror=all-warnings", f"-I{ROOT}/csrc"]
    subprocess.run(["nvcc", *flags, "-c", f"{ROOT}/csrc/cuda/probe.cu", "-o", tmp_path / "probe.o"], check=True)


@pytest.mark.parametrize("missing", ["nvcc", "g++"])
def test_probe_says_which_tool_is_missing(probe, monkeypatch, missing):
    need("triton", importlib.util.find_spec("triton") is not None)
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == missing else f"/usr/bin/{tool}")
    monkeypatch.setattr(sys, "argv", ["gpu_probe.py"])
    with pytest.raises(SystemExit, match=f"^gpu_probe: {missing.replace('+', '.')} is not on PATH$"):
        probe.main()
