"""Train affinity: ties, sizes and duplicates by hand; null, interval and collapse by simulation; refusals."""
import numpy as np
import pytest
import torch

from biasgen.data.training_set import TrainingSet
from biasgen.metrics.train_affinity import train_affinity
from biasgen.oracle import knn as oracle


def rows(*texts: str) -> np.ndarray:
    return np.array([[int(c) for c in text] for text in texts], dtype=np.int8)


def uniform(n: int, seed: int, length: int = 8, q: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, q, (n, length)).astype(np.int8)


TRAIN = rows("0000", "1111", "1111")
HELDOUT = rows("2222", "0001")


@pytest.mark.parametrize(
    ("gen", "value"),
    [
        (rows("0000"), 1.0),
        (rows("2222"), 0.0),
        (rows("1113"), 1.0),                       # two equal training rows share the credit
        (rows("0003"), 1 / 2),                     # one position from 0000 and from 0001
        (rows("1122"), 2 / 3),                     # two positions from 1111 twice and from 2222
        (rows("0000", "0003", "1122", "2222"), (1 + 1 / 2 + 2 / 3) / 4),
    ],
)
def test_ties_and_duplicates_by_hand(gen, value):
    result = train_affinity(gen=gen, train=TRAIN, heldout=HELDOUT)
    assert float(result) == pytest.approx(value)
    assert result.null.mean == 3 / 5
    assert result.excess == pytest.approx(value - 3 / 5)
    assert (result.n_gen, result.n_train, result.n_heldout) == (len(gen), 3, 2)
    assert result.params["distance"] == "hamming"


def test_within_counts_near_samples_only():
    gen = rows("0000", "0003", "1122", "2222")
    result = train_affinity(gen=gen, train=TRAIN, heldout=HELDOUT, within=1)
    assert float(result) == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert result.n_gen == 3


def test_no_sample_within_says_nothing():
    result = train_affinity(gen=rows("3333"), train=TRAIN, heldout=HELDOUT, within=0)
    assert (result.value, result.p_value, result.ci, result.n_gen) == (3 / 5, 1.0, (0.0, 1.0), 0)


def test_interval_by_hand():
    # credits 1.5, 0, 0 | 1, .5: every mean and deviation can be written down; the equal rows 1111 are one unit
    result = train_affinity(gen=rows("0000", "0003", "2222"), train=TRAIN, heldout=HELDOUT)
    assert result.value == pytest.approx(1.5 / 3)
    s = 1.5 / 3
    train, heldout = (1 - s) * np.array([1.5, 0, 0]) / 3, -s * np.array([1.0, 0.5]) / 3
    of_train, of_heldout = train - train.mean(), heldout - heldout.mean()
    sd = np.sqrt(of_train[0] ** 2 + (of_train[1] + of_train[2]) ** 2 + (of_heldout**2).sum())
    assert result.ci == pytest.approx((s - 1.959964 * sd, s + 1.959964 * sd), abs=1e-6)


def test_interval_by_hand_where_a_row_is_in_both_sets():
    train, heldout = rows("0000", "0000", "1111"), rows("0000", "2222")
    result = train_affinity(gen=rows("0000", "0000", "0000", "2222", "2222"), train=train, heldout=heldout)
    s = 2 / 5     # 0000 has three samples, a third of them held-out
    assert result.value == pytest.approx(s)
    of_train, of_heldout = (1 - s) * np.array([1, 1, 0]) / 5, -s * np.array([1, 2]) / 5
    of_train, of_heldout = of_train - of_train.mean(), of_heldout - of_heldout.mean()
    sd = np.sqrt((of_train[:2].sum() + of_heldout[0]) ** 2 + of_train[2] ** 2 + of_heldout[1] ** 2)
    assert result.ci == pytest.approx((s - 1.959964 * sd, s + 1.959964 * sd), abs=1e-6)


def test_row_order_and_container_do_not_matter():
    gen, train, heldout = uniform(300, 1), uniform(100, 2), uniform(150, 3)
    expected = train_affinity(gen=gen, train=train, heldout=heldout)
    order = np.random.default_rng(0).permutation(100)
    for other in (train[order], TrainingSet(train, distance="hamming")):
        result = train_affinity(gen=gen, train=other, heldout=heldout)
        assert float(result) == pytest.approx(float(expected))
        assert result.ci == pytest.approx(expected.ci)
        assert result.p_value == pytest.approx(expected.p_value)
    tensors = train_affinity(gen=torch.from_numpy(gen), train=torch.from_numpy(train), heldout=torch.from_numpy(heldout))
    assert float(tensors) == pytest.approx(float(expected))


def test_memory_mapped_rows_of_any_byte_order_pool_with_tensors(tmp_path):
    gen, train, heldout = (uniform(n, seed).astype(np.int16) for n, seed in ((50, 1), (30, 2), (40, 3)))
    expected = train_affinity(gen=gen, train=train, heldout=heldout)
    for dtype in ("<i2", ">i2"):
        np.save(tmp_path / f"{dtype}.npy", train.astype(dtype))
        mapped = np.load(tmp_path / f"{dtype}.npy", mmap_mode="r")
        for other in (mapped, mapped[::-1]):
            assert float(train_affinity(gen=gen, train=other, heldout=torch.from_numpy(heldout))) == pytest.approx(float(expected))
        assert train_affinity(gen=gen, train=mapped, heldout=heldout).p_value == expected.p_value


def test_images_are_compared_by_squared_distance():
    train, heldout = np.full((2, 2, 2), 10, dtype=np.uint8), np.full((2, 2, 2), 200, dtype=np.uint8)
    result = train_affinity(gen=np.full((1, 2, 2), 90, dtype=np.uint8), train=train, heldout=heldout)
    assert float(result) == 1.0
    assert result.params["distance"] == "sqeuclidean"


@pytest.mark.parametrize(("m", "h"), [(100, 100), (60, 240)])
def test_null_mean_and_interval_coverage(m, h):
    values, covered, p_values = [], 0, []
    for seed in range(120):
        gen, train, heldout = uniform(200, 3 * seed), uniform(m, 3 * seed + 1), uniform(h, 3 * seed + 2)
        result = train_affinity(gen=gen, train=train, heldout=heldout, permutations=199)
        values.append(result.value)
        p_values.append(result.p_value)
        covered += result.ci[0] <= m / (m + h) <= result.ci[1]
    assert abs(np.mean(values) - m / (m + h)) < 4 * np.std(values) / np.sqrt(120)
    assert covered >= 105     # 95 % of 120 is 114; below 105 has probability 1e-4
    assert 0.35 < np.mean(p_values) < 0.65


def crawl(rng, n):
    """n rows of a source that holds every row several times, about 8 of them."""
    distinct = rng.integers(0, 4, (n, 12)).astype(np.int8)
    return np.repeat(distinct, rng.geometric(1 / 8, n), axis=0)[:n]


@pytest.mark.parametrize("dose", [0.0, 0.3])
def test_interval_covers_where_rows_come_in_many_copies(dose):
    rng = np.random.default_rng(8)
    values, highs, one_unit_a_row = [], [], []
    for _ in range(150):
        train, heldout = crawl(rng, 400), crawl(rng, 400)
        gen = crawl(rng, 400) if dose == 0 else np.concatenate([train[rng.integers(0, 400, 120)], crawl(rng, 280)])
        result = train_affinity(gen=gen, train=train, heldout=heldout, permutations=1)
        values.append(result.value)
        highs.append(result.ci[1] - result.value)
        share = np.split(oracle.nearest_credit(gen, np.concatenate([train, heldout]), "hamming") / 400, 2)
        spread = [(w - w.mean()) * factor for w, factor in zip(share, (1 - result.value, result.value), strict=True)]
        one_unit_a_row.append(1.959964 * np.sqrt((np.concatenate(spread) ** 2).sum()))
    errors = np.abs(np.array(values) - np.mean(values))
    assert (errors <= highs).mean() > 0.89
    assert (errors <= one_unit_a_row).mean() < 0.75     # what counting each copy as new data would say


def test_collapsed_generator_is_not_flagged():
    flagged = 0
    for seed in range(100):
        gen = np.repeat(uniform(1, 3 * seed), 500, axis=0)
        result = train_affinity(gen=gen, train=uniform(80, 3 * seed + 1), heldout=uniform(80, 3 * seed + 2), permutations=199)
        flagged += result.p_value <= 0.05
        assert result.ci[1] - result.ci[0] > 0.2 or result.value in (0, 1) or 1 - result.value < 1e-9
    assert flagged <= 11


def test_copies_are_flagged():
    train, heldout = uniform(300, 1), uniform(300, 2)
    gen = np.concatenate([train[:40], uniform(360, 3)])
    assert train_affinity(gen=gen, train=train, heldout=heldout, within=0).p_value == 0.001


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gen": rows("00000")}, r"^gen: .*\(4,\).*|^train: .*\(5,\).*\(4,\)"),
        ({"heldout": HELDOUT.astype(np.uint8)}, r"^heldout: want int8 .*uint8"),
        ({"gen": rows("0000")[:0]}, r"^gen: want at least one row"),
        ({"gen": rows("0000")[0]}, r"^gen: .*shape \(4,\)"),
        ({"permutations": 0}, r"^permutations: .*at least 1, got 0"),
        ({"within": float("nan")}, r"^within: .*nan"),
        ({"within": -1}, r"^within: .*-1"),
        ({"distance": "l2"}, r"^distance: .*l2"),
        ({"train": TrainingSet(TRAIN, distance="hamming"), "distance": "sqeuclidean"}, r"^distance: want 'hamming'"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        train_affinity(**({"gen": rows("0000"), "train": TRAIN, "heldout": HELDOUT} | change))


def test_lists_are_refused():
    with pytest.raises(TypeError, match=r"^gen: want a NumPy array, .* got list"):
        train_affinity(gen=[[0, 0, 0, 0]], train=TRAIN, heldout=HELDOUT)
