"""Two models: own share by hand, exact null at unequal sizes, symmetry, and agreement with the one-model metrics."""
import numpy as np
import pytest

from biasgen import TrainingSet, nn_auc, nn_divergence
from biasgen.metrics._sets import Pool, pool_credit
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.divergence_curve import divergence_curve
from biasgen.metrics.own_share import own
from biasgen.metrics.split_comparison import measure, split_comparison
from biasgen.oracle import knn as oracle


def rows(*texts: str) -> np.ndarray:
    return np.array([[int(c) for c in text] for text in texts], dtype=np.int8)


def uniform(n: int, seed: int, length: int = 8, q: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, q, (n, length)).astype(np.int8)


def test_own_share_by_hand():
    train_a, train_b = rows("0000", "1111"), rows("2222", "3333", "0011")
    gen_a = rows("0000", "0001")     # own; half own (0000) and half B's (0011)
    gen_b = rows("2222", "1111")     # own; A's
    result = split_comparison(gen_a=gen_a, gen_b=gen_b, train_a=train_a, train_b=train_b, heldout=rows("0123"))
    share_a, share_b = 0.75, 0.5
    assert float(result.own_share) == pytest.approx((share_a + share_b) / 2)
    assert (result.own_share.params["share_a"], result.own_share.params["share_b"]) == pytest.approx((share_a, share_b))
    a, b = np.array([1.5, 0, 0, 0, 0.5]) / 2, np.array([0, 1, 1, 0, 0]) / 2
    i_a = ((1 - share_a) * a[:2] - share_b * b[:2]) / 2
    i_b = ((1 - share_b) * b[2:] - share_a * a[2:]) / 2
    sd = np.sqrt(((i_a - i_a.mean()) ** 2).sum() + ((i_b - i_b.mean()) ** 2).sum())
    low, high = result.own_share.ci
    assert (low, high) == pytest.approx((max(0, 0.625 - 1.959964 * sd), min(1, 0.625 + 1.959964 * sd)), abs=1e-6)


def test_own_share_null_enumerated():
    train_a, train_b = rows("0000"), rows("1111", "2222", "3333")
    gen_a, gen_b = rows("1111", "1110", "1101", "1011"), rows("0000", "2222", "3333", "2221")     # all credit of A on one row: skewed
    result = split_comparison(gen_a=gen_a, gen_b=gen_b, train_a=train_a, train_b=train_b, heldout=rows("0123"), permutations=4000)
    a, b = np.array([0, 4, 0, 0]) / 4, np.array([1, 0, 2, 1]) / 4
    exact = [(a[[i]].sum() + np.delete(b, i).sum()) / 2 for i in range(4)]     # row i as the whole of A
    assert float(result.own_share) == pytest.approx(exact[0])
    assert result.own_share.p_value == pytest.approx(np.mean(np.array(exact) >= exact[0]), abs=0.03)
    assert result.own_share.null.q95 == pytest.approx(max(exact))


def test_threshold_is_the_one_of_both_training_sets_together():
    heldout = rows("0000", *["0011"] * 9)     # distances to A: 0, then 2; to B: 4, then 2
    sets = {"gen_a": rows("0000"), "gen_b": rows("1111"), "train_a": rows("0000"), "train_b": rows("1111")}
    assert split_comparison(**sets, heldout=heldout, alpha=0.05).near_copies.params["threshold"] == 0
    assert split_comparison(**sets, heldout=heldout, alpha=0.04).near_copies.params["threshold"] is None


@pytest.mark.parametrize(("m_a", "m_b"), [(100, 100), (60, 240)])
def test_null_is_one_half_at_any_sizes(m_a, m_b):
    own, near, kl = [], [], []
    for seed in range(0, 500, 5):
        gen_a, gen_b, train_a, train_b, heldout = (uniform(n, seed + i, 6) for i, n in enumerate((150, 150, m_a, m_b, 150)))
        result = split_comparison(
            gen_a=gen_a, gen_b=gen_b, train_a=train_a, train_b=train_b, heldout=heldout, alpha=0.2, permutations=199
        )
        own.append(result.own_share)
        near.append(result.near_own_share)
        kl.append(result.kl_own)
    for results in (own, near):
        values = np.array([r.value for r in results])
        assert abs(values.mean() - 0.5) < 4 * values.std() / 10
        assert sum(r.p_value <= 0.05 for r in results) <= 11
        assert sum(r.ci[0] <= 0.5 <= r.ci[1] for r in results) >= 87
        assert {r.null.mean for r in results} == {0.5}
    assert sum(r.p_value <= 0.05 for r in kl) <= 11


def test_swapping_the_models_changes_nothing():
    gen_a, gen_b, train_a, train_b, heldout = (uniform(n, i) for i, n in enumerate((200, 200, 80, 120, 150)))
    one = split_comparison(gen_a=gen_a, gen_b=gen_b, train_a=train_a, train_b=train_b, heldout=heldout, alpha=0.1)
    two = split_comparison(gen_a=gen_b, gen_b=gen_a, train_a=train_b, train_b=train_a, heldout=heldout, alpha=0.1)
    for name, result in one.as_dict().items():
        other = getattr(two, name)
        assert other.value == pytest.approx(result.value)
        assert other.ci == pytest.approx(result.ci, abs=0.02)     # the redraws of the KL differ
        assert other.params["threshold"] == result.params["threshold"]


def test_copies_on_one_side_are_seen_by_every_own_number():
    gen_a, gen_b, train_a, train_b, heldout = (uniform(300, i) for i in range(5))
    gen_a[:30] = train_a[:30]
    result = split_comparison(gen_a=gen_a, gen_b=gen_b, train_a=train_a, train_b=train_b, heldout=heldout)
    assert result.near_own_share.p_value == 0.001
    assert result.kl_own.p_value == 0.001
    assert result.kl_own.value > result.kl_own.placebo == result.kl_placebo.value
    assert result.auc_own.p_value < 0.05
    assert result.auc_own.value > 0.5
    assert result.auc_own.value > result.auc_own.placebo == result.auc_placebo.value
    assert result.near_copies.value > 0.04 > result.near_copies.placebo
    assert result.near_copies.p_value == result.near_own_share.p_value
    assert result.near_copies.heldout <= 0.01


def test_kl_and_auc_are_the_mean_of_both_models():
    gen_a, gen_b, train_a, train_b, heldout = (uniform(n, i) for i, n in enumerate((200, 200, 80, 120, 150)))
    result = split_comparison(gen_a=gen_a, gen_b=gen_b, train_a=train_a, train_b=train_b, heldout=heldout)
    for metric, ours, placebo in ((nn_divergence, result.kl_own, result.kl_placebo), (nn_auc, result.auc_own, result.auc_placebo)):
        a = metric(gen=gen_a, train=train_a, heldout=heldout, placebo=train_b)
        b = metric(gen=gen_b, train=train_b, heldout=heldout, placebo=train_a)
        assert float(ours) == pytest.approx((a.value + b.value) / 2)
        assert float(placebo) == pytest.approx((a.placebo + b.placebo) / 2)
        assert np.array_equal(ours.per_sample, [a.per_sample, b.per_sample])
        other = [oracle.distances(gen, train, "hamming").min(1) for gen, train in ((gen_a, train_b), (gen_b, train_a))]
        assert np.array_equal(placebo.per_sample, other)
        assert (ours.n_gen, ours.n_train, ours.n_heldout) == (400, 200, 150)
    assert result.auc_own.heldout == 0.5
    assert result.auc_own.params["z_u"] * (result.auc_own.value - 0.5) < 0


def test_twin_distance_is_that_of_the_same_noise():
    gen_a, gen_b, train_a, train_b, heldout = (uniform(n, i) for i, n in enumerate((200, 200, 80, 120, 150)))
    gen_b[:100] = gen_a[:100]
    result = split_comparison(gen_a=gen_a, gen_b=gen_b, train_a=train_a, train_b=train_b, heldout=heldout).twin_distance
    apart = (gen_a != gen_b).sum(1)
    assert np.array_equal(result.per_sample, apart)
    assert result.value == pytest.approx(apart.mean())
    half = 1.959964 * apart.std() / np.sqrt(200)
    assert result.ci == pytest.approx((apart.mean() - half, apart.mean() + half), abs=1e-6)
    assert (result.null, result.p_value, result.n_gen, result.params["distance"]) == (None, None, 400, "hamming")


def test_prepared_once_it_gives_the_same_numbers():
    train_a, train_b, heldout = uniform(80, 2), uniform(120, 3), uniform(150, 4)
    settings = {"alpha": 0.1, "permutations": 99, "seed": 7}
    sets = Comparison(train=train_a, twin_train=train_b, heldout=heldout, **settings)
    to = [oracle.distances(heldout, train, "hamming").min(1) for train in (train_a, train_b)]
    for seed in (0, 10):  # two checkpoints
        gens = {"gen_a": uniform(100, seed), "gen_b": uniform(100, seed + 1)}
        found = measure(sets.with_samples(*gens.values()))
        for name, of_heldout in (("kl_own", to), ("kl_placebo", to[::-1])):
            pairs = list(zip(found[name].per_sample, of_heldout, strict=True))
            curve, _ = divergence_curve([pairs], largest=8, redraws=1)
            assert curve.tolist() == pytest.approx([found[name].value])
        trains = {"train_a": train_a, "train_b": TrainingSet(train_b, distance="hamming")}
        whole = split_comparison(**gens, **trains, heldout=heldout, **settings).as_dict()
        assert found.keys() == whole.keys()
        for name, result in whole.items():
            assert found[name].as_dict() == result.as_dict(), name


def test_own_share_interval_covers_where_rows_come_in_many_copies():
    rng = np.random.default_rng(8)
    crawl = lambda n: np.repeat(rng.integers(0, 4, (n, 12)).astype(np.int8), rng.geometric(1 / 8, n), axis=0)[:n]     # noqa: E731
    values, halves = [], []
    for _ in range(100):
        train_a, train_b = crawl(300), crawl(300)
        gens = [np.concatenate([train[rng.integers(0, 300, 60)], crawl(240)]) for train in (train_a, train_b)]
        pool = Pool(train_a, train_b, "hamming")
        result = own(*(pool_credit(gen, pool, "hamming") for gen in gens), pool, m_a=300, permutations=1, seed=0, params={})
        values.append(result.value)
        halves.append(result.ci[1] - result.value)
    errors = np.abs(np.array(values) - np.mean(values))
    assert (errors <= halves).mean() > 0.85
    assert np.mean(halves) < 3 * 1.96 * np.std(values)     # and not by being useless


def test_a_model_without_near_samples_takes_no_side():
    train_a, train_b, heldout = rows("0000", "0011"), rows("1111"), rows("0000", *["2222"] * 99)
    result = split_comparison(gen_a=rows("0000"), gen_b=rows("3333"), train_a=train_a, train_b=train_b, heldout=heldout)
    near = result.near_own_share
    assert near.params["within"] == 0
    assert near.value == pytest.approx((1 + 1 / 3) / 2)     # 1/3: B's part of the pool
    assert (near.ci, near.n_gen) == ((0.0, 1.0), 1)
    nothing = split_comparison(gen_a=rows("3333"), gen_b=rows("3333"), train_a=train_a, train_b=train_b, heldout=heldout).near_own_share
    assert (nothing.value, nothing.p_value) == (pytest.approx(0.5), 1.0)


def test_unequal_generated_sets_are_refused():
    with pytest.raises(ValueError, match=r"^gen_b: want 2 rows as in gen_a .*, got 1"):
        split_comparison(gen_a=rows("00", "00"), gen_b=rows("00"), train_a=rows("00"), train_b=rows("11"), heldout=rows("01"))
