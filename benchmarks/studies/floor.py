"""The floor under the authors' logarithms: what compat="paper" gives beside the exact denoiser, on their figure 11 and step by step.

Run: python -m benchmarks.studies.floor [--rows 20000] [--seed 71] [--out docs/studies].
"""
import datetime
import json
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt

import biasgen
from benchmarks.studies.common import GRAMMAR, SCHEDULE, options, parallel, table, write
from biasgen import TreeDenoiser
from biasgen.diffusion import forward_process, one_hot
from biasgen.ops import philox
from biasgen.results import json_safe
from biasgen.statistics.bootstrap import ratio
from biasgen.trees.trajectories import sample_tokens

T0 = (25, 31, 37, 43, 50)                # the authors' figure 11
FROM_DATA = (5, 15, 25, 42, 60)          # their figure 5
LEVELS = (1, 5, 10, 15, 20, 25, 31, 37, 43, 50)
READ_BEFORE = {   # 500 random sequences through the authors' code, and exact: (with the floor, without)
    (25, 0): (0.834, 0.776), (31, 0): (0.778, 0.770), (37, 0): (0.7602, 0.7600), (25, 1): (0.832, 0.777), (25, 2): (0.828, 0.790),
    (25, 3): (0.850, 0.835),
}    # fmt: skip
KINDS = ("exact", "paper")


def random_starts(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, GRAMMAR.q, (n, GRAMMAR.length))


def one_turn(job: tuple[str, int, int, int], seed: int) -> dict[str, Any]:
    """Ends of U-turns from (start, t0) by BP_k of both kinds, with the same noise: overlap, its difference, share of grammatical ends."""
    start, t0, k, n = job
    rows = random_starts(n, seed) if start == "random" else GRAMMAR.sample(n, seed=seed).astype(np.int64)
    ends, found = {}, {"start": start, "t0": t0, "k": k, "n": n}
    for kind, compat in zip(KINDS, (None, "paper"), strict=True):
        denoiser = TreeDenoiser(GRAMMAR, factorized=k, compat=compat)
        ends[kind] = sample_tokens(denoiser, SCHEDULE, n, steps=t0, start=rows, t_start=t0, seed=seed).numpy()
        found[kind] = mean((ends[kind] == rows).mean(1))
        found[f"{kind} grammatical"] = float(GRAMMAR.is_grammatical(ends[kind]).mean())
    found["difference"] = mean((ends["paper"] == rows).mean(1) - (ends["exact"] == rows).mean(1))
    found["rows that differ"] = float((ends["paper"] != ends["exact"]).any(1).mean())
    return found


def one_level(t: int, n: int, seed: int) -> dict[str, Any]:
    """Share of noised random sequences at which the denoiser with the floor is off by more than 1e-3 somewhere."""
    level, x0 = SCHEDULE.at(t), one_hot(random_starts(n, seed), GRAMMAR.q)
    z = philox.normals(seed, n=n, count=x0[0].numel(), step=t, purpose=philox.FORWARD)
    x_t = forward_process(x0, level, torch.from_numpy(z).reshape(x0.shape))
    exact, paper = (TreeDenoiser(GRAMMAR, compat=compat)(x_t, level) for compat in (None, "paper"))
    return {"t": t, "wrong": mean(((paper - exact).abs() > 1e-3).any(2).any(1).numpy())}


def mean(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    return ratio(values, np.ones(len(values)))


def main() -> None:
    chosen = options(__doc__, rows=20_000, seed=71)
    started = time.perf_counter()
    n, seed = chosen.rows, chosen.seed
    jobs = [("random", t0, 0, n) for t0 in T0] + [("random", 25, k, n // 5) for k in (1, 2, 3, 4)]
    jobs += [("data", t0, 0, n // 4) for t0 in FROM_DATA]
    turns = parallel(partial(one_turn, seed=seed), jobs, chosen.processes)
    levels = parallel(partial(one_level, n=n // 4, seed=seed), LEVELS, chosen.processes)
    for turn in turns:
        turn["read before"] = READ_BEFORE.get((turn["t0"], turn["k"])) if turn["start"] == "random" else None
    chosen.out.mkdir(parents=True, exist_ok=True)
    made = {"seed": seed, "date": datetime.date.today().isoformat(), "biasgen": biasgen.__version__, "T": SCHEDULE.T}
    (chosen.out / "floor.json").write_text(json.dumps(json_safe(made | {"turns": turns, "levels": levels}), indent=1) + "\n")

    def line(turn: dict[str, Any]) -> list[str]:
        before = turn["read before"]
        shares = [f"{turn[f'{kind} grammatical']:.1%}" for kind in KINDS]
        numbers = [plus_minus(turn[name]) for name in (*KINDS, "difference")]
        return [turn["t0"], turn["k"], turn["n"], *numbers, *shares, "{1} / {0}".format(*before) if before else ""]

    heading = ["t0", "k", "rows", *(f"{kind}: overlap" for kind in ("exact", "floor")), "difference"]
    heading += ["exact: grammatical", "floor: grammatical", "500 rows: exact / floor"]
    of_data = [turn for turn in turns if turn["start"] == "data"]
    same = ", ".join(f"{turn['rows that differ']:.2%} (t0 = {turn['t0']})" for turn in of_data)
    wrong = [[f"{entry['wrong'][0]:.1%}" for entry in levels]]
    text = f"""# The floor under a logarithm

The authors' belief propagation takes log(M + 1e-16): what the grammar forbids is allowed at 36.8 nats. At little noise the evidence of a
leaf is worth more than that, so that the denoiser keeps a sequence which the grammar cannot generate. `TreeDenoiser(grammar,
compat="paper")` computes that, `TreeDenoiser(grammar)` the posterior mean.

## U-turns from random sequences

Share of the 16 positions that are the same after noise to t0 of T = {SCHEDULE.T} and all steps back (the authors' figure 11), BP_k, the
same sequences and noise for both; ± half the 95 % interval over sequences. The last column is what 500 sequences gave through the
authors' code and through a float64 implementation independent of this one (one standard error is about .004).

{table(heading, [line(turn) for turn in turns if turn["start"] == "random"])}

From sequences of the data ({of_data[0]["n"]} rows), ends that differ between the two: {same}.

## One step

Share of {n // 4} noised random sequences at which some probability is off by more than .001:

{table([f"t = {t}" for t in LEVELS], wrong)}

![overlap, grammatical ends, BP_k](floor.png)"""
    write(chosen.out, "floor", text, draw(turns, levels), started, seed)


def plus_minus(found: tuple[float, tuple[float, float]]) -> str:
    value, (low, high) = found
    return f"{value:.4f} ± {(high - low) / 2:.4f}"


def draw(turns: list[dict[str, Any]], levels: list[dict[str, Any]]) -> Any:
    figure, (overlap, share, factorized) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    of_bp0 = [turn for turn in turns if turn["start"] == "random" and turn["k"] == 0]
    of_25 = [turn for turn in turns if turn["start"] == "random" and turn["t0"] == 25]
    for kind, label, marker in zip(KINDS, ("exact", "with the floor: compat='paper'"), "os", strict=True):
        for axis, found, x in ((overlap, of_bp0, "t0"), (factorized, of_25, "k")):
            values, intervals = zip(*(turn[kind] for turn in found), strict=True)
            low, high = np.array(intervals).T
            bars = [np.maximum(values - low, 0), np.maximum(high - values, 0)]
            axis.errorbar([turn[x] for turn in found], values, bars, fmt=f"{marker}-", ms=4, capsize=2, label=label)
        share.plot([turn["t0"] for turn in of_bp0], [turn[f"{kind} grammatical"] for turn in of_bp0], f"{marker}-", ms=4, label=label)
    for axis, found, x in ((overlap, of_bp0, "t0"), (factorized, of_25, "k")):
        read = [(turn[x], value) for turn in found if turn["read before"] for value in turn["read before"]]
        axis.plot(*zip(*read, strict=True), "kx", ms=6, label="500 rows, authors' code and float64")
    right = [1 - entry["wrong"][0] for entry in levels]
    share.plot([entry["t"] for entry in levels], right, "k^:", ms=4, label="floor: single steps that are right")
    overlap.set(title="U-turns from random sequences: overlap", xlabel="t0, of T = 500")
    share.set(title="grammatical ends", xlabel="t0, of T = 500", ylim=(-0.03, 1.03))
    factorized.set(title="BP_k, t0 = 25: overlap", xlabel="k", xticks=range(5))
    for axis in (overlap, share, factorized):
        axis.legend(frameon=False, fontsize=8, loc="lower right" if axis is share else "best")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
