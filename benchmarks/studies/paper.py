"""How much it matters where the authors' code computes something else than it means, beside the floor (benchmarks/studies/floor.py).

Run: python -m benchmarks.studies.paper [--rows 1000] [--seed 81] [--out docs/studies].
"""
import time

import numpy as np
import torch

from benchmarks.studies.common import EXACT, GRAMMAR, SCHEDULE, options, rows, table, write
from biasgen import EmpiricalDenoiser, TreeDenoiser, nn_divergence
from biasgen.diffusion import forward_process, one_hot, reverse_times, reverse_trajectory
from biasgen.metrics.exact_copies import expected_exact_copies
from biasgen.metrics.uturn_overlap import uturn_overlap
from biasgen.ops import philox
from biasgen.statistics.bootstrap import ratio

M = 12_000
T0 = (25, 31, 37, 43, 50)
REPEATS = 5


def shared_noise(n: int, seed: int) -> tuple[float, float]:
    """Overlap of samples in two batches with the same reverse noise and other x_T, as their fix_noise has it; and with other noise."""
    ends = []
    for start, reverse in ((0, 0), (n, 0), (2 * n, 2 * n)):
        z = philox.normals(seed, n=n, count=GRAMMAR.length * GRAMMAR.q, offset=start, purpose=philox.START)
        x = torch.from_numpy(z).reshape(n, GRAMMAR.length, GRAMMAR.q)
        ends.append(reverse_trajectory(EXACT, SCHEDULE, x, reverse_times(SCHEDULE.T, SCHEDULE.T), seed=seed, offset=reverse).argmax(-1))
    return tuple((ends[0] == other).double().mean().item() for other in ends[1:])


def standard_errors(n: int, seed: int, t: int) -> tuple[float, float]:
    """Half-widths of the 95 % interval of the exact denoiser's loss, from REPEATS noises of each sequence: by row, by sequence."""
    x0 = one_hot(np.tile(rows(n, seed=seed, draw=1), (REPEATS, 1)), GRAMMAR.q)
    z = torch.from_numpy(philox.normals(seed, n=len(x0), count=x0[0].numel(), step=t, purpose=philox.FORWARD)).reshape(x0.shape)
    level = SCHEDULE.at(t)
    exact = EXACT(forward_process(x0, level, z), level).double()
    loss = -(x0 * exact.clamp_min(1e-38).log()).sum(-1).mean(-1).numpy()
    by = (None, np.tile(np.arange(n), REPEATS))
    return tuple(np.diff(ratio(loss, np.ones(len(loss)), clusters=clusters)[1])[0] / 2 for clusters in by)


def main() -> None:
    chosen = options(__doc__, rows=1000, seed=81)
    started = time.perf_counter()
    n, seed = chosen.rows, chosen.seed
    train, gen, heldout = np.split(rows(M + 40_000, seed=seed, draw=0), [M, M + 20_000])
    starts = np.random.default_rng(seed).integers(0, GRAMMAR.q, (n, GRAMMAR.length))
    some = train[np.random.RandomState(seed).choice(M, 256, replace=False)]
    empirical = [
        [t0, *(f"{found.value:.4f} ± {(found.ci[1] - found.ci[0]) / 2:.4f}" for found in found_at)]
        for t0 in T0
        for found_at in [[uturn_overlap(EmpiricalDenoiser(part), SCHEDULE, starts, t0, Q=GRAMMAR.q, seed=seed) for part in (some, train)]]
    ]
    shared, independent = shared_noise(n, seed)
    by_row, by_sequence = (np.array(part) for part in zip(*(standard_errors(n, seed, t) for t in (75, 150, 500)), strict=True))
    divergences = [nn_divergence(gen=gen, train=train, heldout=heldout, compat=compat) for compat in (None, "paper")]
    paper, floored = TreeDenoiser(GRAMMAR, compat="paper"), TreeDenoiser(GRAMMAR.floored(1e-16))
    ends = [uturn_overlap(denoiser, SCHEDULE, starts, 25, seed=seed).per_sample for denoiser in (paper, floored)]
    copies = ", ".join(f"{expected_exact_copies(GRAMMAR, rows(m, seed=seed, draw=2)):.2%} (n = {m})" for m in (5000, 12_000, 70_000))
    wider = zip((75, 150, 500), by_sequence / by_row, strict=True)
    text = f"""# How much other differences matter

Sizes of what [paper_differences.md](../paper_differences.md) lists, on the paper's grammar and schedule (T = {SCHEDULE.T}).

**Fixed noise that repeats across batches.** Two samples of the exact denoiser from other x_T and the same reverse noise, as row b of two
batches has it, are equal at {shared:.1%} of the positions; with noise of their own at {independent:.1%} ({n} pairs).

**Standard errors over rows.** {REPEATS} noises of each of {n} sequences: the 95 % interval of the exact denoiser's loss by sequence is
{", ".join(f"{times:.2f} (t = {t})" for t, times in wider)} times as wide as by row.

**256 rows for the empirical denoiser.** Overlap of U-turns from {n} random sequences (figure 11), the denoiser that has memorized 256 of
{M} training rows, and all of them; ± half the 95 % interval:

{table(["t0", "256 rows", f"{M} rows"], empirical)}

**NN divergence, shares clipped at 1e-8** instead of 1/2 added to each bin: {divergences[1].value:.3g} and {divergences[0].value:.3g} for
fair samples (m = {M}, n = h = 20 000); null means {divergences[1].null.mean:.3g} and {divergences[0].null.mean:.3g}.

**Float32 gamma alone.** Of {n} U-turns with the floor from random sequences, t0 = 25, {np.mean(ends[0] != ends[1]):.2%} change their
overlap.

**Test rows that are training rows.** Probability that a fresh sentence occurs among the training rows: {copies}."""
    write(chosen.out, "paper", text, None, started, seed)


if __name__ == "__main__":
    main()
