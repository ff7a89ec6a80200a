"""OneModel: the numbers of the metrics one by one, prepared once and called at every checkpoint."""
import numpy as np
import pytest

from biasgen import TrainingSet, near_copies, nn_auc, nn_divergence, nn_ks, nn_wasserstein, train_affinity
from biasgen.metrics import one_model as module
from biasgen.metrics.divergence_curve import divergence_curve
from biasgen.metrics.one_model import OneModel, one_model
from biasgen.oracle import knn as oracle


def tokens(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (n, 8)).astype(np.int8)


def images(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 3)).astype(np.uint8)


SETTINGS = {"permutations": 99, "seed": 3}
NAMES = ["train_affinity", "near_affinity", "near_copies", "nn_divergence", "nn_auc"]


@pytest.mark.parametrize(
    ("draw", "alpha", "more"),
    [(tokens, 0.1, {}), (images, 0.02, {"nn_wasserstein": nn_wasserstein, "nn_ks": nn_ks})],
    ids=["hamming", "sqeuclidean"],
)
def test_numbers_are_those_of_the_metrics(draw, alpha, more):
    train, heldout = draw(100, 1), draw(200, 2)
    model = OneModel(train, heldout, alpha=alpha)
    for seed in (4, 5):     # two checkpoints
        gen = draw(150, seed)
        gen[:10] = train[:10]
        sets = {"gen": gen, "train": train, "heldout": heldout}
        found = model(gen, **SETTINGS)
        assert list(found) == NAMES + list(more)
        single = {"train_affinity": train_affinity, "nn_divergence": nn_divergence, "nn_auc": nn_auc} | more
        expected = {name: metric(**sets, **SETTINGS) for name, metric in single.items()}
        expected["near_copies"] = near_copies(**sets, alpha=alpha, **SETTINGS)
        assert model.threshold is not None
        assert model.threshold == expected["near_copies"].params["threshold"]
        expected["near_affinity"] = train_affinity(**sets, within=model.threshold, **SETTINGS)
        assert set(expected) == set(found)
        for name, result in expected.items():
            assert found[name].as_dict() == result.as_dict(), name
            assert np.array_equal(found[name].per_sample, result.per_sample), name
        curve, _ = divergence_curve([model.pairs(found["nn_divergence"].per_sample)], largest=model.largest, redraws=1)
        assert curve.tolist() == pytest.approx([found["nn_divergence"].value])
        together = one_model(**sets, alpha=alpha, **SETTINGS)
        assert {name: r.as_dict() for name, r in together.items()} == {name: r.as_dict() for name, r in found.items()}


def test_reference_rows_are_prepared_and_searched_once(monkeypatch):
    searched = []
    nearest = module.nearest_distances
    monkeypatch.setattr(module, "nearest_distances", lambda rows, *rest: searched.append(len(rows)) or nearest(rows, *rest))
    model = OneModel(TrainingSet(tokens(50, 1), distance="hamming"), tokens(70, 2))
    assert searched == [70]
    assert np.array_equal(model.heldout_distances, oracle.distances(tokens(70, 2), tokens(50, 1), "hamming").min(1))
    assert model.largest == 8
    model(tokens(30, 3), permutations=9)
    model(tokens(40, 4), permutations=9)
    assert searched == [70, 30, 40]


def test_sets_that_do_not_agree_are_refused_before_any_search(monkeypatch):
    monkeypatch.setattr(module, "nearest_distances", lambda *_: pytest.fail("searched"))
    sets = {"gen": tokens(3, 0), "train": tokens(3, 1), "heldout": tokens(3, 2)}
    for change, message in [
        ({"gen": tokens(3, 0)[:, :7]}, r"^gen: want rows of shape \(8,\)"),
        ({"heldout": images(3, 0)}, r"^heldout: want rows of shape \(8,\)"),
        ({"alpha": 1.5}, r"^alpha: want a share in \(0, 1\), got 1.5"),
        ({"permutations": 0}, r"^permutations: .*got 0"),
        ({"distance": "l2"}, r"^distance: unknown 'l2'"),
    ]:
        with pytest.raises(ValueError, match=message):
            one_model(**(sets | change))


def test_a_checkpoint_of_another_shape_is_refused():
    model = OneModel(tokens(20, 1), tokens(20, 2))
    with pytest.raises(ValueError, match=r"^gen: want rows of shape \(8,\) as in train, got \(7,\)"):
        model(tokens(5, 3)[:, :7])
    with pytest.raises(ValueError, match=r"^permutations: .*got 0"):
        model(tokens(5, 3), permutations=0)
