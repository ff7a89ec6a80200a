"""What a set is, whether two sets are on one scale, and the mark of held-out rows filtered by content."""
import hashlib
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from biasgen.data import hygiene
from biasgen.data.hygiene import ContentDisjoint, check_ranges, contents, describe
from biasgen.data.training_set import TrainingSet
from biasgen.metrics.train_affinity import train_affinity

ROWS = npst.arrays(np.int16, npst.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.integers(-1, 1))


@pytest.fixture(params=[1 << 24, 16])
def _block_bytes(request, monkeypatch):
    monkeypatch.setattr(hygiene, "_BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("_block_bytes")
class TestDescribe:
    def test_closed_form(self):
        rows = np.array([[0, 4], [7, 1], [0, 4], [2, 2]], np.uint8)
        assert describe(rows) == {
            "n": 4,
            "distinct": 3,
            "dtype": "uint8",
            "low": 0,
            "high": 7,
            "mean": 2.5,
            "sha256": hashlib.sha256(bytes([0, 4, 7, 1, 0, 4, 2, 2])).hexdigest(),
        }
        np.testing.assert_array_equal(contents(rows), [0, 1, 0, 3])

    def test_layout_tensors_and_memory_maps_are_alike(self, tmp_path):
        rows = np.random.default_rng(0).normal(size=(9, 3, 2)).astype(np.float32)
        np.save(tmp_path / "rows.npy", rows)
        whole = describe(rows)
        assert whole["mean"] == pytest.approx(rows.mean(dtype=np.float64))
        assert (whole["low"], whole["high"]) == (rows.min(), rows.max())
        assert describe(np.asfortranarray(rows)) == whole
        assert describe(torch.from_numpy(rows)) == whole
        assert describe(rows.astype(">f4")) == whole
        assert describe(np.load(tmp_path / "rows.npy", mmap_mode="r")) == whole


@given(ROWS)
def test_contents_is_the_first_equal_row(rows):
    expected = [next(i for i, other in enumerate(rows) if np.array_equal(other, row)) for row in rows]
    np.testing.assert_array_equal(contents(rows), expected)


RNG = np.random.default_rng(0)
UNIT = RNG.random((40, 5, 5))     # [0, 1]
SCALES = {
    "unit": UNIT.astype(np.float32),
    "centered": (2 * UNIT - 1).astype(np.float32),
    "levels": (255 * UNIT).astype(np.float32),
    "bytes": (255 * UNIT).astype(np.uint8),
    "binary": (UNIT > 0.5).astype(np.uint8),
    "dark centered": np.where(UNIT < 0.9, -1, UNIT).astype(np.float32),     # line drawings: most pixels black
    "bright centered": np.where(UNIT < 0.1, -1, 1).astype(np.float32),
    "standardized": (5 * (UNIT - 0.5)).astype(np.float32),     # -2.5 .. 2.5
    "overshooting": (1.4 * UNIT).astype(np.float32),
    "dim bytes": (100 * UNIT).astype(np.uint8),
}


@pytest.mark.parametrize("scale", SCALES)
def test_a_set_is_on_its_own_scale(scale):
    rows = SCALES[scale]
    check_ranges(gen=rows[:9], train=rows[9:], heldout=rows[::2])


@pytest.mark.parametrize(
    ("gen", "train", "why"),
    [
        ("unit", "levels", "all within 0 .. 1"),
        ("unit", "bytes", "all within 0 .. 1"),
        ("binary", "bytes", "all within 0 .. 1"),
        ("unit", "centered", "none is negative"),
        ("unit", "dark centered", "none is negative"),
        ("unit", "standardized", "none is negative"),
        ("levels", "centered", "none is negative"),
        ("centered", "unit", "negative values"),
        ("dark centered", "unit", "negative values"),
        ("bright centered", "unit", "negative values"),
        ("centered", "levels", "negative values"),
        ("levels", "unit", "values beyond 2"),
        ("bytes", "binary", "values beyond 2"),
        ("bytes", "unit", "values beyond 2"),
    ],
)
def test_conventions_taken_for_one_another(gen, train, why):
    with pytest.raises(ValueError, match=rf"^gen: want values on the scale of train, .*: {why}$"):
        check_ranges(gen=SCALES[gen], train=SCALES[train], heldout=SCALES[train])
    with pytest.raises(ValueError, match=rf"^heldout: want values on the scale of train, .*: {why}$"):
        check_ranges(gen=SCALES[train], train=SCALES[train], heldout=SCALES[gen])
    with pytest.raises(ValueError, match=r"^heldout: want values on the scale of train, "):     # found from either side
        check_ranges(gen=SCALES[gen], train=SCALES[gen], heldout=SCALES[train])


@pytest.mark.parametrize(
    ("train", "gen"),
    [
        ("unit", np.zeros((5, 5, 5))),
        ("unit", np.ones((5, 5, 5))),
        ("unit", np.full((5, 5, 5), 0.5)),
        ("unit", SCALES["unit"] * 1.5 - 0.25),     # overshoot on both sides
        ("bytes", np.full((5, 5, 5), 255, np.uint8)),
        ("bytes", np.full((5, 5, 5), 2, np.uint8)),
        ("levels", SCALES["levels"] * 1.6 - 0.4),
        ("centered", np.zeros((5, 5, 5))),
        ("centered", np.full((5, 5, 5), -1.0)),
        ("centered", np.sign(SCALES["centered"])),
        ("centered", SCALES["centered"] * 1.9),
        ("standardized", SCALES["standardized"] * 1.9),
        ("standardized", np.zeros((5, 5, 5))),
        ("overshooting", SCALES["unit"]),
        ("dim bytes", np.full((5, 5, 5), 255, np.uint8)),
    ],
)
def test_a_bad_model_on_the_right_scale_passes(train, gen):
    check_ranges(gen=gen, train=SCALES[train], heldout=SCALES[train])


def test_a_few_values_far_out_are_no_other_scale():
    gen = SCALES["unit"].copy()
    gen[0, 0] = [-40, 40, -3, 3, 9]     # .5 % of the values
    check_ranges(gen=gen, train=SCALES["unit"], heldout=SCALES["unit"])
    gen[1:4, 0] = 40
    with pytest.raises(ValueError, match="values beyond 2"):
        check_ranges(gen=gen, train=SCALES["unit"], heldout=SCALES["unit"])


def test_slight_overshoot_does_not_make_a_set_centered():
    train = SCALES["unit"].copy()
    train[0, 0] = -0.6     # .5 % of the values
    check_ranges(gen=SCALES["unit"], train=train, heldout=train)


def test_tokens_have_no_scale():
    tokens = RNG.integers(0, 6, (20, 8))
    check_ranges(gen=np.zeros_like(tokens), train=tokens, heldout=torch.from_numpy(tokens))


def test_the_recorded_range_of_a_training_set_is_taken():
    train = TrainingSet(SCALES["bytes"])
    assert (train.low, train.high) == (SCALES["bytes"].min(), SCALES["bytes"].max())
    read = hygiene._range
    with mock.patch.object(hygiene, "_range", side_effect=lambda rows, name: read(rows, name) if name != "train" else 1 / 0):
        check_ranges(gen=SCALES["bytes"], train=train, heldout=SCALES["bytes"])
        with pytest.raises(ValueError, match=r"all within 0 \.\. 1"):
            check_ranges(gen=SCALES["binary"], train=train, heldout=SCALES["bytes"])
    train.description["high"] = 1     # what is recorded decides
    with pytest.raises(ValueError, match="values beyond 2"):
        check_ranges(gen=SCALES["bytes"], train=train, heldout=SCALES["binary"])
    centered = TrainingSet(SCALES["centered"])     # of which the share of negative values is asked for, too
    with pytest.raises(ValueError, match="none is negative"):
        check_ranges(gen=SCALES["unit"], train=centered, heldout=centered)


@pytest.mark.usefixtures("_block_bytes")
def test_bfloat16():
    rows = torch.from_numpy(SCALES["unit"][:20]).bfloat16()
    rows[3] = rows[0]
    found, wide = describe(rows), describe(rows.float())
    assert found["dtype"] == "bfloat16"
    assert found["sha256"] == hashlib.sha256(rows.view(torch.int16).numpy().tobytes()).hexdigest()
    assert {name: found[name] for name in ("n", "distinct", "low", "high", "mean")} == {
        name: wide[name] for name in ("n", "distinct", "low", "high", "mean")
    }
    np.testing.assert_array_equal(contents(rows), contents(rows.float()))
    check_ranges(gen=rows, train=rows, heldout=rows)
    with pytest.raises(ValueError, match="values beyond 2"):
        check_ranges(gen=255 * rows, train=rows, heldout=rows)


@pytest.mark.usefixtures("_block_bytes")
def test_not_finite():
    rows = SCALES["unit"].copy()
    rows[7, 1, 1] = np.nan
    with pytest.raises(ValueError, match=r"^gen: want finite values, got NaN or an infinity in row 7$"):
        check_ranges(gen=rows, train=SCALES["unit"], heldout=SCALES["unit"])
    with pytest.raises(ValueError, match=r"^train: want at least one value, got shape \(3, 0\)$"):
        check_ranges(gen=rows, train=np.zeros((3, 0)), heldout=rows)


def test_filtered_rows_are_refused_by_distance_statistics():
    rows = RNG.integers(0, 256, (30, 4)).astype(np.uint8)
    marked = ContentDisjoint(rows)
    assert (len(marked), repr(marked)) == (30, "ContentDisjoint(30 rows)")
    assert marked.rows is rows
    with pytest.raises(ValueError, match=r"^heldout: filtered by content"):
        train_affinity(gen=rows, train=rows, heldout=marked)


def test_contents_of_several_sets_are_those_of_the_joined_rows():
    first = np.array([[1, 2], [3, 4], [1, 2]], np.int8)
    for second in (first[1:], first[1:].astype(np.int64), torch.from_numpy(first[1:]).int()):     # tokens, whatever they are stored in
        assert contents(first, second).tolist() == [0, 1, 0, 1, 0]
