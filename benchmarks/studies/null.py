"""Size: how often each decision rule calls an unbiased sampler biased, alone and over a training run.

Run: python -m benchmarks.studies.null [--draws 1000] [--seed 11] [--out docs/studies].
"""
import math
import time
from collections import Counter, defaultdict
from functools import partial
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.studies.common import EXACT, GRAMMAR, SCHEDULE, options, parallel, rows, sample, table, write
from biasgen.metrics.alignment import AlignmentProbe
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.membership import membership
from biasgen.metrics.near_affinity import near_threshold
from biasgen.metrics.nn_divergence import nn_divergence
from biasgen.metrics.own_share import own
from biasgen.metrics.registry import choose, default_metrics, measure
from biasgen.metrics.self_test import self_test
from biasgen.metrics.split_comparison import split_comparison
from biasgen.metrics.train_affinity import affinity
from biasgen.results import Credit, Result
from biasgen.statistics.detection import detect

M = 2000
SIZES = ((4000, 4000), (4000, 20_000), (4000, 2000), (20_000, 4000))     # n, h
LEVEL = 0.05
LOOKS = 25
STEPS = (10, 20, 50, 500)
PAIRS = 20
SHOWN = ("train_affinity", "near_affinity", "nn_divergence", "nn_auc")


def one_draw(draw: int, seed: int) -> dict[tuple[str, int, int], float]:
    """{(rule, n, h): p}: training sets, generated and held-out rows of one law."""
    found = {}
    for n, h in SIZES:
        train, twin_train, gen, twin_gen, heldout = np.split(rows(2 * (M + n) + h, seed=seed, draw=draw), np.cumsum([M, M, n, n]))
        results = one_model(Comparison(gen=gen, train=train, heldout=heldout, seed=draw))
        trains, gens = {"train_a": train, "train_b": twin_train}, {"gen_a": gen, "gen_b": twin_gen}
        split = split_comparison(**trains, **gens, heldout=heldout, seed=draw).as_dict()
        results |= {name: split[name] for name in ("own_share", "near_own_share", "kl_own", "auc_own")}
        results["NN divergence, compat paper"] = nn_divergence(gen=gen, train=train, heldout=heldout, compat="paper", seed=draw)
        results |= {f"self-test: {name}": result for name, result in self_test(train=train, heldout=heldout, seed=draw).items()}
        results["membership AUC"] = membership(_log_loss, train=train, heldout=heldout, t=1, seed=draw).auc
        found |= {(name, n, h): result.p_value for name, result in results.items() if result.p_value is not None}
    return found


def one_model(comparison: Comparison) -> dict[str, Result]:
    """What an evaluation of one model holds by default."""
    names = default_metrics(comparison.distance)
    return measure(comparison, choose(names, given=comparison.sets))


def _log_loss(tokens: np.ndarray, t: int) -> np.ndarray:
    return -np.asarray(GRAMMAR.log_prob(tokens))


def one_alignment(draw: int, seed: int) -> float:
    """p of the exact denoiser's alignment: m = h = 300, 300 probe rows."""
    train, heldout, probe = np.split(rows(900, seed=seed + 1, draw=draw), 3)
    return AlignmentProbe(train=train, heldout=heldout, probe=probe, schedule=SCHEDULE, t=100, seed=draw)(EXACT).p_value


def one_curve(draw: int, seed: int) -> tuple[str, str]:
    """Status of the onset over 25 checkpoints of fair samples, one model and two; the sets stay, the samples change.

    Only what decides is computed, with 999 permutations: the level, .05 / 50, is the smallest p that they can give.
    """
    m, h, n = 500, 1000, 1000
    sizes = [m, m, h, *[n] * (2 * LOOKS)]
    train, twin_train, heldout, *gens = np.split(rows(sum(sizes), seed=seed + 2, draw=draw), np.cumsum(sizes)[:-1])
    sets = Comparison(train=train, twin_train=twin_train, heldout=heldout)
    one, two = ("train", "heldout"), ("train", "twin_train")
    of_heldout = [sets.nearest_distances("heldout", name) for name in two]
    v_one = near_threshold(of_heldout[0], sets.alpha)
    v_two = near_threshold(np.concatenate(of_heldout), sets.alpha)
    alone, twins = [], []
    for i in range(LOOKS):
        drawn = sets.with_samples(gens[i], gens[LOOKS + i])
        test = {"permutations": 999, "seed": i, "params": {}}
        credits = enumerate(_credits(drawn, "gen", one, v_one))
        pool = drawn.pool(*one)
        found = {f"affinity {k}": affinity(credit, pool, n_train=m, **test) for k, credit in credits}
        alone.append((i, found))
        credits = (_credits(drawn, name, two, v_two) for name in ("gen", "twin_gen"))
        pairs = enumerate(zip(*credits, strict=True))
        pool = drawn.pool(*two)
        twins.append((i, {f"own share {k}": own(*pair, pool, m_a=m, **test) for k, pair in pairs}))
    return tuple(
        detect(history, statistics=tuple(history[0][1]), looks=LOOKS).status
        for history in (alone, twins)
    )


def _credits(
    comparison: Comparison, query: str, pool: tuple[str, str], v: float | None
) -> tuple[Credit, Credit]:
    """The pool's credit for all samples, and for those within v."""
    near = comparison.credit(query, pool, within=-1 if v is None else v)
    return comparison.credit(query, pool), near


def one_sampler(steps: int, seed: int) -> dict[str, Any]:
    """One set of 4000 samples of the exact denoiser against 20 independent pairs (T, H): how often each rule rejects at 5 %."""
    gen = sample(EXACT, 4000, steps=steps, seed=seed)
    rejected = Counter()
    for pair in range(PAIRS):
        train, heldout = np.split(rows(M + 4000, seed=seed + 3, draw=pair), [M])
        comparison = Comparison(gen=gen, train=train, heldout=heldout, seed=pair)
        for name, result in one_model(comparison).items():
            rejected[name] += result.p_value is not None and result.p_value <= LEVEL
    return {"steps": steps, "grammatical": float(GRAMMAR.is_grammatical(gen).mean())} | rejected


def main() -> None:
    chosen = options(__doc__, draws=1000, seed=11)
    started = time.perf_counter()
    seed, processes = chosen.seed, chosen.processes
    p_values = defaultdict(list)
    for found in parallel(partial(one_draw, seed=seed), range(chosen.draws), processes):
        for key, p in found.items():
            p_values[key].append(p)
    alignments = parallel(partial(one_alignment, seed=seed), range(chosen.draws), processes)
    curves = parallel(partial(one_curve, seed=seed), range(chosen.draws), processes)
    samplers = parallel(partial(one_sampler, seed=seed), STEPS, processes)

    names = list(dict.fromkeys(name for name, _, _ in p_values))
    share = lambda found: f"{np.mean(np.asarray(found) <= LEVEL):.1%}"      # noqa: E731
    sizes = [[name, *(share(p_values[name, n, h]) for n, h in SIZES)] for name in names]
    sizes.append(["alignment (m = h = 300, 300 probe rows)", share(alignments), "", "", ""])
    alarms = [(kind, sum(curve[i] == "detected" for curve in curves)) for i, kind in enumerate(("one model", "two models"))]
    spread = math.sqrt(LEVEL * (1 - LEVEL) / chosen.draws)
    text = f"""# How often the rules call an unbiased sampler biased

{chosen.draws} null draws at each pair of sizes: training set (m = {M}), generated rows (n) and held-out rows (h) are independent samples
of the paper's grammar (q = 6, 16 leaves, grammar seed 0). Share of draws with p <= {LEVEL:.0%}; a rule of exact size scatters by
{spread:.1%} (one standard error), so within {LEVEL - 3 * spread:.1%} .. {LEVEL + 3 * spread:.1%}. 999 permutations. Near affinity is
taken within v, the near-copy threshold at 1 %, found anew in every draw. The divergence under `compat="paper"` is shown for comparison
and decides nothing.

{table(["rule", *(f"n = {n}, h = {h}" for n, h in SIZES)], sizes)}

`kl_own` and `auc_own` relabel a row with both models' distances at once: exact where both models make the same sample of the same noise.
Here the two models' samples are independent, the worst case, in which auc_own misses its size; neither decides. Few rows occur in both
sets, so that `shared_rows` is coarse and stays below 5 %.

## Over a training run

{chosen.draws} curves of {LOOKS} evaluations, the sets fixed within a curve (m = 500, h = 1000), 1000 fair samples an evaluation;
alpha = 5 % over the curve.

{table(["onset", f"false alarms of {chosen.draws}"], alarms)}

Two in a row are asked for, so the rate lies far below alpha.

## Exact samplers with few steps

One set of 4000 samples of the exact denoiser, which never saw T, against {PAIRS} independent pairs (T, H): rejections at 5 %.
Affinity is silent although the sampler is poor; the divergence misfires, because it measures quality too.

{table(["steps", "grammatical", *SHOWN], [[s["steps"], f"{s['grammatical']:.0%}", *(s[name] for name in SHOWN)] for s in samplers])}

![sizes](null.png)"""
    write(chosen.out, "null", text, draw(names, p_values, alignments, samplers, spread), started, seed)


def draw(names: list[str], p_values: dict, alignments: list[float], samplers: list[dict[str, Any]], spread: float) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), width_ratios=(3, 1), layout="constrained")
    for i, (n, h) in enumerate(SIZES):
        left.plot([np.mean(np.asarray(p_values[name, n, h]) <= LEVEL) for name in names], "os^D"[i], label=f"n = {n}, h = {h}")
    left.plot(len(names), np.mean(np.asarray(alignments) <= LEVEL), "kx", label="m = h = 300")
    left.axhspan(LEVEL - 3 * spread, LEVEL + 3 * spread, color="black", alpha=0.1, lw=0)
    left.axhline(LEVEL, color="black", lw=1, ls=":")
    left.set_xticks(range(len(names) + 1), [*names, "alignment"], rotation=35, ha="right")
    left.set(title="null draws called biased at 5 %", ylabel="share", ylim=(0, 0.1))
    left.legend(frameon=False, fontsize=8)
    for name in SHOWN:
        right.plot([str(s["steps"]) for s in samplers], [s[name] / PAIRS for s in samplers], "o-", label=name.replace("_", " "))
    right.set(title="exact samplers called biased", xlabel="reverse steps", ylim=(-0.03, 1.03))
    right.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
