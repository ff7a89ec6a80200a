"""BiasMonitor: called from any training loop, it samples the model and records how near the samples lie to the training set."""
import inspect
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biasgen._version import __version__
from biasgen.data.training_set import TrainingSet
from biasgen.metrics._sets import check_sets
from biasgen.metrics.evaluate import one_model
from biasgen.metrics.split_comparison import split_comparison
from biasgen.results import SCHEMA, Record, Result, json_safe

Sampler = Callable[..., Any]
"""sampler(model, n, *, seed, offset=0) -> (n, ...) rows like `train`: numbers offset..offset+n of one list that (model, seed) fixes. A
sampler that takes generator= instead (a torch.Generator seeded with `seed`) is called once."""


class BiasMonitor:
    """Call monitor.step(step, model) in a training loop; at the steps named by `every` it draws samples, measures them against the training
    and the held-out rows, and appends a line to `record`.

    It leaves training as it was: global generators of torch, NumPy and Python are put back, every module's train / eval mode too, and no
    gradient is recorded.

    Args:
        train: rows the model trains on: array, tensor or TrainingSet; prepared once.
        heldout: rows of the same law and preprocessing that it does not train on.
        twin_train: training rows of a second model of the same architecture, disjoint from `train`. Then step takes twin=, and what is
            measured is the split comparison, whose null is exactly 1/2.
        sampler: see Sampler. Every evaluation and both models use the same seed, hence the same noise.
        n_samples: samples an evaluation (and model).
        every: evaluate at multiples of this step, or at these sorted steps.
        seed: of the sampler and of the permutations.
        record: path of the JSON lines; must not exist yet. Line 1 is {"schema", "biasgen", "params"}, then one object an evaluation.
        distance: as in biasgen.train_affinity.
        metrics: function(gen=, train=, heldout=, and with a twin twin_gen=, twin_train=) -> {name: Result}, added to the record.
        params: settings of the run, kept in line 1 of the record.

    Attributes:
        history: list of Record. seconds: what the monitor has cost so far.
    """

    def __init__(
        self,
        *,
        train: Any,
        heldout: Any,
        sampler: Sampler,
        twin_train: Any = None,
        n_samples: int = 4000,
        every: int | Sequence[int] = 1000,
        seed: int = 0,
        record: str | Path | None = None,
        distance: str | None = None,
        metrics: Callable[..., dict[str, Result]] | None = None,
        params: dict[str, Any] | None = None,
    ) -> None:
        if n_samples < 1:
            raise ValueError(f"n_samples: want at least 1, got {n_samples}")
        steps = [every] if isinstance(every, int) else list(every)
        if not steps or min(steps) < 1 or steps != sorted(set(steps)):
            raise ValueError(f"every: want a positive number of steps, or increasing positive steps, got {every}")
        self.train = _training_set(train, distance)
        self.twin_train = None if twin_train is None else _training_set(twin_train, distance)
        check_sets(distance, train=self.train, twin_train=self.twin_train, heldout=heldout)
        self.heldout = heldout
        self.history: list[Record] = []
        self.seconds = 0.0
        self._sampler, self._n_samples, self._every, self._seed = sampler, n_samples, every, seed
        self._metrics = metrics
        self._record = None if record is None else Path(record)
        if self._record is not None:
            if self._record.exists():
                raise ValueError(f"record: {self._record} exists; name another file or remove it")
            self._record.parent.mkdir(parents=True, exist_ok=True)
            settings = {
                "n_samples": n_samples,
                "every": every if isinstance(every, int) else steps,
                "seed": seed,
                "distance": self.train.distance,
                "n_train": len(self.train),
                "n_heldout": len(heldout),
                "twin": twin_train is not None,
            }
            self._write({"schema": SCHEMA, "biasgen": __version__, "params": settings | (params or {})})

    def due(self, step: int) -> bool:
        """Will step(step, ...) evaluate?"""
        return step >= 1 and (step % self._every == 0 if isinstance(self._every, int) else step in self._every)

    def step(self, step: int, model: Any, twin: Any = None, **scalars: float) -> Record | None:
        """Evaluate if `step` is due. model, twin: what the sampler takes. scalars: losses and the like, recorded as given."""
        if (twin is None) != (self.twin_train is None):
            raise ValueError("twin: goes together with twin_train=; one of the two is missing")
        if not self.due(step):
            return None
        started = time.perf_counter()
        gen = self._sample(model)
        sets = {"gen": gen, "train": self.train, "heldout": self.heldout}
        if twin is None:
            metrics = one_model(**sets, seed=self._seed)
        else:
            twins = {"twin_gen": self._sample(twin), "twin_train": self.twin_train}
            metrics = split_comparison(
                gen_a=gen, gen_b=twins["twin_gen"], train_a=self.train, train_b=self.twin_train, heldout=self.heldout, seed=self._seed
            ).as_dict()
            sets |= twins
        if self._metrics is not None:
            metrics |= self._metrics(**sets)
        seconds = time.perf_counter() - started
        record = Record(step, seconds, {name: float(value) for name, value in scalars.items()}, metrics)
        self.seconds += seconds
        self.history.append(record)
        if self._record is not None:
            self._write(record.as_dict())
        return record

    def _sample(self, model: Any) -> Any:
        with _untouched(model):
            if "generator" in inspect.signature(self._sampler).parameters:
                rows = self._sampler(model, self._n_samples, generator=torch.Generator().manual_seed(self._seed))
            else:
                rows = self._sampler(model, self._n_samples, seed=self._seed, offset=0)
        if len(rows) != self._n_samples:
            raise ValueError(f"sampler: asked for {self._n_samples} rows, got {len(rows)}")
        return rows

    def _write(self, line: dict[str, Any]) -> None:
        with self._record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(json_safe(line), allow_nan=False) + "\n")


def _training_set(rows: Any, distance: str | None) -> TrainingSet:
    return rows if isinstance(rows, TrainingSet) else TrainingSet(rows, distance)


@contextmanager
def _untouched(model: Any) -> Iterator[None]:
    """Eval mode and no gradients inside; every module's mode and the global generators as before afterwards."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, torch.nn.Module) else []
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
