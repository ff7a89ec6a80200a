"""NN AUC, Wasserstein and KS: SciPy on distances by the book, placebo, direction; refusals are those of every metric."""
import numpy as np
import pytest
import scipy.stats

import biasgen
from biasgen import TrainingSet, nn_auc, nn_ks, nn_wasserstein
from biasgen.oracle import knn as oracle

METRICS = (nn_auc, nn_wasserstein, nn_ks)


def images(n: int, seed: int, top: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, (n, 4, 3)).astype(np.uint8)


GEN, TRAIN, HELDOUT, OTHER = images(120, 1), images(60, 2), images(150, 3), images(60, 4)


def scipys(metric, gen, heldout):
    if metric is nn_auc:
        return 1 - scipy.stats.mannwhitneyu(gen, heldout).statistic / (len(gen) * len(heldout))
    return scipy.stats.wasserstein_distance(gen, heldout) if metric is nn_wasserstein else scipy.stats.ks_2samp(gen, heldout).statistic


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("distance", [None, "hamming"])
def test_value_and_placebo_are_scipys(metric, distance):
    result = metric(gen=GEN, train=TRAIN, heldout=HELDOUT, placebo=OTHER, distance=distance, permutations=19)
    name = distance or "sqeuclidean"
    to = lambda query, reference: oracle.distances(query, reference, name).min(1)     # noqa: E731
    assert result.value == pytest.approx(scipys(metric, to(GEN, TRAIN), to(HELDOUT, TRAIN)), rel=1e-12)
    assert result.placebo == pytest.approx(scipys(metric, to(GEN, OTHER), to(HELDOUT, OTHER)), rel=1e-12)
    assert np.array_equal(result.per_sample, to(GEN, TRAIN))
    assert (result.n_gen, result.n_train, result.n_heldout) == (120, 60, 150)
    assert result.heldout == (0.5 if metric is nn_auc else None)
    assert result.params | {"z_u": 0} == {"distance": name, "permutations": 19, "seed": 0, "z_u": 0}
    assert result.ci[0] < result.value < result.ci[1]


@pytest.mark.parametrize("metric", METRICS)
def test_copies_are_seen_and_a_prepared_set_is_the_same(metric):
    gen = np.concatenate([TRAIN[:40], images(80, 5)])
    result = metric(gen=gen, train=TRAIN, heldout=HELDOUT)
    assert result.p_value == 0.001
    assert result.excess > 0
    prepared = metric(gen=gen, train=TrainingSet(TRAIN), heldout=HELDOUT)
    assert prepared.as_dict() == result.as_dict()
    assert metric(gen=GEN, train=TRAIN, heldout=HELDOUT).p_value > 0.01


def test_dark_samples_are_far_and_only_auc_says_on_which_side():
    dark = images(120, 6, top=40)
    assert nn_auc(gen=dark, train=TRAIN, heldout=HELDOUT).p_value > 0.99
    assert [metric(gen=dark, train=TRAIN, heldout=HELDOUT).p_value for metric in METRICS[1:]] == [0.001] * 2


@pytest.mark.parametrize("metric", METRICS)
def test_refusals(metric):
    with pytest.raises(ValueError, match=r"^placebo: want uint8 rows as in train, got int8"):
        metric(gen=GEN, train=TRAIN, heldout=HELDOUT, placebo=OTHER.astype(np.int8))
    with pytest.raises(ValueError, match=r"^permutations: .*at least 1, got 0"):
        metric(gen=GEN, train=TRAIN, heldout=HELDOUT, permutations=0)


def test_names_are_public():
    assert {metric.__name__ for metric in METRICS} <= set(biasgen.__all__)
