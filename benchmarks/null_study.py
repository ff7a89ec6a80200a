"""The size of every decision rule over 1000 null draws of the paper's grammar; writes docs/null_study.md.

Run: python benchmarks/null_study.py [--draws 1000] [--seed 11] [--out docs/null_study.md]. A few minutes on one core.
"""
import argparse
import datetime
import math
import time
from pathlib import Path

import numpy as np

import biasgen._version
from biasgen.data.training_set import TrainingSet
from biasgen.metrics._sets import near_credit, nearest_distances, pool_credit
from biasgen.metrics.near_copies import near_threshold
from biasgen.metrics.nn_divergence import divergence
from biasgen.metrics.train_affinity import affinity
from biasgen.results import Result
from biasgen.trees.grammar import TreeGrammar

M = 2000
SIZES = ((4000, 4000), (4000, 20_000), (4000, 2000), (20_000, 4000))
LEVEL = 0.05
ALPHA = 0.01
PERMUTATIONS = 999
ROWS_A_DRAW = 1 << 16     # of the grammar's list of samples: more than any draw uses, so draws are independent


def one_draw(rows: np.ndarray, n: int, h: int, seed: int) -> dict[str, Result]:
    """The Results of train_affinity, train_affinity within v and nn_divergence on rows of one law, on one set of searches."""
    gen = rows[M : M + n]
    pool = TrainingSet(np.concatenate([rows[:M], rows[M + n : M + n + h]]), distance="hamming")
    train = TrainingSet(rows[:M], distance="hamming")
    to_gen, to_heldout = (nearest_distances(part, train, "hamming") for part in (gen, rows[M + n : M + n + h]))
    credit = pool_credit(gen, pool, "hamming")
    near = near_credit(gen, pool, "hamming", credit, near_threshold(to_heldout, ALPHA))
    test = {"permutations": PERMUTATIONS, "seed": seed}
    return {
        "train affinity": affinity(credit, n_train=M, **test, params={}),
        "near affinity": affinity(near, n_train=M, **test, params={}),
        "NN divergence": divergence([(to_gen, to_heldout)], largest=rows.shape[1], **test),
        "NN divergence, paper": divergence([(to_gen, to_heldout)], largest=rows.shape[1], **test, compat="paper"),
    }


def study(draws: int, seed: int) -> list[tuple]:
    """One row (n, h, rule, rejections, mean value, mean of the null means, share of intervals that cover the mean value)."""
    grammar = TreeGrammar.random()
    table = []
    for n, h in SIZES:
        results: dict[str, list[Result]] = {}
        for draw in range(draws):
            rows = grammar.sample(M + n + h, seed=seed, offset=draw * ROWS_A_DRAW)
            for rule, result in one_draw(rows, n, h, seed=draw).items():
                results.setdefault(rule, []).append(result)
        for rule, found in results.items():
            mean = float(np.mean([r.value for r in found]))
            null = float(np.mean([r.null.mean for r in found]))
            truth = mean if rule.startswith("NN") else null
            covered = sum(r.ci[0] <= truth <= r.ci[1] for r in found)
            table.append((n, h, rule, sum(r.p_value <= LEVEL for r in found), mean, null, covered))
            print(*table[-1], flush=True)
    return table


def page(table: list[tuple], draws: int, seed: int, minutes: float) -> str:
    """The committed result."""
    low, high = (round(draws * LEVEL + z * math.sqrt(draws * LEVEL * (1 - LEVEL))) for z in (-3, 3))
    expected = round(draws * LEVEL)
    lines = [
        "# How often the rules call an unbiased sampler biased",
        "",
        f"{draws} null draws at each pair of sizes: training set (m = {M}), generated rows (n) and held-out rows (h) are independent",
        f"samples of the paper's grammar (q = 6, 16 leaves, grammar seed 0). A rule rejects at p <= {LEVEL}, from {PERMUTATIONS}",
        f"permutations; one of exact size rejects {expected} times, within {low}..{high} at three standard errors. Near affinity is taken",
        f"within v, the near-copy threshold at alpha = {ALPHA}, found anew in every draw. *Covered*: 95 % intervals that hold the truth",
        "(affinity: m / (m + h); divergence: the mean of its value over the draws). The sizes share rows within a draw, so",
        "their counts are not independent.",
        "",
        f"Seed {seed}, {datetime.date.today().isoformat()}, biasgen {biasgen._version.__version__}, {minutes:.0f} min on one core; made by",
        "`python benchmarks/null_study.py`.",
        "",
        f"| n | h | rule | rejections of {draws} | mean value | mean under the null | covered |",
        "|---:|---:|---|---:|---:|---:|---:|",
    ]
    for n, h, rule, hits, mean, null, covered in table:
        lines.append(f"| {n} | {h} | {rule} | {hits} | {mean:.5f} | {null:.5f} | {covered / draws:.1%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "null_study.md")
    options = parser.parse_args()
    start = time.perf_counter()
    table = study(options.draws, options.seed)
    options.out.write_text(page(table, options.draws, options.seed, (time.perf_counter() - start) / 60))


if __name__ == "__main__":
    main()
