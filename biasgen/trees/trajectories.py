"""Samples of the exact denoiser: diffusion.sampler's, block by block on every thread, or in one launch on a CUDA device."""
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from biasgen import _settings, backends
from biasgen.backends._blocks import num_threads, run_blocks
from biasgen.backends._cuda_trees import LEVEL
from biasgen.diffusion import sampler
from biasgen.diffusion.schedule import Schedule
from biasgen.ops import philox
from biasgen.ops._rows import as_tensor
from biasgen.trees.denoiser import TreeDenoiser
from biasgen.trees.grammar import TreeGrammar

BLOCK_NUMBERS = 1 << 17   # of x_t: 1365 rows of 16 x 6; a quarter of that takes half as long again a row


def sample_tokens(
    denoiser: TreeDenoiser | TreeGrammar,
    schedule: Schedule,
    n: int,
    *,
    steps: int = 50,
    seed: int = 0,
    offset: int = 0,
    start: np.ndarray | torch.Tensor | None = None,
    t_start: int | None = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """(n, L) int64: diffusion.sampler.sample_tokens of the denoiser (a grammar stands for its own), arguments as there; U-turns with start
    and t_start.

    On the CPU each thread takes blocks of rows through all the steps; the rows are those of the sampler, to the bit where the denoiser's do
    not depend on their batch (docs/exactness.md). On a CUDA device whose backend runs, unless
    BIASGEN_BACKEND names another, the paper's grammar (rules of TreeGrammar.random(), any weights)
    takes one launch: the same noise within 4 ulp and the same denoiser within 1e-5, so almost all
    rows are equal to the CPU's.

    Memory beyond the result: on the CPU about 80 bytes for each of BLOCK_NUMBERS numbers a thread, 10 MiB.
    """
    denoiser = denoiser if isinstance(denoiser, TreeDenoiser) else TreeDenoiser(denoiser)
    grammar, device = denoiser.grammar, torch.device(device)
    wanted = device.type == "cuda" and _settings.backend() in (None, "cuda")
    module = backends.load("cuda")[0] if wanted and has_kernel(grammar) else None
    if module is not None:
        philox.check(seed, n=n, offset=offset)
        levels, arguments = launch_arguments(grammar, schedule, steps=steps, start=start, t_start=t_start, device=device)
        made = module.tree_trajectory(
            grammar.tree, levels, n=n, device=device, seed=seed, offset=offset, **arguments
        )
        return made["strings"].long()
    shape = grammar.length, grammar.q
    tokens = torch.empty((n, grammar.length), dtype=torch.int64, device=device)

    def work(first: int, stop: int) -> None:
        tokens[first:stop] = sampler.sample_tokens(
            denoiser, schedule, stop - first, shape=shape, steps=steps, seed=seed, offset=offset + first,
            start=None if start is None else start[first:stop], t_start=t_start, batch_size=most_rows(grammar), device=device,
        )

    if device.type == "cpu":
        by_rows(work, n, grammar)
    else:
        work(0, n)
    return tokens


def by_rows(work: Callable[[int, int], None], n: int, grammar: TreeGrammar) -> None:
    """work(start, stop) for blocks of 0..n rows on all threads, each alone: torch gives no part of a block to a thread of its own.

    A step costs a quarter of a millisecond however few its rows.
    """
    threads = torch.get_num_threads()

    def alone(start: int, stop: int) -> None:
        torch.set_num_threads(1)   # holds for this thread and those that begin after it
        work(start, stop)

    turns = -(-n // (num_threads() * most_rows(grammar)))   # of each thread; all as long, so that they end together
    try:
        run_blocks(alone, n, max(1, -(-n // max(1, num_threads() * turns))))
    finally:
        torch.set_num_threads(threads)


def most_rows(grammar: TreeGrammar) -> int:
    """Of a block."""
    return max(1, BLOCK_NUMBERS // (grammar.length * grammar.q))


def has_kernel(grammar: TreeGrammar) -> bool:
    """Are these the rules of the paper's grammar, for which whole trajectories are compiled?"""
    paper = TreeGrammar.random()
    sizes = [(g.q, g.depth, g.k, {*map(tuple, g.tree.arrays.rules)}) for g in (grammar, paper)]
    root = grammar.tree.arrays.root
    return sizes[0] == sizes[1] and grammar.tree.shared and bool((root == root[0]).all())


def step_levels(grammar: TreeGrammar, schedule: Schedule, times: list[int]) -> np.ndarray:
    """(len(times) - 1,) records of the steps between consecutive times, as the kernel reads them: see _cuda_trees.LEVEL."""
    levels = np.zeros(len(times) - 1, LEVEL)
    numbers = grammar.length * grammar.q
    for row, (t, s) in zip(levels, pairwise(times), strict=True):
        level = schedule.at(t)
        variance = level.sigma**2
        row["gamma"], row["one_over_variance"], row["t"] = level.gamma, 1 / variance, t
        row["log_norm"] = grammar.length * level.scale**2 / (2 * variance) + numbers * math.log(2 * math.pi * variance) / 2
        row["c0"], row["ct"], row["std"] = schedule.posterior(t, s)
    return levels


def launch_arguments(grammar, schedule, *, steps, start, t_start, device):
    """What sample_tokens hands to the kernel: levels, and the arguments that say where rows begin."""
    if (start is None) != (t_start is None):
        raise ValueError("start, t_start: want both or neither")
    times = sampler.reverse_times(schedule.T if t_start is None else t_start, steps)
    level = schedule.at(times[0])
    if start is None:
        begin = {"start": (0.0, math.hypot(level.scale, level.sigma), 0, philox.START)}
    else:
        tokens = as_tensor(start)
        sampler.one_hot(tokens, grammar.q, "start")
        begin = {"tokens": tokens.to(torch.int8).to(device), "start": (level.scale, level.sigma, times[0], philox.FORWARD)}
    return step_levels(grammar, schedule, times), begin
