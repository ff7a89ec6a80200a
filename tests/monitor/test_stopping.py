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


def stopping_of(*evaluations, tolerance):
    """(BiasStopping, what step said) after evaluations (loss, upper bound of the excess, of its null)."""
    monitor = monitor_of()
    stopping = BiasStopping(monitor, test=TEST, tolerance=tolerance)
    said = []
    for step, (loss, upper, spread) in enumerate(evaluations, start=1):
        affinity = Result(0.5, ci=(0.4, 0.5 + upper), null=Null(0.5, 0.5 + spread, ""), p_value=0.5)
        monitor.history.append(Record(step, 0.1, {"heldout_loss": loss}, {"train_affinity": affinity}))
        said.append(stopping.step(monitor.history[-1]))
    return stopping, said


@pytest.mark.filterwarnings("ignore:tolerance")
def test_the_lowest_loss_within_the_tolerance_is_kept():
    evaluations = [(np.nan, 0, 0), (3.0, 0.06, 0), (2.5, 0.049, 0), (2.4, 0.04, 0.01), (2.45, 0, 0), (2.0, 0.051, 0), (1.9, 0.04, 0.06)]
    stopping, said = stopping_of(*evaluations, tolerance=0.05)
    assert said == [False, False, True, True, False, False, False]
    assert stopping.best.step == 4


def test_a_tolerance_that_nothing_can_meet_is_said_once():
    with pytest.warns(RuntimeWarning, match="^tolerance: 0 is below what an evaluation can show, 0.3") as caught:
        stopping, said = stopping_of((1.0, 0.3, 0.1), (0.9, 0.3, 0.1), tolerance=0.0)
    assert len(caught) == 1
    assert said == [False, False]
    assert stopping.best is None


def test_a_restored_monitor_brings_its_best():
    monitor, other = monitor_of(), monitor_of()
    for step, share in enumerate((0.0, 0.0, 0.4), start=1):
        monitor.step(step, share, heldout_loss=10 - step)
    other.load_state_dict(monitor.state_dict())
    assert BiasStopping(other, test=TEST, tolerance=0.1).best.step == BiasStopping(monitor, test=TEST, tolerance=0.1).best.step == 2


def test_on_a_run():
    monitor = monitor_of()
    stopping = BiasStopping(monitor, test=TEST, tolerance=0.1)
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


@pytest.mark.parametrize("test", [HELDOUT, HELDOUT[100:], HELDOUT[:200].copy()])
def test_the_rows_that_choose_do_not_report(test):
    with pytest.raises(ValueError, match=r"^test: "):
        BiasStopping(monitor_of(), test=test, tolerance=0.1)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"^tolerance: "):
        BiasStopping(monitor_of(), test=TEST, tolerance=-0.1)
    with pytest.raises(ValueError, match=r"^loss: "):
        BiasStopping(monitor_of(), test=TEST, tolerance=0.1, loss="val").step(Record(1, 0.1, {"heldout_loss": 1.0}, {}))
