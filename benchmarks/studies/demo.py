"""The demo over seeds, with its controls: what turns first, and how often the monitor is wrong.

Run: python -m benchmarks.studies.demo [--seeds 8] [--toys 20] [--out docs/studies]. Half an hour on two cores.
"""
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from benchmarks.studies.common import options, parallel, table, write
from biasgen.experiments.tree import demo
from biasgen.report.records import read_record


def one_run(job: tuple[str, str | None, int], folder: Path) -> dict[str, Any]:
    """Evaluations and onset of `biasgen demo` at a scale, with a control, from a seed; a record that is there already is read."""
    scale, control, seed = job
    record = folder / f"{scale}-{control}-{seed}.jsonl"
    if not record.exists() or read_record(record)[2] is None:
        record.unlink(missing_ok=True)
        demo.run(scale=scale, control=control, seed=seed, record=record)
    _, evaluations, onset = read_record(record)
    return {"seed": seed, "evaluations": evaluations, "onset": onset}


def lowest(evaluations: list[dict[str, Any]], read: Any) -> tuple[int, bool]:
    """(step of the lowest value, is it the last step?)."""
    values = [read(e) for e in evaluations]
    index = min(range(len(values)), key=values.__getitem__)
    return evaluations[index]["step"], index == len(values) - 1


def turns(run: dict[str, Any]) -> dict[str, tuple[int, bool]]:
    """Steps at which something happens; True: censored."""
    evaluations = run["evaluations"]
    return {
        "NN divergence": lowest(evaluations, lambda e: e["metrics"]["kl_own"]["value"]),
        "placebo": lowest(evaluations, lambda e: e["metrics"]["kl_placebo"]["value"]),
        "excess": lowest(evaluations, lambda e: e["scalars"]["excess_kl"]),
        "held-out loss": lowest(evaluations, lambda e: e["scalars"]["heldout_loss"]),
    }


def sign_test(pairs: list[tuple[tuple[int, bool], tuple[int, bool]]]) -> str:
    """One-sided sign test that the first of each pair comes before the second; ties are left out."""
    before = sum(a < b for (a, _), (b, _) in pairs)
    n = sum(a != b for (a, _), (b, _) in pairs)
    p = sum(math.comb(n, k) for k in range(before, n + 1)) / 2**n
    censored = sum(a or b for (_, a), (_, b) in pairs)
    return f"{before} of {n}, p = {p:.2g}" + (f" ({censored} censored)" if censored else "")


def main() -> None:
    chosen = options(__doc__, seeds=8, toys=20)
    chosen.records.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    jobs = [("full", None, seed) for seed in range(chosen.seeds)] + [("full", "fresh", 0), ("full", "copies", 0)]
    jobs += [("tiny", control, seed) for control in ("fresh", "copies") for seed in range(chosen.toys)]
    runs = dict(zip(jobs, parallel(partial(one_run, folder=chosen.records), jobs, chosen.processes), strict=True))
    plain = [runs["full", None, seed] for seed in range(chosen.seeds)]
    lines = []
    for run in plain:
        found, first, last = turns(run), run["evaluations"][0]["metrics"], run["evaluations"][-1]["metrics"]
        lines.append(
            [
                run["seed"],
                _onset(run),
                *(f"{step}{' (last)' if censored else ''}" for step, censored in found.values()),
                f"{100 * first['alignment']['value']:.1f} -> {100 * last['alignment']['value']:.1f} %",
                f"{first['own_share']['value']:.3f} -> {last['own_share']['value']:.3f}",
                f"{last['kl_own']['value']:.4f} / {last['kl_placebo']['value']:.4f}",
                f"{100 * first['grammatical']['value']:.0f} -> {100 * last['grammatical']['value']:.0f} %",
            ]
        )
    heading = ["seed", "bias reported from", "NN divergence lowest", "its placebo lowest", "excess lowest", "held-out loss lowest"]
    heading += ["alignment", "own share", "NN divergence / placebo, end", "grammatical"]
    all_turns = [turns(run) for run in plain]
    for run, found in zip(plain, all_turns, strict=True):
        found["bias reported"] = (run["onset"]["step"] or math.inf, run["onset"]["censored"])
    tests = [
        [name, sign_test([(found[name], found["held-out loss"]) for found in all_turns])]
        for name in ("bias reported", "NN divergence", "placebo")
    ]
    alarms = {c: sum(runs["tiny", c, s]["onset"]["status"] == "detected" for s in range(chosen.toys)) for c in ("fresh", "copies")}
    fresh = runs["full", "fresh", 0]
    shares = [e["metrics"]["own_share"]["value"] for e in fresh["evaluations"]]
    text = f"""# The demo over {chosen.seeds} seeds, and its controls

`biasgen demo --seed 0` to `{chosen.seeds - 1}`: two networks on disjoint sets of 600 sequences.

{table(heading, lines)}

Before the held-out loss is lowest (one-sided sign test over seeds):

{table(["what", "comes first"], tests)}

The placebo (the divergence against the other model's set) is what the same statistic does without bias: where it comes first as well,
the turn of the divergence is not evidence of bias by itself.

## Controls

| control | toy scale, {chosen.toys} seeds: bias reported | full scale, seed 0 |
| --- | ---: | --- |
| fresh rows at every step: must report none | {alarms["fresh"]} | {_onset(fresh)}, own share {min(shares):.3f} .. {max(shares):.3f} |
| the same with 3 % planted copies: must report them | {alarms["copies"]} | {_onset(runs["full", "copies", 0])} |

![curves over seeds](demo.png)"""
    write(chosen.out, "demo", text, draw(plain, fresh), started, 0)


def _onset(run: dict[str, Any]) -> str:
    onset = run["onset"]
    earlier = " or before" if onset["censored"] else ""
    return f"{onset['step']}{earlier} ({onset['statistic']})" if onset["step"] else onset["status"]


def draw(plain: list[dict[str, Any]], fresh: dict[str, Any]) -> Any:
    figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained")
    panels = {
        "held-out loss, nats per token": lambda e: e["scalars"]["heldout_loss"],
        "own share": lambda e: e["metrics"]["own_share"]["value"],
        "alignment": lambda e: e["metrics"]["alignment"]["value"],
        "NN divergence, nats": lambda e: e["metrics"]["kl_own"]["value"],
    }
    for axis, (title, read) in zip(axes, panels.items(), strict=True):
        for run in (*plain, fresh):
            steps = [e["step"] for e in run["evaluations"]]
            style = {"color": "#2471a3", "label": "fresh rows"} if run is fresh else {"color": "#c0392b", "alpha": 0.5}
            axis.plot(steps, [read(e) for e in run["evaluations"]], "o-", ms=3, **style)
        axis.set(title=title, xscale="log", xlabel="optimizer step")
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    axes[3].set_yscale("log")
    return figure


if __name__ == "__main__":
    main()
