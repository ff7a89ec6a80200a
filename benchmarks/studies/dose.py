"""Power: what the statistics say to samples and denoisers with a known dose of bias, and the cost of looking at them.

Run: python -m benchmarks.studies.dose [--seed 31] [--out docs/studies].
"""
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt

import biasgen
from benchmarks.studies.common import EXACT, GRAMMAR, SCHEDULE, options, parallel, rows, sample, table, write
from biasgen import BiasMonitor, EmpiricalDenoiser, alignment, controls, split_comparison, train_affinity
from biasgen.experiments.tree import demo
from biasgen.metrics.exact_copies import expected_exact_copies

M, N, H = 2000, 4000, 4000
T0 = (500, 150, 125, 100, 85, 75, 60, 50)
RULER = (60, 75, 85, 95, 105, 115, 125, 150, 200, 500)
COEFFICIENTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
DOSES = (0.05, 0.25, 0.5)
MIXED, MIX_DRAWS = 0.02, 20


def one_uturn(t0: int, seed: int) -> dict[str, Any]:
    """U-turns from the training rows of two models, each the other's placebo."""
    train_a, train_b, heldout = np.split(rows(2 * M + H, seed=seed, draw=0), [M, 2 * M])
    gen_a, gen_b = (controls.uturn(np.resize(t, (N, 16)), EXACT, SCHEDULE, t0, seed=seed) for t in (train_a, train_b))
    split = split_comparison(gen_a=gen_a, gen_b=gen_b, train_a=train_a, train_b=train_b, heldout=heldout)
    own = train_affinity(gen=gen_a, train=train_a, heldout=heldout)
    placebo = train_affinity(gen=gen_b, train=train_a, heldout=heldout)
    return {"t0": t0, "affinity": own, "affinity placebo": placebo} | split.as_dict()


def one_ruler(t0: int) -> biasgen.results.Result:
    """Own share of U-turns from the demo's training rows: the ruler on which its models are read."""
    size = demo.SCALES["full"]
    train_a, train_b, heldout = demo_sets(0)
    noise = {"seed": 1, "offset": t0 * size.n_samples}     # every point of the ruler has its own
    gen_a, gen_b = (controls.uturn(np.resize(t, (size.n_samples, 16)), EXACT, SCHEDULE, t0, **noise) for t in (train_a, train_b))
    return split_comparison(gen_a=gen_a, gen_b=gen_b, train_a=train_a, train_b=train_b, heldout=heldout).own_share


def demo_sets(seed: int) -> list[np.ndarray]:
    """The demo's two training sets and its held-out rows."""
    size = demo.SCALES["full"]
    return np.split(GRAMMAR.sample(2 * size.rows + size.heldout, seed=seed), [size.rows, 2 * size.rows])


def one_coefficient(coefficient: float, seed: int) -> biasgen.results.Result:
    """Alignment of the constant-weight mix of the exact denoiser and the one that has memorized T."""
    train, heldout, probe = np.split(rows(2 * 600 + 1500, seed=seed + 1, draw=0), [600, 1200])
    mixed = controls.ConstantMixture(EXACT, EmpiricalDenoiser(train), coefficient)
    return alignment(mixed, train=train, heldout=heldout, probe=probe, schedule=SCHEDULE, t=150)


def one_mix(draw: int, seed: int) -> tuple[float, float]:
    """p of affinity over all samples and of near affinity, at 2 % planted copies."""
    train, heldout, gen = np.split(rows(2 * M + N, seed=seed + 2, draw=draw), [M, 2 * M])
    gen = controls.mix_samples(gen, train, MIXED, seed=draw)
    found = biasgen.evaluate(gen=gen, train=train, heldout=heldout, seed=draw).metrics
    return found["train_affinity"].p_value, found["near_affinity"].p_value


def one_mixture(job: tuple[float, int], seed: int) -> dict[str, float]:
    """Share of exact copies of samples of MixtureDenoiser, against what its dose says; and of the placebo set."""
    dose, steps = job
    train, other = np.split(rows(2 * M, seed=seed + 3, draw=0), 2)
    mixture = controls.MixtureDenoiser(EXACT, EmpiricalDenoiser(train), dose)
    gen = sample(mixture, N, steps=steps, seed=seed)
    copies, placebo = (float((biasgen.knn(gen, t).distances[:, 0] == 0).mean()) for t in (train, other))
    by_chance = expected_exact_copies(GRAMMAR, train)
    wanted = dose + (1 - dose) * by_chance
    return {
        "dose": dose, "steps": steps, "copies": copies, "wanted": wanted, "placebo": placebo,
        "allowed": 0.05 * wanted + 2 * np.sqrt(wanted * (1 - wanted) / N), "by chance": expected_exact_copies(GRAMMAR, other),
    }    # fmt: skip


def probe_against_samples(seed: int) -> dict[str, Any]:
    """The demo's models watched twice: by a probe of 1500 rows and by 8000 samples an evaluation."""
    torch.set_num_threads(1)
    size = demo.SCALES["full"]
    train_a, train_b, heldout = demo_sets(seed)
    sets = {"train": train_a, "twin_train": train_b, "heldout": heldout, "every": size.checkpoints}

    def sampler(model: torch.nn.Module, n: int, *, seed: int, offset: int = 0) -> np.ndarray:
        return sample(partial(demo.denoise, model), n, steps=size.reverse_steps, seed=seed, offset=offset)

    clock, spent = time.process_time, [0.0, 0.0]     # CPU seconds of both monitors, preparing included
    started = clock()
    probe = BiasMonitor(**sets, denoiser=demo.denoise, schedule=SCHEDULE, probe_rows=1500)
    spent[0] += clock() - started
    sampled = BiasMonitor(**sets, sampler=sampler, n_samples=4000)
    spent[1] += clock() - started - spent[0]
    models = demo.two_models(size, GRAMMAR, (train_a, train_b), seed)
    for step in demo.training(models, SCHEDULE, size):
        for i, monitor in enumerate((probe, sampled)):
            begun = clock()
            monitor.step(step, *(model.average.module for model in models))
            spent[i] += clock() - begun
    training = clock() - started - sum(spent)
    found = [[r.metrics[name] for r in monitor.history] for monitor, name in ((probe, "alignment"), (sampled, "own_share"))]
    ranks = [np.argsort(np.argsort([result.value for result in results])) for results in found]
    return {
        "steps": list(size.checkpoints), "alignment": found[0], "own share": found[1],
        "rank correlation": float(np.corrcoef(*ranks)[0, 1]),
        "cost": [seconds / training for seconds in spent], "onset": (probe.onset, sampled.onset),
    }    # fmt: skip


def main() -> None:
    chosen = options(__doc__, seed=31)
    started = time.perf_counter()
    seed, processes = chosen.seed, chosen.processes
    compared = probe_against_samples(0)
    uturns = parallel(partial(one_uturn, seed=seed), T0, processes)
    rulers = parallel(one_ruler, RULER, processes)
    aligned = parallel(partial(one_coefficient, seed=seed), COEFFICIENTS, processes)
    mixes = parallel(partial(one_mix, seed=seed), range(MIX_DRAWS), processes)
    jobs = [(dose, steps) for steps in (500, 50) for dose in DOSES]
    mixtures = parallel(partial(one_mixture, seed=seed), jobs, processes)

    def plus_minus(result: biasgen.results.Result) -> str:
        return f"{result.value:.4f} ± {(result.ci[1] - result.ci[0]) / 2:.4f}"

    shown = ("own_share", "affinity", "affinity placebo", "near_copies", "kl_own", "auc_own")
    uturn_rows = [
        [
            f"{u['t0']} ({u['t0'] / SCHEDULE.T:.2f})",
            *(plus_minus(u[name]) for name in shown),
            f"{u['near_copies'].placebo:.4f}",
            f"{u['kl_placebo'].value:.4f}",
        ]
        for u in uturns
    ]
    mixture_rows = [
        [m["dose"], m["steps"], *(f"{m[name]:.4f}" for name in ("copies", "wanted", "allowed", "placebo", "by chance"))] for m in mixtures
    ]
    aligned_rows = [[c, plus_minus(r), f"{r.p_value:.2g}"] for c, r in zip(COEFFICIENTS, aligned, strict=True)]
    ruler = controls.DoseCurve(RULER, [r.value for r in rulers], [r.ci for r in rulers], SCHEDULE.T)
    columns = (compared[name] for name in ("steps", "alignment", "own share"))
    compared_rows = [[step, plus_minus(a), plus_minus(o), _dose(ruler.equivalent(o))] for step, a, o in zip(*columns, strict=True)]
    seen = [sum(p[i] <= 0.05 for p in mixes) for i in range(2)]
    probe_cost, sampling_cost = compared["cost"]
    text = f"""# What the statistics say to a known dose

Paper's grammar (q = 6, 16 leaves), T = {SCHEDULE.T} steps. Values ± half the 95 % interval.

## U-turns: biased generalization

Two models' training sets of {M} rows, {N} samples each: rows noised to time t0 and brought back by the exact denoiser. The smaller
t0, the nearer the sample stays to its training row, while its law stays the data's. Placebo: the other model's samples or set.

{table(["t0 (t0 / T)", *shown, "near-copies placebo", "KL placebo"], uturn_rows)}

## A constant-weight mix of denoisers: the probe

D = (1 - c) exact + c memorized; alignment is linear in c by construction, its value at c = 0 is the chance alignment of the exact
denoiser with this T.

{table(["coefficient", "alignment", "p"], aligned_rows)}

## A mix of samples: memorization

{MIXED:.0%} of {N} samples replaced by training rows (m = h = {M}), {MIX_DRAWS} draws: affinity over all samples rejects at 5 % in
{seen[0]}, near affinity in {seen[1]}.

## MixtureDenoiser: the dose through the whole sampler

Exact copies among {N} samples, against dose + (1 - dose) x the share by chance; allowed: 5 % of it and 2 binomial standard errors.
With 50 steps the sampler loses a fifth of the dose, with 500 little. Placebo: copies of an independent set, and what chance gives there.

{table(["dose", "steps", "copies", "expected", "allowed difference", "placebo", "by chance"], mixture_rows)}

## A probe instead of samples

The demo's two models (`biasgen demo`, seed 0) at its {len(compared["steps"])} evaluations: alignment from 1500 probe rows at one noise
level, and own share from 8000 samples. Rank correlation {compared["rank correlation"]:.2f}. The probe took {probe_cost:.1%} of the
training time, setting up included, sampling and search {sampling_cost:.1%} (CPU time, one thread). Onset by the probe:
{_say(compared["onset"][0])}; by samples: {_say(compared["onset"][1])}.

Equivalent dose: own share read on the ruler of U-turns from the same training rows, t0 / T (smaller is more biased).

{table(["step", "alignment", "own share", "equivalent dose"], compared_rows)}

![dose and response](dose.png)"""
    write(chosen.out, "dose", text, draw(uturns, aligned, compared), started, seed)


def _dose(found: biasgen.results.EquivalentDose) -> str:
    return f"{found.t0_over_T:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]" + (f", {found.censored}" if found.censored else "")


def _say(onset: biasgen.results.Onset) -> str:
    return f"step {onset.step} ({onset.statistic})" if onset.status == "detected" else onset.status


def draw(uturns: list[dict[str, Any]], aligned: list[biasgen.results.Result], compared: dict[str, Any]) -> Any:
    figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained")
    shares, divergence, probe, both = axes
    dose = [u["t0"] / SCHEDULE.T for u in uturns]
    for name in ("own_share", "affinity", "affinity placebo", "near_copies"):
        _errors(shares, dose, [u[name] for u in uturns], name.replace("_", " "))
    shares.set(title="U-turns: shares", xlabel="t0 / T")
    for name, label in (("kl_own", "own"), ("kl_placebo", "placebo")):
        _errors(divergence, dose, [u[name] for u in uturns], label)
    divergence.set(title="U-turns: NN divergence", xlabel="t0 / T", ylabel="nats")
    divergence.set_yscale("symlog", linthresh=0.01)
    for axis in (shares, divergence):
        axis.set_xscale("log")
        axis.set_xticks([1, 0.5, 0.2, 0.1], ["1", "0.5", "0.2", "0.1"])
        axis.minorticks_off()
        axis.invert_xaxis()
    _errors(probe, COEFFICIENTS, aligned, "alignment")
    probe.plot([0, 1], [0, 1], color="black", lw=1, ls=":")
    probe.set(title="mix of denoisers: alignment", xlabel="coefficient of the memorized one")
    both.plot(compared["steps"], [r.value for r in compared["alignment"]], "o-", label="alignment, 1500 probe rows")
    both.plot(compared["steps"], [r.excess for r in compared["own share"]], "s-", label="own share - 1/2, 8000 samples")
    both.set(title="the demo's models", xlabel="optimizer step", xscale="log")
    for axis in axes:
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _errors(axis: Any, x: Any, results: list[biasgen.results.Result], label: str) -> None:
    values = np.array([r.value for r in results])
    low, high = np.array([r.ci for r in results]).T
    axis.errorbar(x, values, [np.maximum(values - low, 0), np.maximum(high - values, 0)], fmt="o-", ms=4, capsize=2, label=label)


if __name__ == "__main__":
    main()
