"""Which checkpoint to keep: the lowest held-out loss among those that do not yet lean on the training set."""
import math
import warnings
from typing import Any

import numpy as np

from biasgen.data.hygiene import contents
from biasgen.metrics._sets import rows_of
from biasgen.monitor.core import BiasMonitor
from biasgen.results import Record, Result


class BiasStopping:
    """The best checkpoint has the lowest held-out loss among the evaluations at which the upper bound of the excess is <= tolerance.

    The excess is that of the monitor's main statistic (monitor.watched[0]). Its bound is the upper end of the 95 % interval, or the excess
    and the spread of its null, whichever is higher: the interval of a probe leaves out the chance of these sets.

    The held-out rows that choose are not the ones that report: what is chosen looks better on them than it is. Everything is read from
    the monitor's history, so a monitor that was restored by load_state_dict brings its best checkpoint with it.

    Args:
        monitor: its `heldout` rows choose.
        test: rows that report; from the same source, mostly others than those of the monitor.
        tolerance: excess that is still accepted, in units of the statistic. An evaluation cannot show less than its bound's width.
        loss: name of the scalar given to monitor.step.

    Example:
        record = monitor.step(step, model, heldout_loss=loss)
        if record and stopping.step(record):
            torch.save(model.state_dict(), "best.pt")
        if stopping.stop:
            break
    """

    def __init__(self, monitor: BiasMonitor, *, test: Any, tolerance: float, loss: str = "heldout_loss") -> None:
        if not tolerance >= 0:
            raise ValueError(f"tolerance: want an excess >= 0, got {tolerance!r}")
        heldout, test = rows_of(monitor.heldout, "heldout"), rows_of(test, "test")
        first = contents(rows_of(heldout, "heldout"), rows_of(test, "test"))
        shared = float((first[len(heldout) :] < len(heldout)).mean())
        if shared > 0.5:
            raise ValueError(f"test: want rows other than the monitor's heldout, which choose the checkpoint; {shared:.0%} are the same")
        self._monitor, self._test, self._tolerance, self._loss = monitor, test, tolerance, loss
        self._warned = False

    def step(self, record: Record) -> bool:
        """True: this checkpoint is the best so far, save it. record: what monitor.step has just returned."""
        if self._loss not in record.scalars:
            raise ValueError(f"loss: monitor.step was given {', '.join(record.scalars) or 'no scalars'}, not {self._loss!r}")
        result = record.metrics[self._monitor.watched[0]]
        width = _upper(result) - result.excess
        if width > self._tolerance and not self._warned:
            self._warned = True
            warnings.warn(
                f"tolerance: {self._tolerance:g} is below what an evaluation can show, {width:.2g}: no checkpoint may ever be accepted; "
                "take more samples or rows, or a larger tolerance",
                RuntimeWarning,
                stacklevel=2,
            )
        return self.best is record

    @property
    def best(self) -> Record | None:
        """The Record of the best evaluation so far, or None: none is within the tolerance."""
        accepted = [
            record
            for record in self._monitor.history
            if math.isfinite(record.scalars.get(self._loss, np.nan)) and _upper(record.metrics[self._monitor.watched[0]]) <= self._tolerance
        ]
        return min(accepted, key=lambda record: record.scalars[self._loss], default=None)

    @property
    def stop(self) -> bool:
        """Has bias been detected? Further training only moves the model along its training set."""
        return self._monitor.onset.status == "detected"

    def report(self, model: Any, twin: Any = None) -> dict[str, Result]:
        """The monitor's measurement of the chosen model against `test`, on noise that did not choose."""
        return self._monitor.evaluate(model, twin, heldout=self._test)


def _upper(result: Result) -> float:
    return max(result.excess_ci[1], result.excess + result.null.q95 - result.null.mean)
