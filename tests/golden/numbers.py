"""Golden calls of metrics, statistics and the monitor."""

import json
import tempfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch

import biasgen
from biasgen import (
    BiasMonitor,
    EmpiricalDenoiser,
    Schedule,
    TrainingSet,
    TreeDenoiser,
    TreeGrammar,
    controls,
    statistics,
)
from biasgen.metrics.exact_copies import exact_copies, expected_exact_copies
from biasgen.metrics.excess import excess
from biasgen.metrics.optimal_loss import factorization_kl, optimal_loss
from biasgen.metrics.self_test import self_test
from biasgen.results import Result
from biasgen.statistics.turning_point import turning_point
from tests.golden.searches import rows

CLOSE, DOUBLE = 2e-5, 1e-9  # as in trees.py
SCHEDULE, GRAMMAR = Schedule.linear(100), TreeGrammar.random()
SETTINGS = {"permutations": 99, "seed": 3}


@cache
def three(kind):
    """gen, train, heldout, with a tenth of copies; a quarter of it from another law."""
    if kind == "tokens":
        law = GRAMMAR.sample(330, seed=1)
    elif kind == "images":
        law = rows("uint8", 330, 11, (6, 4, 3), 0) // np.uint8(8)
    else:
        law = rows(kind, 330, 11, (5,))
    gen, train, heldout = law[:90].copy(), law[100:200], law[200:]
    gen[:9] = train[10:19]
    return {"gen": gen, "train": train, "heldout": heldout}


def twins(kind):
    sets = three(kind)
    gen_b = sets["gen"][::-1].copy()
    gen_b[3:8] = sets["heldout"][:5]
    held = {
        "train_a": sets["train"],
        "train_b": sets["heldout"][:100],
        "heldout": sets["heldout"][100:],
    }
    return {"gen_a": sets["gen"], "gen_b": gen_b} | held


def calls():
    """(name, function, tolerance) of each call."""
    yield from _of_samples()
    yield from _of_denoisers()
    yield from _statistics()
    yield from _monitors()


def _of_samples():
    for kind in ("tokens", "images", "float32"):
        sets = three(kind)
        yield (
            f"train_affinity {kind}",
            lambda s=sets: biasgen.train_affinity(**s, **SETTINGS),
            DOUBLE,
        )
        yield (
            f"near_copies {kind}",
            lambda s=sets: biasgen.near_copies(**s, alpha=0.05, **SETTINGS),
            DOUBLE,
        )
        yield f"nn_divergence {kind}", lambda s=sets: biasgen.nn_divergence(**s, **SETTINGS), DOUBLE
        yield f"nn_auc {kind}", lambda s=sets: biasgen.nn_auc(**s, **SETTINGS), DOUBLE
        yield (
            f"self_test {kind}",
            lambda s=sets: self_test(train=s["train"], heldout=s["heldout"]),
            DOUBLE,
        )
        yield f"leakage {kind}", lambda s=sets: biasgen.leakage(**s, level=0.2), DOUBLE
        yield f"evaluate {kind}", lambda s=sets: _evaluated(**s), DOUBLE
        yield (
            f"split_comparison {kind}",
            lambda k=kind: biasgen.split_comparison(**twins(k), alpha=0.05, **SETTINGS),
            DOUBLE,
        )
    floats, tokens, images = (three(kind) for kind in ("float32", "tokens", "images"))
    placebo = floats | {"placebo": rows("float32", 60, 13, (5,))}
    for name in ("near_copies", "nn_divergence", "nn_auc", "nn_ks", "nn_wasserstein"):
        metric = getattr(biasgen, name)
        yield f"{name} with placebo", lambda m=metric: m(**placebo, **SETTINGS), DOUBLE
    yield (
        "nn_divergence of the authors",
        lambda: biasgen.nn_divergence(**tokens, compat="paper", **SETTINGS),
        DOUBLE,
    )
    yield (
        "train_affinity within",
        lambda: biasgen.train_affinity(**floats, within=0.4, **SETTINGS),
        DOUBLE,
    )
    yield (
        "train_affinity cityblock",
        lambda: biasgen.train_affinity(**floats, distance="cityblock", **SETTINGS),
        DOUBLE,
    )
    flipped = images | {"train": TrainingSet(images["train"], views=("identity", "hflip"))}
    yield "evaluate views", lambda: _evaluated(**flipped), DOUBLE
    streamed = tokens | {"train": TrainingSet(tokens["train"], max_memory=16 * 8 * 17)}
    yield "evaluate streamed", lambda: _evaluated(**streamed), DOUBLE
    yield "evaluate euclidean", lambda: _evaluated(**floats, distance="euclidean"), DOUBLE
    yield "evaluate table", lambda: biasgen.evaluate(**tokens, **SETTINGS).table(), None
    expected = cache(lambda: expected_exact_copies(GRAMMAR, tokens["train"]))
    yield "expected_exact_copies", expected, CLOSE
    pair = {"gen": tokens["gen"], "train": tokens["train"]}
    yield "exact_copies", lambda: exact_copies(**pair, expected=0.01), DOUBLE


def _evaluated(**settings):
    return json.loads(biasgen.evaluate(**settings, **SETTINGS).to_json())


def _loss(found, t):
    return (np.asarray(found, float) ** 2).sum(1) / t


def _of_denoisers():
    train, heldout = rows("float32", 40, 21, (6,)), rows("float32", 50, 23, (6,))
    pool = {"train": train, "heldout": heldout}
    yield (
        "membership",
        lambda: biasgen.membership(_loss, **pool, t=[1.0, 2.0], fpr=0.1, **SETTINGS),
        DOUBLE,
    )
    probe = rows("float32", 30, 25, (6,))
    denoiser = EmpiricalDenoiser(train)
    levels = {"schedule": SCHEDULE, "permutations": 29}
    yield (
        "alignment",
        lambda: biasgen.alignment(denoiser, **pool, probe=probe, t=[30, 50], **levels),
        CLOSE,
    )
    twin = EmpiricalDenoiser(heldout)
    yield (
        "alignment with twin",
        lambda: biasgen.alignment(
            denoiser, **pool, probe=probe, t=40, twin=twin, splits=2, **levels
        ),
        CLOSE,
    )
    yield (
        "bias_spectrum",
        lambda: biasgen.bias_spectrum(denoiser, **pool, probe=probe, t=[20, 60], **levels),
        CLOSE,
    )
    a, b, c, d, e = (rows("float64", 30, seed, (4, 3)) for seed in range(31, 41, 2))
    yield "loss_decomposition", lambda: biasgen.loss_decomposition(a, b), DOUBLE
    yield (
        "loss_decomposition in full",
        lambda: biasgen.loss_decomposition(
            a, b, exact=c, target=d, third=e, clusters=np.arange(30) // 3
        ),
        DOUBLE,
    )
    table = torch.from_numpy(b).softmax(-1)
    yield "excess", lambda: excess(table, torch.from_numpy(a).log_softmax(-1), redraws=99), DOUBLE
    yield "optimal_loss", lambda: optimal_loss(GRAMMAR, SCHEDULE, t=[10, 40], n=30), CLOSE
    yield "factorization_kl", lambda: factorization_kl(GRAMMAR, SCHEDULE, 2, t=[40], n=30), CLOSE
    sets = three("tokens")
    exact = TreeDenoiser(GRAMMAR)
    few = {"train": sets["train"], "heldout": sets["heldout"]}
    yield (
        "dose_curve",
        lambda: (
            lambda curve: (curve, curve.equivalent(biasgen.train_affinity(**sets, **SETTINGS)))
        )(
            controls.dose_curve(
                lambda gen: biasgen.train_affinity(gen=gen, **few, **SETTINGS),
                sets["train"].astype(np.int64),
                exact,
                SCHEDULE,
                [5, 30],
            )
        ),
        DOUBLE,
    )


def _statistics():
    rng = np.random.default_rng(7)
    values, over = rng.random(40), rng.random(40) + 0.5
    clusters = np.arange(40) // 4
    yield "ratio", lambda: statistics.ratio(values, over, clusters=clusters), DOUBLE
    yield "cluster_sums", lambda: statistics.cluster_sums(values, clusters), DOUBLE
    yield (
        "redrawn_sums",
        lambda: statistics.redrawn_sums(np.stack([values, over], 1), 20, np.random.default_rng(0)),
        DOUBLE,
    )
    yield "q_values", lambda: statistics.q_values(values**3), DOUBLE
    yield "permutations_needed", lambda: statistics.permutations_needed(1e-3), None
    yield "detectable", lambda: statistics.detectable(n=300, m=400, h=500, looks=10), 1e-6
    yield "turning_point", lambda: turning_point([1, 2, 3, 4], rng_table()), None
    yield (
        "lowest",
        lambda: statistics.lowest([5, 6, 9], values[:3], rng_table()[:, :3], [0.1, 0.2, 0.9]),
        None,
    )
    history = [
        (step, {"share": Result(0.5 + step / 100, ci=(0.45, 0.6 + step / 100), p_value=p)})
        for step, p in enumerate((0.5, 1e-4, 0.2, 1e-4, 1e-5), start=1)
    ]
    yield "detect", lambda: statistics.detect(history, statistics=["share"], looks=10), DOUBLE
    query, reference = rows("float32", 40, 3, (6,)), rows("float32", 70, 5, (6,))
    yield "hubness", lambda: statistics.hubness(biasgen.nearest_credit(query, reference)), DOUBLE


def rng_table():
    return np.random.default_rng(8).normal(size=(50, 4)) + np.array([0.3, 0, 0.1, 0.5])


def _monitors():
    yield "monitor of samples", lambda: _monitored(sampler=_drawn), DOUBLE
    yield (
        "monitor of twins",
        lambda: _monitored(sampler=_drawn, twin_train=GRAMMAR.sample(90, seed=77)),
        DOUBLE,
    )
    denoiser = EmpiricalDenoiser(three("tokens")["train"])
    probe = {"denoiser": lambda model, x_t, level: denoiser(x_t, level), "schedule": SCHEDULE}
    yield "monitor of a denoiser", lambda: _monitored(**probe, probe_rows=20, seed=1), CLOSE


def _drawn(model, n, *, seed, offset=0):
    made = GRAMMAR.sample(n, seed=seed + 50, offset=offset)
    made[: n // 10 * model] = np.resize(three("tokens")["train"], (n // 10 * model, 16))
    return made


def _monitored(**settings):
    """The record of three evaluations, without times and version; what the monitor concludes."""
    sets = {name: three("tokens")[name] for name in ("train", "heldout")}
    twin = {"twin": 0} if "twin_train" in settings else {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # so few rows have no near-copies
        path = Path(folder) / "record.jsonl"
        with BiasMonitor(**sets, n_samples=60, every=[1, 2, 4], record=path, **settings) as monitor:
            for step in range(5):
                monitor.step(step, step, train_loss=1 / (1 + step), **twin)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for name in ("seconds", "biasgen"):
            line.pop(name, None)
    return lines, monitor.turning_point, monitor.power
