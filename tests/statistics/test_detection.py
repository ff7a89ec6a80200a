"""The rule of two in a row."""
import pytest

from biasgen.statistics.detection import first_of_two

NAN = float("nan")


@pytest.mark.parametrize(
    ("p_values", "index"),
    [
        ([], None),
        ([0.001], None),
        ([0.001, 0.2, 0.001, 0.3], None),
        ([0.5, 0.001, 0.004, 0.5], 1),
        ([0.001, NAN, 0.001, 0.001], 2),
        ([0.01, 0.01], None),     # below, not at, the threshold
        ([0.001, 0.001, 0.001], 0),
    ],
)
def test_first_of_two(p_values, index):
    assert first_of_two(p_values, 0.01) == index


@pytest.mark.parametrize("threshold", [0, 1, -0.1, NAN])
def test_threshold_is_checked(threshold):
    with pytest.raises(ValueError, match=r"^threshold: .*\(0, 1\)"):
        first_of_two([0.5], threshold)
