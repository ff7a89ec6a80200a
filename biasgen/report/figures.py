"""The demo's two pictures, drawn from its record. The only place that imports matplotlib."""
import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_OWN, _PLACEBO, _HELDOUT, _TRAIN, _EXCESS = "#c0392b", "#2471a3", "#555555", "#b9770e", "#7d3c98"


def draw_curves(evaluations: list[dict[str, Any]], path: str | Path) -> None:
    """Losses, excess and variance share above; own share, alignment and NN divergence with its placebo below; minima are marked."""
    steps = [e["step"] for e in evaluations]
    figure, axes = plt.subplots(2, 3, figsize=(15, 7), sharex=True, layout="constrained")
    loss, excess, variance, share, probe, divergence = axes.flat

    for name, label, color in (("train_loss", "training rows", _TRAIN), ("heldout_loss", "held-out rows", _HELDOUT)):
        _curve(loss, steps, [e["scalars"][name] for e in evaluations], label, color, minimum=name == "heldout_loss")
    loss.set(title="cross-entropy", ylabel="nats per token")

    _curve(excess, steps, [e["scalars"]["excess_kl"] for e in evaluations], "KL(exact || model)", _EXCESS, minimum=True)
    excess.set(title="excess over the optimum, held-out rows", ylabel="nats per token")

    _curve(variance, steps, [e["scalars"]["variance_share"] for e in evaluations], "differs between the models", _EXCESS)
    variance.set(title="variance share of the squared excess", ylabel="share")

    for axis, name, label, null in (
        (share, "own_share", "nearest row is the model's own", 0.5),
        (probe, "alignment", "denoiser leans to its own rows", 0.0),
    ):
        results = [e["metrics"][name] for e in evaluations]
        axis.fill_between(steps, [r["ci"][0] for r in results], [r["ci"][1] for r in results], color=_OWN, alpha=0.18, lw=0)
        _curve(axis, steps, [r["value"] for r in results], label, _OWN)
        axis.axhline(null, color="black", lw=1, ls=":", label=f"no bias: {null:g}")
    share.set(title="own share, 95 % interval", ylabel="share of samples")
    probe.set(title="alignment, 95 % interval (no sampling)", ylabel="1: memorized")

    own, placebo = ([e["metrics"][name] for e in evaluations] for name in ("kl_own", "kl_placebo"))
    _curve(divergence, steps, [r["value"] for r in own], "own training set", _OWN, minimum=True)
    _curve(divergence, steps, [r["value"] for r in placebo], "placebo: the other set", _PLACEBO)
    divergence.fill_between(steps, 0, [r["null"]["q95"] for r in own], color="black", alpha=0.1, lw=0, label="null, 95 %")
    divergence.set(title="NN divergence", ylabel="nats")
    if max(r["value"] for r in own) > 0.1:
        divergence.set_yscale("symlog", linthresh=0.02)     # an early value would flatten the rest
    divergence.set_ylim(bottom=0)

    for axis in axes.flat:
        axis.set_xscale("log")
        axis.set_xticks(steps, [str(s) for s in steps], rotation=45)
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("optimizer step")
    save(figure, path)


def draw_neighbours(evaluations: list[dict[str, Any]], path: str | Path) -> None:
    """Histograms of the distance to the nearest training row at three checkpoints: generated, placebo, held-out."""
    chosen = [evaluations[i] for i in sorted({0, (len(evaluations) - 1) // 2, len(evaluations) - 1})]
    figure, axes = plt.subplots(1, len(chosen), figsize=(4 * len(chosen), 3.6), sharey=True, squeeze=False, layout="constrained")
    for axis, evaluation in zip(axes.flat, chosen, strict=True):
        own, placebo = (evaluation["metrics"][name]["params"] for name in ("kl_own", "kl_placebo"))
        rows = (
            (own["gen_counts"], "generated, own set", _OWN),
            (placebo["gen_counts"], "generated, placebo set", _PLACEBO),
            (own["heldout_counts"], "held-out", _HELDOUT),
        )
        for offset, (counts, label, color) in zip((-0.27, 0, 0.27), rows, strict=True):
            total = sum(counts)
            axis.bar([d + offset for d in range(len(counts))], [c / total for c in counts], 0.27, label=label, color=color)
        shown = [d for d in range(len(own["gen_counts"])) if any(counts[d] for counts, _, _ in rows)]
        axis.set(title=f"step {evaluation['step']}", xlabel="Hamming distance to the nearest training row")
        axis.set_xlim(shown[0] - 0.7, shown[-1] + 0.7)
        axis.set_xticks(range(shown[0], shown[-1] + 1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("share of rows")
    axes[0, 0].legend(frameon=False, fontsize=8)
    save(figure, path)


def _curve(axis: Any, steps: list[int], values: list[float], label: str, color: str, *, minimum: bool = False) -> None:
    axis.plot(steps, values, "o-", ms=4, lw=1.6, color=color, label=label)
    if minimum:
        low = min(range(len(values)), key=values.__getitem__)
        axis.plot(steps[low], values[low], "v", ms=10, color=color, label=f"lowest at step {steps[low]}")


def save(figure: Any, path: str | Path) -> None:
    """Write a PNG, whole or not at all, and close the figure."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=130, format="png")
    plt.close(figure)
    os.replace(part, path)
