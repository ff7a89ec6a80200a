"""BiasStopping: the checkpoint it keeps, and that the rows that choose do not report."""
import numpy as np
import pytest

from biasgen import BiasMonitor, BiasStopping, TreeGrammar
from biasgen.results import Null, Record, Result

GRAMMAR = TreeGrammar.random()
TRAIN, HELDOUT, TEST = np.split(GRAMMAR.sample(1500, seed=3), [500, 1000])
SEEDS = []


def sampler(share, n, *, seed, offset=0):
    """A `model` is the share of copies among its samples."""
    SEEDS.append(seed)
    rows = GRAMMAR.sample(n, seed=seed + 50, offset=offset)
    copies = round(share * n)
    rows[:copies] = np.resize(TRAIN, (copies, 16))
    return rows


def monitor_of():
    return BiasMonitor(train=TRAIN, heldout=HELDOUT, sampler=sampler, n_samples=600, every=1, looks=10)


def record(step, loss, upper):
    affinity = Result(0.5, ci=(0.4, 0.5 + upper), null=Null(0.5, 0.6, ""), p_value=0.5)
    return Record(step, 0.1, {"heldout_loss": loss}, {"train_affinity": affinity})


def test_the_lowest_loss_within_the_tolerance_is_kept():
    stopping = BiasStopping(monitor_of(), test=TEST, tolerance=0.05)
    assert not stopping.step(record(0, float("nan"), 0.0))
    saved = [stopping.step(record(*r)) for r in ((1, 3.0, 0.06), (2, 2.5, 0.049), (3, 2.4, 0.04), (4, 2.45, 0.0), (5, 2.0, 0.051))]
    assert saved == [False, True, True, False, False]
    assert stopping.best.step == 3


def test_nothing_within_the_tolerance():
    stopping = BiasStopping(monitor_of(), test=TEST, tolerance=0.0)
    assert not stopping.step(record(1, 1.0, 0.3))
    assert stopping.best is None


def test_on_a_run():
    monitor = monitor_of()
    stopping = BiasStopping(monitor, test=TEST, tolerance=0.05)
    kept = None
    for step, share in enumerate((0.0, 0.0, 0.0, 0.3, 0.5, 0.7), start=1):
        if stopping.step(monitor.step(step, share, heldout_loss=10 - step)):
            kept = share
        if stopping.stop:
            break
    assert step == 5, "the second of the two evaluations that detect"
    assert kept == 0.0
    assert stopping.best.step == 3
    report = stopping.report(kept)["train_affinity"]
    assert SEEDS[-1] not in SEEDS[:-1], "noise that did not choose"
    assert report.n_heldout == len(TEST)
    assert report.value != stopping.best.metrics["train_affinity"].value
    assert report.p_value > 0.01
    assert len(monitor.history) == 5, "a report is not an evaluation"


@pytest.mark.parametrize("test", [HELDOUT, HELDOUT[100:], HELDOUT.copy()])
def test_the_rows_that_choose_do_not_report(test):
    with pytest.raises(ValueError, match=r"^test: "):
        BiasStopping(monitor_of(), test=test)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"^tolerance: "):
        BiasStopping(monitor_of(), test=TEST, tolerance=-0.1)
    with pytest.raises(ValueError, match=r"^loss: "):
        BiasStopping(monitor_of(), test=TEST, loss="val").step(record(1, 1.0, 0.0))
