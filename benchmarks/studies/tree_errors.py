"""How far tree posteriors are from float64 messages in the log domain, over fields that are hard: worst errors of every implementation."""
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.studies.common import options, parallel, table, write
from biasgen import backends
from biasgen.ops.tree_posterior import tree_posterior
from biasgen.oracle import tree_posterior as oracle
from biasgen.oracle.tree_evidence import SCALES, hard_fields
from biasgen.results import TreePosterior
from biasgen.testing import TOLERANCES, posterior_errors
from tests.tree_problems import arguments, assert_output, model, swept, tables

DEPTHS = (2, 4, 6, 8, 10)
BP_K = 2
COLUMNS = "leaves", "all nodes", "rules", f"leaves, BP_{BP_K}"


def implementations() -> Iterator[tuple[str, str]]:
    """(backend, instruction set) of those that run here."""
    yield "torch", ""
    module, _ = backends.load("cpu")
    yield from (("cpu", isa) for isa in (module._cpu.isa_levels() if module else ()))


def errors(job: tuple[str, int, int], seed: int) -> dict[tuple[str, ...], list[tuple[float, float]]]:
    """{(backend, instruction set, column): [worst at each scale]} of a grammar, depth and draw; AssertionError beyond the promise."""
    name, depth, draw = job
    grammar = swept(depth)[name]
    cases = hard_fields([seed, depth, draw], depth, *arguments(grammar))
    fields = [np.concatenate([field for (at, _, _), field in cases.items() if at == scale]) for scale in SCALES]
    found: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for levels, k in (("rules", 0), ("leaves", BP_K)):
        described = grammar.factorized(k)
        for field in fields:
            expected = oracle.tree_posterior(field, **model(described), levels=levels)
            for backend, isa in implementations():
                os.environ["BIASGEN_CPU_ISA"] = isa or "baseline"
                got = tree_posterior(field, described.tree, levels=levels, backend=backend)
                assert_output(got, expected)
                for column, errs in zip(COLUMNS[-1:] if k else COLUMNS, compared(got, expected), strict=False):
                    found.setdefault((backend, isa, column), []).append(errs)
    return found


def compared(got: TreePosterior, expected: tuple[Any, ...]) -> list[tuple[float, float]]:
    """posterior_errors of the leaves, and where there are such of all nodes and of the rules."""
    marginals, log_z, impossible, *ruled = expected
    shown = [np.asarray(part) for part in tables(got)]
    pairs = [(shown[-1], marginals[:, -shown[-1].shape[1] :])]
    if ruled:
        pairs.append((np.concatenate(shown, 1), marginals))
        flat = [[part.reshape(len(part), 1, -1) for part in parts] for parts in (got.rule_marginals, ruled[0])]
        pairs.append(tuple(np.concatenate(parts, 2) for parts in flat))
    return [posterior_errors(TreePosterior(one, got.log_z, got.impossible), (right, log_z, impossible)) for one, right in pairs]


def main() -> None:
    chosen = options(__doc__, draws=6, seed=61)
    started = time.perf_counter()
    jobs = [(name, depth, draw) for depth in DEPTHS for name in swept(depth) for draw in range(chosen.draws)]
    results = parallel(partial(errors, seed=chosen.seed), jobs, chosen.processes)
    worst = {}   # (depth, backend, instruction set, column): (scales, 2)
    for (_, depth, _), found in zip(jobs, results, strict=True):
        for key, of_scale in found.items():
            worst[depth, *key] = np.maximum(worst.get((depth, *key), 0), of_scale)
    lines = []
    for backend, isa in implementations():
        for depth in DEPTHS:
            at = [worst[depth, backend, isa, column].max(0) for column in COLUMNS]
            lines.append([f"{backend} {isa}".strip(), depth, *(f"{of[0]:.1e}" for of in at), f"{at[0][1]:.2f}", f"{at[-1][1]:.2f}"])
            print(*lines[-1], flush=True)
    rows = 20 * len(SCALES) * chosen.draws
    relative, smallest = TOLERANCES["marginals"].values()
    text = f"""# Errors of exact belief propagation

Worst relative error of a marginal and worst error of log_z, as a share of what is promised, against messages in the log domain in float64
(`biasgen/oracle/tree_posterior.py`, itself checked against the list of all derivations). Promised: {relative:g} of every marginal above
{smallest:.2g}, log_z to max(1e-5, 1e-7 L) + 1e-7 |log_z|. Each cell: {rows} samples of each of three grammars (the paper's, a Random
Hierarchy Model with v = 16 and m = 4, an ambiguous one with 5 symbols and rules of each level).

Fields: {", ".join(f"{scale:g}" for scale in SCALES)} times (the symbols of a string of the grammar; the same with one family that no rule
has; random symbols; normal numbers; every symbol, once to twice as much), each plain, with a fifth of the symbols excluded (-inf), with
every leaf masked, and with evidence that the grammar forbids (`biasgen/oracle/tree_evidence.py`). No result was NaN, and `impossible` was
right for all.

{table(["implementation", "depth", *COLUMNS, "log_z", f"log_z, BP_{BP_K}"], lines)}

torch computes in float64, as the oracle does, and shows the rounding of its float32 results, 2^-24 = 6e-8 (at depth 10 and 1e5 nats also
that of logarithms of 1e8). The native kernels keep float32 mantissas with exponents of their own: errors grow with the depth, not with
the field.

![worst relative error against the scale of the field](tree_errors.png)"""
    write(chosen.out, "tree_errors", text, draw_curves(worst), started, chosen.seed)


def draw_curves(worst: dict[tuple[Any, ...], np.ndarray]) -> Any:
    figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    for backend, isa in (next(implementations()), list(implementations())[-1]):
        for depth in DEPTHS:
            at = worst[depth, backend, isa, "leaves"][:, 0]
            style = {"marker": "o"} if isa else {"marker": "s", "linestyle": ":"}
            axis.loglog(SCALES, at, color=plt.cm.viridis(depth / 12), label=f"{backend} {isa}".strip() + f", depth {depth}", **style)
    axis.axhline(TOLERANCES["marginals"]["relative"], color="red", label="promised")
    axis.set_xlabel("scale of the field, nats")
    axis.set_ylabel("worst relative error of a leaf's marginal")
    figure.legend(fontsize=7, loc="outside right")
    return figure


if __name__ == "__main__":
    main()
