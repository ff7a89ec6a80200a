"""Which checkpoint to keep: the lowest held-out loss among those that do not yet lean on the training set."""
import math
from typing import Any

import numpy as np

from biasgen.metrics._sets import rows_of, to_numpy
from biasgen.monitor.core import BiasMonitor
from biasgen.results import Record, Result


class BiasStopping:
    """The best checkpoint has the lowest held-out loss among the evaluations at which the upper bound of the excess is <= tolerance.

    The excess is that of the monitor's main statistic (monitor.watched[0]), its bound the upper end of the 95 % interval. The held-out rows
    that choose are not the ones that report: what is chosen looks better on them than it is.

    Args:
        monitor: its `heldout` rows choose.
        test: rows that report; from the same source, not those of the monitor.
        tolerance: excess that is still accepted, in units of the statistic.
        loss: name of the scalar given to monitor.step.

    Attributes:
        best: the Record of the best evaluation so far, or None: none is within the tolerance.

    Example:
        record = monitor.step(step, model, heldout_loss=loss)
        if record and stopping.step(record):
            torch.save(model.state_dict(), "best.pt")
        if stopping.stop:
            break
    """

    def __init__(self, monitor: BiasMonitor, *, test: Any, tolerance: float = 0.02, loss: str = "heldout_loss") -> None:
        if not tolerance >= 0:
            raise ValueError(f"tolerance: want an excess >= 0, got {tolerance!r}")
        chosen_on, reported_on = (to_numpy(rows_of(rows, name)) for rows, name in ((monitor.heldout, "heldout"), (test, "test")))
        if np.shares_memory(chosen_on, reported_on) or np.array_equal(chosen_on, reported_on):
            raise ValueError("test: want rows other than the monitor's heldout, which choose the checkpoint")
        self.best: Record | None = None
        self._monitor, self._test, self._tolerance, self._loss = monitor, test, tolerance, loss

    def step(self, record: Record) -> bool:
        """True: this checkpoint is the best so far, save it."""
        if self._loss not in record.scalars:
            raise ValueError(f"loss: monitor.step was given {', '.join(record.scalars) or 'no scalars'}, not {self._loss!r}")
        loss = record.scalars[self._loss]
        upper = record.metrics[self._monitor.watched[0]].excess_ci[1]
        better = math.isfinite(loss) and (self.best is None or loss < self.best.scalars[self._loss])
        if better and upper <= self._tolerance:
            self.best = record
            return True
        return False

    @property
    def stop(self) -> bool:
        """Has bias been detected? Further training only moves the model along its training set."""
        return self._monitor.onset.status == "detected"

    def report(self, model: Any, twin: Any = None) -> dict[str, Result]:
        """The monitor's measurement of the chosen model against `test`, on noise that did not choose."""
        return self._monitor.evaluate(model, twin, heldout=self._test)
