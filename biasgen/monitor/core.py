"""BiasMonitor: called from any training loop, it measures how a model leans on its training rows, and says when that began."""
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biasgen._numbers import is_number, is_whole
from biasgen._version import __version__
from biasgen.data.hygiene import describe
from biasgen.data.training_set import TrainingSet
from biasgen.metrics._sets import check_sets, rows_of, views_of
from biasgen.metrics.divergence_curve import divergence_curve
from biasgen.metrics.nn_divergence import largest_distance
from biasgen.metrics.registry import choose, default_metrics
from biasgen.monitor.evaluation import Evaluation, ModelDenoiser, Sampler
from biasgen.monitor.state import record_from_state, record_to_state
from biasgen.ops.nearest_credit import nearest_credit
from biasgen.results import SCHEMA, Onset, Record, Result, TurningPoint, json_safe
from biasgen.statistics.detection import FEWEST, detect, permutations_needed
from biasgen.statistics.power import Power, detectable, hubness
from biasgen.statistics.turning_point import lowest

_LOOKS = 25


class BiasMonitor:
    """Call monitor.step(step, model) in a training loop; at the steps named by `every` it measures the model against the training and the
    held-out rows, and appends a line to `record`. `onset` says whether and when bias began.

    With `sampler` it draws samples and compares their nearest neighbors. With `denoiser` and `schedule` it probes the denoiser itself
    (biasgen.alignment): no sampling, one forward a probe row and noise level. With both, samples decide and the probe is recorded.

    It leaves training as it was: global generators of torch, NumPy and Python are put back, every module's train / eval mode too, no
    gradient is recorded, and autocast is off inside.

    Args:
        train: rows the model trains on: array, tensor or TrainingSet; prepared once.
        heldout: rows of the same law and preprocessing that it does not train on.
        sampler: sampler(model, n, *, seed, offset=0) -> (n, ...) rows like `train`: numbers offset..offset+n of one list that (model, seed)
            fixes. A sampler that takes generator= instead (a torch.Generator seeded with `seed`) is called once. Every evaluation and
            both models use the same seed, hence the same noise.
        denoiser: denoiser(model, x_t, level) -> x0_hat; see biasgen.diffusion.as_denoiser for other predictions.
        schedule: names the noise levels of the probe.
        twin_train: training rows of a second model of the same architecture, disjoint from `train`. Then step takes twin=, and what is
            measured is the comparison of both models, whose null is exactly 1/2 (own share).
        n_samples: samples an evaluation (and model).
        probe_rows: held-out rows that the probe noises, at most half of them without a twin.
        probe_t: noise level or levels of the probe; None: 3 T / 10, measured on the paper's grammar: see where biasgen.bias_spectrum of a
            model of yours is informative.
        encode: see biasgen.alignment. Setting up the probe of N rows and m training rows of D numbers takes about 400 N m D operations
            and 50 N D floats: some seconds for tokens, minutes for images beyond some thousands of rows.
        every: evaluate at multiples of this step, or at these sorted steps.
        looks: planned number of evaluations, over which alpha is spent; None: the number of steps in `every`, else 25. A longer run is
            tested at the same level, with a warning, and Onset.alpha says what the bound has become.
        alpha: bound on the chance that `onset` says "detected" without bias within the planned evaluations.
        tolerance: excess that is not called bias, in units of the watched statistics. A probe sees very small ones.
        max_fraction: budget for everything the monitor does, as a share of the time spent on training. Evaluations beyond it are left out
            (`skipped`), but never so many that fewer than 8 of the planned ones remain: then a RuntimeWarning says so. What the first
            one costs is not known beforehand.
        seed: of samples, probe noise and permutations.
        record: path of the JSON lines. Line 1 is {"schema", "biasgen", "params"}, then one object an evaluation; close() adds
            {"onset": ...}. A file that exists must be this run's, and step() wants load_state_dict() first.
        distance: as in biasgen.train_affinity.
        metrics: what is recorded beside those of biasgen.evaluate, or with a twin of
            biasgen.split_comparison: names of the registry (biasgen.metrics), {name: settings}, or
            function(gen=, train=, heldout=, and with a twin twin_gen=, twin_train=) ->
            {name: Result}.
        params: settings of the run, kept in line 1 of the record.

    Attributes:
        history: list of Record. skipped: steps left out by the budget. seconds: what the monitor has cost so far. watched: the statistics
        that decide, the main one first.
    """

    def __init__(
        self,
        *,
        train: Any,
        heldout: Any,
        sampler: Sampler | None = None,
        denoiser: ModelDenoiser | None = None,
        schedule: Any = None,
        twin_train: Any = None,
        n_samples: int = 4000,
        probe_rows: int = 1500,
        probe_t: int | Sequence[int] | None = None,
        encode: Callable[[Any], torch.Tensor] | None = None,
        every: int | Sequence[int] = 1000,
        looks: int | None = None,
        alpha: float = 0.05,
        tolerance: float = 0.0,
        max_fraction: float | None = None,
        seed: int = 0,
        record: str | Path | None = None,
        distance: str | None = None,
        metrics: Any = None,
        params: dict[str, Any] | None = None,
    ) -> None:
        started = time.perf_counter()
        if sampler is None and denoiser is None:
            raise ValueError("sampler, denoiser: want at least one of them")
        if (denoiser is None) != (schedule is None):
            raise ValueError("denoiser, schedule: want both or neither")
        for name, count in (("n_samples", n_samples), ("probe_rows", probe_rows), ("looks", 1 if looks is None else looks)):
            if not is_whole(count, 1):
                raise ValueError(f"{name}: want a whole number of at least 1, got {count!r}")
        if not 0 < alpha < 1:
            raise ValueError(f"alpha: want a number in (0, 1), got {alpha!r}")
        if not is_number(tolerance) or tolerance < 0:
            raise ValueError(f"tolerance: want an excess >= 0, got {tolerance!r}")
        if max_fraction is not None and not (is_number(max_fraction) and max_fraction > 0):
            raise ValueError(f"max_fraction: want a share of the training time > 0, got {max_fraction!r}")
        steps = [every] if isinstance(every, Integral) else list(every)
        if not steps or isinstance(every, bool) or min(steps) < 1 or steps != sorted(set(steps)):
            raise ValueError(f"every: want a positive number of steps, or increasing positive steps, got {every}")
        if sampler is None and (distance is not None or metrics is not None):
            raise ValueError("distance, metrics: go together with sampler=, they are about samples")
        chosen = []
        if sampler is not None:
            used = check_sets(distance, train=train, twin_train=twin_train, heldout=heldout)
            twins = twin_train is not None
            given = ("gen", "train", "heldout", *(("twin_gen", "twin_train") if twins else ()))
            beside = default_metrics(used, twins=twins)
            chosen = choose(() if metrics is None else metrics, given=given, beside=beside)
        sets = {"train": train, "heldout": heldout, "twin_train": twin_train}
        described = {name: describe(_array(rows)) for name, rows in sets.items() if rows is not None}
        _check_different(described)

        self.history: list[Record] = []
        self.skipped: list[int] = []
        self._every = steps[0] if isinstance(every, Integral) else steps
        self._looks = looks or (_LOOKS if isinstance(every, Integral) else len(steps))
        self._planned = looks is not None or not isinstance(every, Integral)
        self._alpha, self._tolerance, self._max_fraction = alpha, tolerance, max_fraction
        sampled = ("train_affinity", "near_affinity") if twin_train is None else ("own_share", "near_own_share")
        self.watched = ("alignment",) if sampler is None else sampled
        views = views_of(train, twin_train, heldout)
        self._evaluation = Evaluation(
            train=train if sampler is None else _training_set(train, distance, views),
            heldout=heldout,
            twin_train=twin_train if sampler is None or twin_train is None else _training_set(twin_train, distance, views),
            sampler=sampler,
            denoiser=denoiser,
            schedule=schedule,
            probe_t=max(1, 3 * schedule.T // 10) if schedule is not None and probe_t is None else probe_t,
            probe_rows=probe_rows,
            encode=encode,
            n_samples=n_samples,
            distance=distance,
            metrics=chosen,
            permutations=permutations_needed(alpha / (len(self.watched) * self._looks)),
            seed=seed,
        )
        self._settings = {
            "every": self._every,
            "looks": self._looks,
            "alpha": alpha,
            "tolerance": tolerance,
            "watched": list(self.watched),
            "n_samples": None if sampler is None else n_samples,
            "probe_t": self._evaluation.probe_t,
            "seed": seed,
            "distance": None if sampler is None else self._evaluation.train.distance,
            "views": views,
            "sets": described,
        }
        self._header = json_safe({"schema": SCHEMA, "biasgen": __version__, "params": self._settings | (params or {})})
        self._record = None if record is None else Path(record)
        self._waits_for_state = self._record is not None and self._record.exists()
        if self._waits_for_state and not _begins_with(self._record, self._header):
            raise ValueError(f"record: {self._record} exists and is not of this run; name another file or remove it")
        for doubt in self._evaluation.prepare():
            warnings.warn(doubt, RuntimeWarning, stacklevel=2)
        if self._record is not None and not self._waits_for_state:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            self._rewrite()
        self.seconds = time.perf_counter() - started
        self._started = started
        self._closed = False

    def __enter__(self) -> "BiasMonitor":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def due(self, step: int) -> bool:
        """Is `step` one of those at which step(step, ...) evaluates, budget permitting?"""
        return step >= 1 and (step % self._every == 0 if isinstance(self._every, Integral) else step in self._every)

    def step(self, step: int, model: Any, twin: Any = None, **scalars: float) -> Record | None:
        """Evaluate if `step` is due. model, twin: what sampler and denoiser take. scalars: losses and the like, recorded as given."""
        if (twin is None) != (self._evaluation.twin_train is None):
            raise ValueError("twin: goes together with twin_train=; one of the two is missing")
        if self._waits_for_state:
            raise ValueError(f"record: {self._record} exists; continue its run by load_state_dict(), or name another file")
        if self._closed:
            raise ValueError("step: the monitor was closed, its record ends in the onset")
        if not self.due(step):
            return None
        last = max([*self.skipped, *(record.step for record in self.history)], default=0)
        if step <= last:
            raise ValueError(f"step: want increasing steps, got {step} after {last}; a run that continues wants load_state_dict() first")
        if not self._affordable():
            self.skipped.append(step)
            return None
        if len(self.history) == self._looks:
            warnings.warn(
                f"looks: {self._looks} evaluations were planned; those beyond add to the chance of a false alarm, see Onset.alpha",
                RuntimeWarning,
                stacklevel=2,
            )
        scalars = {name: float(value) for name, value in scalars.items()}
        started = time.perf_counter()
        metrics = self._evaluation(model, twin, first=not self.history)
        seconds = time.perf_counter() - started
        record = Record(step, seconds, scalars, metrics)
        self.seconds += seconds
        self.history.append(record)
        if self._record is not None:
            _append(self._record, record.as_dict())
        return record

    @property
    def onset(self) -> Onset:
        """Bias from the first of two consecutive evaluations at which one of `watched` is beyond its null at level
        alpha / (number watched x looks); see biasgen.statistics.detection.detect."""
        history = [(record.step, record.metrics) for record in self.history]
        return detect(history, statistics=self.watched, looks=self._looks, alpha=self._alpha, tolerance=self._tolerance)

    @property
    def turning_point(self) -> TurningPoint | None:
        """Where the NN divergence (with a twin: kl_own) is lowest, its interval from redrawing samples and held-out rows jointly over the
        evaluations. It mixes quality with bias: read it beside `onset`. None without a sampler or before the second evaluation."""
        if self._evaluation.sampler is None or len(self.history) < 2:
            return None
        name = "nn_divergence" if self._evaluation.twin_train is None else "kl_own"
        results = [record.metrics[name] for record in self.history]
        heldout = self._evaluation.heldout_distances
        pairs = [
            list(zip(np.atleast_2d(result.per_sample), heldout, strict=True)) for result in results
        ]
        largest = largest_distance(self.heldout, self._evaluation.comparison.distance)
        curve, redrawn = divergence_curve(pairs, largest=largest, seed=self._evaluation.seed)
        return lowest([record.step for record in self.history], curve, redrawn, null_q95=[result.null.q95 for result in results])

    @cached_property
    def power(self) -> Power | None:
        """The smallest bias that the planned evaluations will see; print its sentence() before a run. None without a sampler, and with a
        twin, whose own share has no forecast."""
        if self._evaluation.sampler is None or self._evaluation.twin_train is not None:
            return None
        train = self._evaluation.train
        return detectable(
            n=self._evaluation.n_samples,
            m=len(train),
            h=len(self.heldout),
            looks=self._looks,
            statistics=len(self.watched),
            alpha=self._alpha,
            hubness=max(1.0, hubness(nearest_credit(rows_of(self.heldout, "heldout"), train))),
        )

    @property
    def fraction(self) -> float:
        """What the monitor has cost so far, as a share of the time spent on training."""
        return self.seconds / (time.perf_counter() - self._started - self.seconds)

    @property
    def heldout(self) -> Any:
        """The held-out rows of every evaluation."""
        return self._evaluation.heldout

    def evaluate(self, model: Any, twin: Any = None, *, heldout: Any) -> dict[str, Result]:
        """The same measurement against other held-out rows and on other noise (the next seed); not recorded."""
        return self._evaluation.against(heldout, seed=self._evaluation.seed + 1)(model, twin)

    def close(self) -> None:
        """End the record with the line {"onset": ...}; the second time nothing. A monitor in a `with` statement is closed at its end."""
        closed, self._closed = self._closed, True
        if self._record is not None and not self._waits_for_state and not closed:
            _append(self._record, {"onset": self.onset.as_dict()})

    def state_dict(self) -> dict[str, Any]:
        """What a training checkpoint must hold to continue: plain containers and tensors (torch.load with weights_only=True reads them)."""
        return {
            "schema": SCHEMA,
            "settings": json_safe(self._settings),
            "history": [record_to_state(record) for record in self.history],
            "skipped": list(self.skipped),
            "seconds": self.seconds,
            "elapsed": time.perf_counter() - self._started,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from state_dict(). The record is rewritten to what the state knows: lines of evaluations after it are dropped, since
        they will be made again. ValueError when the state belongs to other settings or sizes."""
        if state.get("schema") != SCHEMA:
            raise ValueError(f"state: want schema {SCHEMA}, got {state.get('schema')!r}")
        settings = json_safe(self._settings)
        for name, value in settings.items():
            if state["settings"].get(name) != value:
                raise ValueError(f"state: was saved with {name} = {state['settings'].get(name)!r}, this monitor has {value!r}")
        self.history = [record_from_state(record) for record in state["history"]]
        self.skipped = list(state["skipped"])
        self.seconds += state["seconds"]
        self._started -= state["elapsed"]
        self._waits_for_state = False
        if self._record is not None:
            self._rewrite()

    def _affordable(self) -> bool:
        """Is one more evaluation within the budget, or needed to reach the fewest over the plan?"""
        if self._max_fraction is None:
            return True
        next_cost = self.history[-1].seconds if self.history else 0.0
        if self.seconds + next_cost <= self._max_fraction * (time.perf_counter() - self._started - self.seconds):
            return True
        due = len(self.history) + len(self.skipped) + 1
        fewest = min(FEWEST, self._looks)
        wanted = fewest * due / self._looks if self._planned else due     # without a plan the run may end at any time
        if len(self.history) >= min(fewest, math.floor(wanted)):
            return False
        warnings.warn(
            f"max_fraction: {self._max_fraction:g} does not pay for {fewest} evaluations; they are made all the same, and the monitor has "
            f"taken {self.fraction:.1%} of the training time so far",
            RuntimeWarning,
            stacklevel=3,
        )
        return True

    def _rewrite(self) -> None:
        part = self._record.with_name(self._record.name + ".part")
        part.unlink(missing_ok=True)
        for line in (self._header, *(record.as_dict() for record in self.history)):
            _append(part, line)
        os.replace(part, self._record)


def _array(rows: Any) -> Any:
    return rows.rows if hasattr(rows, "rows") else rows


def _check_different(described: dict[str, dict[str, Any]]) -> None:
    """ValueError for two sets of the same bytes: they would always be found alike."""
    seen: dict[str, str] = {}
    for name, entry in described.items():
        if entry["sha256"] in seen:
            raise ValueError(f"{name}: want other rows than those of {seen[entry['sha256']]}, got the same")
        seen[entry["sha256"]] = name


def _training_set(rows: Any, distance: str | None, views: tuple[str, ...]) -> TrainingSet:
    return rows if isinstance(rows, TrainingSet) else TrainingSet(rows_of(rows, "rows"), distance, views)


def _begins_with(path: Path, header: dict[str, Any]) -> bool:
    with path.open(encoding="utf-8") as file:
        try:
            return json.loads(file.readline()) == header
        except ValueError:
            return False


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(json_safe(line), allow_nan=False) + "\n")
