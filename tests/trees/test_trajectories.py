"""Samples of the exact denoiser, block by block: the rows of the plain loop, whatever the blocks and threads."""
import contextlib
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from biasgen import Schedule, TreeDenoiser, TreeGrammar, _settings, backends
from biasgen.diffusion import sampler
from biasgen.trees import trajectories

GRAMMAR, SCHEDULE = TreeGrammar.random(), Schedule.linear()
BLOCK = 50
N = 2 * BLOCK + 5     # in three turns of one thread, one each of three


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(trajectories, "BLOCK_NUMBERS", BLOCK * 96 + 95)


def plain(denoiser, n, **options):
    return sampler.sample_tokens(denoiser, SCHEDULE, n, shape=(16, 6), batch_size=n, **options)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("compat", [None, "paper"])
def test_the_rows_are_those_of_the_plain_loop(monkeypatch, threads, compat):
    monkeypatch.setattr(_settings, "_num_threads", threads)
    denoiser, options = TreeDenoiser(GRAMMAR, compat=compat), {"steps": 6, "seed": 3, "offset": 7}
    want = plain(denoiser, N, **options)
    found = trajectories.sample_tokens(denoiser if compat else GRAMMAR, SCHEDULE, N, **options)
    assert found.dtype == torch.int64
    assert torch.equal(found, want)
    assert not torch.equal(found[:BLOCK], found[BLOCK : 2 * BLOCK])
    turn = {"steps": 4, "start": np.random.default_rng(0).integers(0, 6, (N, 16)), "t_start": 30}
    assert torch.equal(trajectories.sample_tokens(denoiser, SCHEDULE, N, **turn), plain(denoiser, N, **turn))
    assert trajectories.sample_tokens(denoiser, SCHEDULE, 0, steps=2).shape == (0, 16)


def test_factorized_denoisers_are_sampled_as_such():
    denoiser = TreeDenoiser(GRAMMAR, factorized=3)
    assert torch.equal(trajectories.sample_tokens(denoiser, SCHEDULE, 40, steps=5), plain(denoiser, 40, steps=5))
    assert trajectories.has_kernel(GRAMMAR)
    assert not trajectories.has_kernel(GRAMMAR.factorized(3))     # the kernel is the whole tree's


@pytest.mark.parametrize("asked", [None, "cuda", "torch", "cpu"])
def test_the_launch_is_for_whom_the_cuda_backend_serves(monkeypatch, asked):
    """On the CPU, and where another backend was asked for, the CUDA backend is not even loaded."""
    launched, loaded, load = [], [], backends.load
    cuda = SimpleNamespace(tree_trajectory=lambda *_, n, **__: launched.append(n) or {"strings": torch.zeros(n, 16)})

    def spy(name):
        loaded.append(name)
        return (cuda, None) if name == "cuda" else load(name)

    monkeypatch.setattr(backends, "load", spy)
    if asked != "cuda":
        trajectories.sample_tokens(GRAMMAR, SCHEDULE, 2, steps=2)
        assert "cuda" not in loaded
    monkeypatch.setenv("BIASGEN_BACKEND", asked or "")
    with contextlib.suppress(ValueError, RuntimeError, AssertionError):     # no GPU here, or the cpu backend refuses
        trajectories.sample_tokens(GRAMMAR, SCHEDULE, 2, steps=2, device="cuda")
    assert bool(launched) == ("cuda" in loaded) == (asked in (None, "cuda"))


def test_no_more_than_a_block_is_ever_in_work(monkeypatch):
    """What a step needs is bounded by the block, and torch works on it with one thread."""
    seen, posterior, before = [], TreeGrammar.posterior, torch.get_num_threads()

    def spy(self, field):
        seen.append((len(field), threading.get_ident(), torch.get_num_threads()))
        return posterior(self, field)

    monkeypatch.setattr(TreeGrammar, "posterior", spy)
    torch.set_num_threads(2)
    try:
        for threads in (1, 2, None):
            monkeypatch.setattr(_settings, "_num_threads", threads)
            seen.clear()
            trajectories.sample_tokens(GRAMMAR, SCHEDULE, N, steps=3)
            assert sum(rows for rows, *_ in seen) == 3 * N
            assert max(rows for rows, *_ in seen) == (35 if threads == 1 else 27)
            assert len(seen) == 3 * (3 if threads == 1 else 4)     # two threads end together
            assert {inside for *_, inside in seen} == {1}
            own = {thread for _, thread, _ in seen} == {threading.get_ident()}
            assert own == (threads == 1)
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
