"""Metrics of training sets with views, and of streamed ones: the searches are those of the definition; what has no views says so."""
import numpy as np
import pytest
import torch

import biasgen
from biasgen import TrainingSet
from biasgen.metrics._sets import Pool
from biasgen.ops._streamed import Streamed

VIEWS = ("identity", "hflip")
RNG = np.random.default_rng(0)
TRAIN, HELDOUT, GEN, OTHER = (RNG.integers(0, 6, (n, 4, 4)).astype(np.uint8) for n in (60, 50, 40, 55))
TRAIN[5], HELDOUT[4], TRAIN[30] = TRAIN[6], TRAIN[6], TRAIN[31]
GEN[:9] = TRAIN[:9, :, ::-1]
SETS = {"gen": GEN, "train": TRAIN, "heldout": HELDOUT}


def doubled(rows):
    return np.concatenate([rows, rows[..., ::-1]])


def equal(one, other):
    """Results, or what has Results, alike in everything."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            equal(one[name], other[name])
    elif hasattr(one, "__dataclass_fields__"):
        equal(vars(one), vars(other))
    else:
        np.testing.assert_equal(one, other)


@pytest.mark.parametrize("name", ["nn_divergence", "nn_auc", "nn_wasserstein", "nn_ks"])
def test_nearest_distances_are_those_to_the_doubled_rows(name):
    metric = getattr(biasgen, name)
    plain = metric(gen=GEN, train=doubled(TRAIN), heldout=HELDOUT, placebo=doubled(OTHER))
    viewed = metric(gen=GEN, train=TrainingSet(TRAIN, views=VIEWS), heldout=HELDOUT, placebo=OTHER)
    assert (viewed.value, viewed.p_value, viewed.placebo, viewed.n_train) == (plain.value, plain.p_value, plain.placebo, 60)
    np.testing.assert_array_equal(viewed.per_sample, plain.per_sample)


def test_near_copies_and_their_placebo():
    viewed = biasgen.near_copies(gen=GEN, train=TrainingSet(TRAIN, views=VIEWS), heldout=HELDOUT, placebo=OTHER, alpha=0.1)
    plain = biasgen.near_copies(gen=GEN, train=doubled(TRAIN), heldout=HELDOUT, placebo=doubled(OTHER), alpha=0.1)
    assert (viewed.value, viewed.heldout, viewed.placebo) == (plain.value, plain.heldout, plain.placebo)
    assert viewed.value >= 9 / 40


def test_affinity_and_leakage_pool_both_sets_in_the_views():
    table = np.minimum(*(biasgen.pairwise_distances(seen, np.concatenate([TRAIN, HELDOUT])) for seen in (GEN, GEN[..., ::-1].copy())))
    nearest = table == table.min(1, keepdims=True)
    share = nearest / nearest.sum(1, keepdims=True)
    train = TrainingSet(TRAIN, views=VIEWS)
    assert biasgen.train_affinity(gen=GEN, train=train, heldout=HELDOUT).value == pytest.approx(share[:, :60].sum() / 40, abs=1e-12)
    np.testing.assert_allclose(biasgen.leakage(gen=GEN, train=train, heldout=HELDOUT).weights, share[:, :60].sum(0), atol=1e-12)
    twins = biasgen.split_comparison(gen_a=GEN, gen_b=OTHER[:40], train_a=train, train_b=OTHER, heldout=HELDOUT, permutations=19)
    assert twins.kl_own.per_sample[0].tolist() == train.knn(GEN).distances[:, 0].tolist()
    assert twins.kl_own.per_sample[1].tolist() == TrainingSet(OTHER, views=VIEWS).knn(OTHER[:40]).distances[:, 0].tolist()
    assert twins.kl_placebo.per_sample[0].tolist() == TrainingSet(OTHER, views=VIEWS).knn(GEN).distances[:, 0].tolist()


def test_samples_of_the_training_set_mirrored_are_copies():
    found = biasgen.evaluate(gen=GEN[:9], train=TrainingSet(TRAIN, views=VIEWS), heldout=HELDOUT, permutations=19)
    assert found.metrics["near_copies"].per_sample.tolist() == [0] * 9
    assert found.params["views"] == VIEWS


def test_training_sets_of_other_views_are_refused():
    with pytest.raises(ValueError, match=r"^views: want \('identity', 'hflip'\) of every TrainingSet, .* got \('identity',\) of heldout"):
        biasgen.train_affinity(gen=GEN, train=TrainingSet(TRAIN, views=VIEWS), heldout=TrainingSet(HELDOUT))


def test_denoisers_have_no_views():
    rows = torch.randn(20, 3, 4)
    train = TrainingSet(rows, views=VIEWS)
    with pytest.raises(ValueError, match=r"^train: want a set without views, got \('identity', 'hflip'\): add the mirror images as rows$"):
        biasgen.EmpiricalDenoiser(train)
    with pytest.raises(ValueError, match=r"^train: want rows without views, the empirical denoiser has none: add "):
        biasgen.AlignmentProbe(train=train, heldout=rows + 1, probe=rows + 2, schedule=biasgen.Schedule.linear(), t=100)
    with pytest.raises(ValueError, match=r"^train: want rows without views"):
        biasgen.BiasMonitor(train=train, heldout=rows + 1, denoiser=lambda model, x_t, level: x_t, schedule=biasgen.Schedule.linear())


def test_a_monitor_searches_twins_in_the_views_of_train():
    def sampler(model, n, *, seed, offset=0):
        return np.resize(GEN if model == "a" else OTHER, (n, 4, 4))

    train = TrainingSet(TRAIN, views=VIEWS)
    monitor = biasgen.BiasMonitor(train=train, twin_train=OTHER, heldout=HELDOUT, sampler=sampler, n_samples=40, every=1, looks=8)
    record = monitor.step(1, "a", twin="b")
    plain = biasgen.split_comparison(gen_a=GEN, gen_b=OTHER[:40], train_a=train, train_b=OTHER, heldout=HELDOUT)
    assert record.metrics["own_share"].value == plain.own_share.value


@pytest.mark.parametrize(("views", "heldout"), [(VIEWS, HELDOUT), (("identity",), torch.from_numpy(HELDOUT))])
def test_streamed_sets_give_the_same_results(tmp_path, views, heldout):
    np.save(tmp_path / "train.npy", TRAIN)
    rows = np.load(tmp_path / "train.npy", mmap_mode="r")
    whole, train = TrainingSet(TRAIN, views=views), TrainingSet(rows, views=views, max_memory=8 * 16 * 11)
    assert train.streamed
    pool = Pool(train, heldout, "sqeuclidean")
    assert isinstance(pool.prepared, Streamed)
    np.testing.assert_array_equal(pool.first_equal, Pool(whole, heldout, "sqeuclidean").first_equal)
    assert len(set(pool.first_equal)) == 60 + 50 - 3
    sets = {"gen": GEN, "heldout": heldout, "permutations": 49}
    ours, theirs = (biasgen.leakage(gen=GEN, heldout=heldout, train=given) for given in (train, whole))
    equal(ours, theirs)
    ours, theirs = (biasgen.evaluate(train=given, **sets) for given in (train, whole))
    equal(vars(ours), vars(theirs))


def test_a_row_of_a_streamed_pool_that_is_not_finite_is_refused():
    train = TrainingSet(TRAIN.astype(np.float32), max_memory=8 * 64 * 11)
    heldout = HELDOUT.astype(np.float32)
    heldout[7, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"^pool: want finite numbers of at most 1e\+150, got nan in row 67$"):
        Pool(train, heldout, "sqeuclidean")
