"""What the public calls answer is what they answered when the golden file was recorded."""

import numpy as np
import pytest

from tests.golden.__main__ import PARTS, against, calls, load
from tests.golden.record import differences, record


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_answers_are_those_recorded(part):
    held = load()
    found = [line for name, call in calls([part]).items() for line in against(held, name, call)]
    assert not found, "\n".join([f"{len(found)} differences", *found[:40]])


def test_every_call_is_recorded():
    assert len(calls()) >= 200
    assert list(calls()) == list(load())


def test_a_difference_is_found():
    numbers = np.linspace(0, 1, 100)
    held = record(("x", lambda: numbers, 1e-6))
    for changed, tolerance, same in (
        (numbers + 1e-7, 1e-6, True),
        (numbers + 1e-7, None, False),
        (numbers + 1e-5, 1e-6, False),
        (np.where(np.arange(100) == 50, 0.6, numbers), 1e-6, False),
        (numbers.astype(np.float32), 1e-6, False),
        (numbers[:99], 1e-6, False),
    ):
        new = record(("x", lambda changed=changed: changed, 1e-6))
        assert (list(differences(held, new, tolerance)) == []) is same
    assert list(
        differences(record(("x", lambda: [1, 2], 1.0)), record(("x", lambda: [1, 3], 1.0)), 1.0)
    )
    assert list(differences({"a": 1}, {"b": 1}, 1.0))
