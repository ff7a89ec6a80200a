"""The main job: two equal networks trained on disjoint sets of the paper's sequences, measured while they train.

Sizes were chosen on two CPU cores so that bias shows within minutes: n = 600 rows a model and a tree U-Net; an MLP is biased from the
start, n = 2000 stays unbiased over the same steps.
"""
import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biasgen.data.training_set import TrainingSet
from biasgen.diffusion import Level, Schedule, forward_process, one_hot, sample_tokens
from biasgen.experiments.tree.network import AveragedModel, TreeUNet
from biasgen.metrics.exact_copies import exact_copies, expected_exact_copies
from biasgen.metrics.excess import excess_kl, variance_share
from biasgen.monitor import BiasMonitor
from biasgen.ops import philox
from biasgen.results import Record, Result
from biasgen.statistics.detection import first_of_two
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
ALPHA = 0.05
_TRAIN_LOSS_REPEATS = 6        # 600 rows with one (t, eps) each are too few for a training loss
_COPIES_IN_100 = 3
_FRESH_OFFSET = 1 << 32        # rows of the fresh stream: far behind A, B and H in the list that the seed fixes


@dataclass
class _Model:
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
    """Train, measure, write `record` line by line, return the verdict. An interrupt ends the training; what was measured stands."""
    size = SCALES[scale]
    grammar, schedule = TreeGrammar.random(), Schedule.linear()
    data = grammar.sample(2 * size.rows + size.heldout, seed=seed)
    rows_a, rows_b, heldout = np.split(data, [size.rows, 2 * size.rows])
    train_a, train_b = TrainingSet(rows_a), TrainingSet(rows_b)
    models = _models(size, grammar, seed, (rows_a, rows_b))
    losses = _Losses(grammar, schedule, (rows_a, rows_b), heldout, seed)
    expected = (expected_exact_copies(grammar, train_a) + expected_exact_copies(grammar, train_b)) / 2
    copied = {id(m.average.module): m.rows for m in models} if control == "copies" else {}

    def sampler(model: TreeUNet, n: int, *, seed: int, offset: int = 0) -> np.ndarray:
        tokens = sample_tokens(
            lambda x, level: model(x, level.t).softmax(-1),
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
        n_samples=size.n_samples,
        every=size.checkpoints,
        seed=seed,
        record=record,
        metrics=tree_metrics,
        params={"scale": scale, "control": control} | asdict(size),
    )
    steps = size.checkpoints[-1]
    try:
        for step in range(1, steps + 1):
            for number, model in enumerate(models):
                if control is None:
                    rows = _batch(model, size)
                else:
                    rows = grammar.sample(size.batch, seed=seed, offset=_FRESH_OFFSET + (len(models) * step + number) * size.batch)
                _train_step(model, rows, schedule)
            on_step(step, steps)
            if monitor.due(step):
                averages = [model.average.module for model in models]
                on_record(monitor.step(step, *averages, **losses(averages)))
    except KeyboardInterrupt:
        pass
    return verdict(monitor.history, planned=len(size.checkpoints))


def verdict(history: list[Record], planned: int) -> str:
    """One sentence: bias is reported from the first of two consecutive evaluations at which the permutation p of own share or of near own
    share is below .05 / (2 * planned evaluations)."""
    if not history:
        return "Nothing was measured."
    threshold = ALPHA / (2 * planned)
    p_values = [min(r.metrics["own_share"].p_value, r.metrics["near_own_share"].p_value) for r in history]
    first = first_of_two(p_values, threshold)
    cut = "" if len(history) == planned else f" (interrupted after {len(history)} of {planned} evaluations)"
    if first is None:
        return f"No bias detected in {len(history)} evaluations: smallest p = {min(p_values):.3g}, threshold {threshold:.3g}{cut}."
    r = history[first]
    name = "own_share" if r.metrics["own_share"].p_value < threshold else "near_own_share"
    lowest = min(range(len(history)), key=lambda i: history[i].scalars["heldout_loss"])
    if lowest <= first:
        loss = f"the held-out loss was lowest at step {history[lowest].step}"
    elif lowest == len(history) - 1:
        loss = f"the held-out loss still fell at the last evaluation, step {history[lowest].step}"
    else:
        loss = f"the held-out loss fell until step {history[lowest].step}"
    share = r.metrics[name]
    return (
        f"Bias towards the training set from step {r.step} on ({name.replace('_', ' ')} {share.value:.3f} against 1/2, "
        f"p = {share.p_value:.3g}, threshold {threshold:.3g}), while {loss}{cut}."
    )


def _models(size: Scale, grammar: TreeGrammar, seed: int, rows: tuple[np.ndarray, np.ndarray]) -> list[_Model]:
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
        models.append(_Model(network, AveragedModel(network), optimizer, scheduler, generator, own))
    return models


def _batch(model: _Model, size: Scale) -> np.ndarray:
    """Rows of one step, drawn with replacement from the model's own."""
    return model.rows[torch.randint(len(model.rows), (size.batch,), generator=model.generator).numpy()]


def _train_step(model: _Model, tokens: np.ndarray, schedule: Schedule) -> None:
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
        own, other, excess, tables = [], [], [], []
        for model, train in zip(averages, self._noised[:2], strict=True):
            own.append(_cross_entropy(_log_probabilities(model, train), train[0]))
            log_p = _log_probabilities(model, self._noised[-1])
            other.append(_cross_entropy(log_p, self._noised[-1][0]))
            excess.append(float(excess_kl(self._exact, log_p).mean()))
            tables.append(log_p.exp())
        return {
            "train_loss": sum(own) / 2,
            "heldout_loss": sum(other) / 2,
            "excess_kl": sum(excess) / 2,
            "variance_share": float(variance_share(*tables, self._exact)),
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
