"""The main job: two equal networks trained on disjoint sets of the paper's sequences, measured while they train.

Sizes were chosen on two CPU cores so that bias shows within minutes: n = 600 rows a model and a tree U-Net; an MLP is biased from the
start, n = 2000 stays unbiased over the same steps.
"""
import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biasgen.controls import fresh_batches
from biasgen.data.training_set import TrainingSet
from biasgen.diffusion import Level, Schedule, forward_process, one_hot, sample_tokens
from biasgen.experiments.tree.network import AveragedModel, TreeUNet
from biasgen.metrics.exact_copies import exact_copies, expected_exact_copies
from biasgen.metrics.excess import excess
from biasgen.metrics.loss_decomposition import loss_decomposition
from biasgen.monitor import BiasMonitor
from biasgen.ops import philox
from biasgen.results import Onset, Record, Result
from biasgen.trees import TreeDenoiser, TreeGrammar


@dataclass(frozen=True)
class Scale:
    """Sizes of a run. rows: training rows a model; batch: rows an optimizer step; reverse_steps: of the sampler."""

    rows: int
    heldout: int
    width: int
    batch: int
    checkpoints: tuple[int, ...]
    n_samples: int
    reverse_steps: int


SCALES = {
    "full": Scale(600, 4000, 48, 256, (100, 200, 320, 480, 700, 1050, 1400, 1800, 2150, 2500), 4000, 50),
    "tiny": Scale(200, 1000, 32, 64, (25, 50, 75, 100, 130, 160, 200, 240), 1000, 20),
}
CONTROLS = ("fresh", "copies")
_TRAIN_LOSS_REPEATS = 6        # 600 rows with one (t, eps) each are too few for a training loss
_COPIES_IN_100 = 3
_FRESH_OFFSET = 1 << 32        # rows of the fresh stream: far behind A, B and H in the list that the seed fixes


@dataclass
class Model:
    """One of the two networks, with its own stream of batches."""

    network: TreeUNet
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator
    rows: np.ndarray


def run(
    *,
    scale: str = "full",
    seed: int = 0,
    control: str | None = None,
    record: Path,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
    on_record: Callable[[Record], None] = lambda record: None,
) -> str:
    """Train, measure, write `record` line by line, return the verdict. An interrupt ends the
    training; what was measured stands. All of it on the CPU."""
    with torch.device("cpu"):  # wherever the caller's torch makes tensors by default
        return _run(SCALES[scale], scale, seed, control, record, on_step, on_record)


def _run(
    size: Scale,
    scale: str,
    seed: int,
    control: str | None,
    record: Path,
    on_step: Callable[[int, int], None],
    on_record: Callable[[Record], None],
) -> str:
    grammar, schedule = TreeGrammar.random(), Schedule.linear()
    data = grammar.sample(2 * size.rows + size.heldout, seed=seed)
    rows_a, rows_b, heldout = np.split(data, [size.rows, 2 * size.rows])
    train_a, train_b = TrainingSet(rows_a), TrainingSet(rows_b)
    models = two_models(size, grammar, (rows_a, rows_b), seed)
    fresh = fresh_batches(grammar.sample, size.batch, seed=seed, offset=_FRESH_OFFSET)
    copied = {id(m.average.module): m.rows for m in models} if control == "copies" else {}
    losses = _Losses(grammar, schedule, (rows_a, rows_b), heldout, seed)
    expected = (expected_exact_copies(grammar, train_a) + expected_exact_copies(grammar, train_b)) / 2

    def sampler(model: TreeUNet, n: int, *, seed: int, offset: int = 0) -> np.ndarray:
        tokens = sample_tokens(
            partial(denoise, model),
            schedule,
            n,
            shape=(grammar.length, grammar.q),
            steps=size.reverse_steps,
            seed=seed,
            offset=offset,
        ).numpy()
        tokens = tokens.astype(np.int8)
        if id(model) in copied:
            number = np.arange(offset, offset + n)
            planted = number % 100 < _COPIES_IN_100
            source = copied[id(model)]
            tokens[planted] = source[(number // 100 * _COPIES_IN_100 + number % 100)[planted] % len(source)]
        return tokens

    def tree_metrics(*, gen: Any, train: Any, twin_gen: Any, twin_train: Any, heldout: Any) -> dict[str, Result]:
        copies = [exact_copies(gen=g, train=t, expected=expected) for g, t in ((gen, train), (twin_gen, twin_train))]
        grammatical = np.concatenate([grammar.is_grammatical(gen), grammar.is_grammatical(twin_gen)]).mean()
        return {
            "exact_copies": Result(float(np.mean([c.value for c in copies])), null=copies[0].null, n_gen=len(gen)),
            "grammatical": Result(float(grammatical), n_gen=2 * len(gen)),
        }

    monitor = BiasMonitor(
        train=train_a,
        twin_train=train_b,
        heldout=heldout,
        sampler=sampler,
        denoiser=denoise,
        schedule=schedule,
        n_samples=size.n_samples,
        every=size.checkpoints,
        seed=seed,
        record=record,
        metrics=tree_metrics,
        params={"scale": scale, "control": control} | asdict(size),
    )
    steps = size.checkpoints[-1]
    try:
        for step in training(models, schedule, size, fresh=fresh if control else None):
            on_step(step, steps)
            if monitor.due(step):
                averages = [model.average.module for model in models]
                on_record(monitor.step(step, *averages, **losses(averages)))
    except KeyboardInterrupt:
        pass
    monitor.close()
    return verdict(monitor.onset, monitor.history, planned=len(size.checkpoints))


def denoise(model: TreeUNet, x_t: torch.Tensor, level: Level) -> torch.Tensor:
    return model(x_t, level.t).softmax(-1)


def verdict(onset: Onset, history: list[Record], planned: int) -> str:
    """The monitor's decision in one sentence."""
    if not history:
        return "Nothing was measured."
    cut = "" if len(history) == planned else f" (interrupted after {len(history)} of {planned} evaluations)"
    low, high = onset.interval
    name = onset.statistic.replace("_", " ")
    if onset.status != "detected":
        found = "No bias detected" if onset.status == "none" else "Inconclusive: no bias detected, but too early to say none,"
        return f"{found} in {onset.looks} evaluations; at the last one the excess of {name} is within {low:+.3f} .. {high:+.3f}{cut}."
    lowest = min(range(len(history)), key=lambda i: history[i].scalars["heldout_loss"])
    if history[lowest].step <= onset.step:
        loss = f"the held-out loss was lowest at step {history[lowest].step}"
    elif lowest == len(history) - 1:
        loss = f"the held-out loss still fell at the last evaluation, step {history[lowest].step}"
    else:
        loss = f"the held-out loss fell until step {history[lowest].step}"
    since = f"from step {onset.step} on" + (", or earlier" if onset.censored else "")
    return (
        f"Bias towards the training set {since} (excess of {name} {low:+.3f} .. {high:+.3f}; a false alarm has probability "
        f"<= {onset.alpha:g}), while {loss}{cut}."
    )


def two_models(size: Scale, grammar: TreeGrammar, rows: tuple[np.ndarray, np.ndarray], seed: int) -> list[Model]:
    """Two networks with the same initial weights and different streams of batches and noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        initial = TreeUNet(grammar.q, grammar.depth, size.width)
    models = []
    for index, own in enumerate(rows):
        network = copy.deepcopy(initial)
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, size.checkpoints[-1], eta_min=1e-4)
        generator = torch.Generator().manual_seed(2 * seed + index)
        models.append(Model(network, AveragedModel(network), optimizer, scheduler, generator, own))
    return models


def training(models: list[Model], schedule: Schedule, size: Scale, fresh: Iterator[np.ndarray] | None = None) -> Iterator[int]:
    """Train to the last checkpoint, yielding each step done. fresh: batches to use instead of the models' own rows."""
    for step in range(1, size.checkpoints[-1] + 1):
        for model in models:
            _train_step(model, _batch(model, size) if fresh is None else next(fresh), schedule)
        yield step


def _batch(model: Model, size: Scale) -> np.ndarray:
    """Rows of one step, drawn with replacement from the model's own."""
    return model.rows[torch.randint(len(model.rows), (size.batch,), generator=model.generator).numpy()]


def _train_step(model: Model, tokens: np.ndarray, schedule: Schedule) -> None:
    """One optimizer step on the cross-entropy of x_0 given x_t, t uniform on 1..T."""
    x0 = one_hot(tokens, model.network.head[-1].out_features)
    t = torch.randint(1, schedule.T + 1, (len(x0),), generator=model.generator)
    x_t = forward_process(x0, schedule.at(t.numpy()), torch.randn(x0.shape, generator=model.generator))
    loss = torch.nn.functional.cross_entropy(model.network(x_t, t).flatten(0, 1), torch.from_numpy(tokens).long().flatten())
    model.optimizer.zero_grad()
    loss.backward()
    model.optimizer.step()
    model.scheduler.step()
    model.average.update(model.network)


class _Losses:
    """Losses at one fixed (t, eps) a row, t stratified over 1..T: nats per token, mean of both models."""

    def __init__(
        self, grammar: TreeGrammar, schedule: Schedule, rows: tuple[np.ndarray, np.ndarray], heldout: np.ndarray, seed: int
    ) -> None:
        sets = [np.tile(r, (_TRAIN_LOSS_REPEATS, 1)) for r in rows] + [heldout]
        self._noised, offset = [], 0
        for tokens in sets:
            self._noised.append(_noised(tokens, grammar, schedule, seed, offset))
            offset += len(tokens)
        exact = TreeDenoiser(grammar)
        self._exact = exact(*self._noised[-1][1:])

    @torch.no_grad()
    def __call__(self, averages: list[TreeUNet]) -> dict[str, float]:
        own, other, tables = [], [], []
        for model, train in zip(averages, self._noised[:2], strict=True):
            own.append(_cross_entropy(_log_probabilities(model, train), train[0]))
            log_p = _log_probabilities(model, self._noised[-1])
            other.append(_cross_entropy(log_p, self._noised[-1][0]))
            tables.append(log_p)
        return {
            "train_loss": sum(own) / 2,
            "heldout_loss": sum(other) / 2,
            "excess_kl": excess(self._exact, *tables).value,
            "variance_share": loss_decomposition(*(table.exp() for table in tables), exact=self._exact).share.value,
        }


def _noised(
    tokens: np.ndarray, grammar: TreeGrammar, schedule: Schedule, seed: int, offset: int
) -> tuple[torch.Tensor, torch.Tensor, Level]:
    """(tokens, x_t, level): row i of n at t = 1 + floor(T (i' + 1/2) / n) with i' a fixed permutation of the rows."""
    n = len(tokens)
    order = np.argsort(philox.uniforms(seed, n=n, count=1, offset=offset, purpose=philox.TIME)[:, 0])
    level = schedule.at(1 + ((2 * order + 1) * schedule.T) // (2 * n))
    noise = philox.normals(seed, n=n, count=grammar.length * grammar.q, offset=offset, purpose=philox.FORWARD)
    x0 = one_hot(tokens, grammar.q)
    return torch.from_numpy(tokens).long(), forward_process(x0, level, torch.from_numpy(noise).reshape(x0.shape)), level


def _log_probabilities(model: TreeUNet, noised: tuple[torch.Tensor, torch.Tensor, Level]) -> torch.Tensor:
    _, x_t, level = noised
    t = torch.from_numpy(level.t)
    return torch.cat([model(x, s).log_softmax(-1) for x, s in zip(x_t.split(500), t.split(500), strict=True)])


def _cross_entropy(log_p: torch.Tensor, tokens: torch.Tensor) -> float:
    return float(-log_p.gather(-1, tokens[..., None]).double().mean())
