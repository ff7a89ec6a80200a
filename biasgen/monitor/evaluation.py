"""One evaluation of a monitor: the sets prepared once, samples drawn and forwards made anew at each checkpoint."""
import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from biasgen.data.hygiene import check_ranges
from biasgen.metrics._sets import rows_of
from biasgen.metrics.alignment import AlignmentProbe
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.near_affinity import near_threshold
from biasgen.metrics.registry import Chosen, measure
from biasgen.metrics.self_test import self_test, warnings_of
from biasgen.monitor.isolation import untouched
from biasgen.results import Result

Sampler = Callable[..., Any]
"""sampler(model, n, *, seed, offset=0) -> (n, ...) rows like `train`: numbers offset..offset+n of one list that (model, seed) fixes. A
sampler that takes generator= instead (a torch.Generator seeded with `seed`) is called once."""

ModelDenoiser = Callable[..., Any]
"""denoiser(model, x_t, level) -> x0_hat, of the shape of x_t."""

_RELABELINGS = 49     # of the probe: setting it up costs as much as some evaluations, and Student's t wants no more


@dataclass(frozen=True)
class Evaluation:
    """Calls of it, (model, twin=None) -> {name: Result}, draw the same noise every time. Fields: see BiasMonitor.

    sampler or denoiser (with schedule) may be None, not both. metrics: what is measured of samples,
    ready to run. permutations: of the nulls of samples. seed: of everything.
    """

    train: Any
    heldout: Any
    twin_train: Any
    sampler: Sampler | None
    denoiser: ModelDenoiser | None
    schedule: Any
    probe_t: int | Sequence[int] | None
    probe_rows: int
    encode: Callable[[Any], torch.Tensor] | None
    n_samples: int
    distance: str | None
    metrics: Chosen
    permutations: int
    seed: int

    def __call__(self, model: Any, twin: Any = None, *, first: bool = True) -> dict[str, Result]:
        """first: samples on another scale than train are an error, not a warning: it is not yet too late to mend the sampler."""
        found: dict[str, Result] = {}
        with untouched(model, twin):
            if self.denoiser is not None:
                found["alignment"] = self._probe(*(partial(self.denoiser, m) for m in (model, twin) if m is not None))
            if self.sampler is not None:
                gen = self._sample(model, first)
                twin_gen = None if twin is None else self._sample(twin, first)
                found |= measure(self.comparison.with_samples(gen, twin_gen), self.metrics)
        return found

    def against(self, heldout: Any, *, seed: int) -> "Evaluation":
        """The same with other held-out rows and other noise."""
        return replace(self, heldout=heldout, seed=seed)

    def prepare(self) -> list[str]:
        """Check the callables, search and build what does not depend on the model, so that what is wrong is refused before training.

        Returns a sentence for each sign that train and heldout are not from one pipeline.
        """
        doubts = []
        if self.sampler is not None:
            _check_call("sampler", self.sampler, "(model, n, *, seed, offset=0) or (model, n, *, generator)", self._noise(1))
            if self.comparison.distance != "hamming":
                train, heldout = rows_of(self.train, "train"), rows_of(self.heldout, "heldout")
                check_ranges(gen=heldout, train=train, heldout=heldout)
            others = [self.heldout] if self.twin_train is None else [self.heldout, self.twin_train]
            tests = [self_test(train=self.train, heldout=other, distance=self.distance, seed=self.seed) for other in others]
            doubts = [doubt for found in tests for doubt in warnings_of(found)]
            self.comparison.pool("train", "heldout" if self.twin_train is None else "twin_train")
            if near_threshold(np.concatenate(self.heldout_distances), self.comparison.alpha) is None:
                doubts.append(
                    "heldout: its smallest distances to train are too common for a near-copy threshold, near statistics will say nothing: "
                    f"want more held-out rows (at least {math.ceil(1 / self.comparison.alpha)})"
                )
        if self.denoiser is not None:
            _check_call("denoiser", self.denoiser, "(model, x_t, level)", ((None, None, None), {}))
            for step in np.atleast_1d(self.probe_t).tolist():
                try:
                    self.schedule.at(step)
                except ValueError as error:
                    raise ValueError(f"probe_{error}") from None
            _ = self._probe
        return doubts

    @cached_property
    def comparison(self) -> Comparison:
        """The sets without samples, with what was found of them so far."""
        sets = {"train": self.train, "twin_train": self.twin_train, "heldout": self.heldout}
        test = {"permutations": self.permutations, "seed": self.seed}
        return Comparison(**sets, distance=self.distance, **test)

    @property
    def heldout_distances(self) -> list[np.ndarray]:
        """The distances (h,) of the held-out rows to `train`, and with a twin to its training rows."""
        trains = ["train"] if self.twin_train is None else ["train", "twin_train"]
        return [self.comparison.nearest_distances("heldout", train) for train in trains]

    @cached_property
    def _probe(self) -> AlignmentProbe:
        heldout = rows_of(self.heldout, "heldout")
        order = np.random.default_rng(self.seed).permutation(len(heldout))   # held-out rows may be sorted
        if self.twin_train is None:
            count = min(self.probe_rows, len(heldout) // 2)
            reference = heldout[order[count:]]
        else:
            count, reference = self.probe_rows, rows_of(self.twin_train, "twin_train")
        return AlignmentProbe(
            train=self.train,
            heldout=reference,
            probe=heldout[order[:count]],
            schedule=self.schedule,
            t=self.probe_t,
            permutations=_RELABELINGS,
            seed=self.seed,
            encode=self.encode,
        )

    def _sample(self, model: Any, first: bool) -> Any:
        (_, n), noise = self._noise(self.n_samples)
        rows = self.sampler(model, n, **noise)
        if len(rows) != self.n_samples:
            raise ValueError(f"sampler: asked for {self.n_samples} rows, got {len(rows)}")
        if self.comparison.distance != "hamming":
            try:
                check_ranges(gen=rows, train=rows_of(self.train, "train"), heldout=rows_of(self.heldout, "heldout"))
            except ValueError as error:     # later a model may have collapsed to what looks like another scale
                if first:
                    raise
                warnings.warn(str(error), RuntimeWarning, stacklevel=4)
        return rows

    def _noise(self, n: int) -> tuple[tuple[None, int], dict[str, Any]]:
        """Arguments of the sampler but the model: (None, n), and its noise in the form that it takes."""
        if "generator" in inspect.signature(self.sampler).parameters:
            return (None, n), {"generator": torch.Generator("cpu").manual_seed(self.seed)}
        return (None, n), {"seed": self.seed, "offset": 0}


def _check_call(name: str, function: Callable[..., Any], wanted: str, call: tuple[tuple, dict[str, Any]]) -> None:
    """ValueError for a callable that does not take what it will be called with."""
    try:
        inspect.signature(function).bind(*call[0], **call[1])
    except TypeError as error:
        raise ValueError(f"{name}: want {name}{wanted}, got {name}{inspect.signature(function)}: {error}") from None
