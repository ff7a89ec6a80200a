"""Comparison: searches are made once, kept over checkpoints, and give the metrics' own numbers."""

import numpy as np
import pytest
import torch

import biasgen
from biasgen import TrainingSet
from biasgen.metrics import comparison as module
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.registry import choose, default_metrics, measure
from biasgen.oracle import knn as oracle

SETTINGS = {"permutations": 99, "seed": 3}


def tokens(n, seed):
    return np.random.default_rng(seed).integers(0, 3, (n, 8)).astype(np.int8)


def images(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 3)).astype(np.uint8)


def default(comparison, twins=False):
    names = default_metrics(comparison.distance, twins=twins)
    return measure(comparison, choose(names, given=comparison.sets))


@pytest.fixture
def searched(monkeypatch):
    """(kind, number of queries) of every search that a Comparison makes."""
    calls = []
    for kind in ("knn", "pool_credit"):
        search = getattr(module, kind)

        def recorded(rows, *rest, kind=kind, search=search, **named):
            calls.append((kind, len(rows)))
            return search(rows, *rest, **named)

        monkeypatch.setattr(module, kind, recorded)
    return calls


@pytest.mark.parametrize(
    ("draw", "alpha"), [(tokens, 0.1), (images, 0.02)], ids=["hamming", "sqeuclidean"]
)
def test_numbers_are_those_of_the_functions(draw, alpha):
    train, heldout = draw(100, 1), draw(200, 2)
    reference = Comparison(train=train, heldout=heldout, alpha=alpha, **SETTINGS)
    for seed in (4, 5):  # two checkpoints
        gen = draw(150, seed)
        gen[:10] = train[:10]
        sets = {"gen": gen, "train": train, "heldout": heldout}
        found = default(reference.with_samples(gen))
        copies = biasgen.near_copies(**sets, alpha=alpha, **SETTINGS)
        v = copies.params["threshold"]
        assert v is not None
        near = biasgen.train_affinity(**sets, within=v, **SETTINGS)
        expected = {
            name: getattr(biasgen, name)(**sets, **SETTINGS)
            for name in default_metrics(reference.distance)
            if not name.startswith("near_")
        } | {"near_copies": copies, "near_affinity": near}
        assert found.keys() == expected.keys()
        for name, result in expected.items():
            assert found[name].as_dict() == result.as_dict(), name
            assert np.array_equal(found[name].per_sample, result.per_sample), name
        report = biasgen.evaluate(**sets, alpha=alpha, **SETTINGS)
        assert list(report.metrics) == list(found)
        assert {name: r.as_dict() for name, r in report.metrics.items()} == {
            name: r.as_dict() for name, r in found.items()
        }


def test_metrics_share_searches_and_checkpoints_share_those_of_reference_rows(searched):
    train, heldout = TrainingSet(tokens(50, 1)), tokens(70, 2)
    heldout[:2] = train.rows[:2]
    reference = Comparison(train=train, heldout=heldout, alpha=0.5, permutations=9)
    for n in (30, 40):
        first = n == 30
        comparison = reference.with_samples(np.concatenate([tokens(n - 5, n), train.rows[:5]]))
        found = default(comparison)
        near = found["near_affinity"].n_gen
        assert 0 < near < n
        of_reference = [("knn", 70)] if first else []
        expected = [("pool_credit", n), *of_reference, ("pool_credit", near), ("knn", n)]
        assert searched == expected
        measure(comparison, choose(["leakage", "nn_ks"], given=comparison.sets))
        assert searched == expected, "other metrics find the searches made"
        del searched[:]
        assert comparison.pool() is reference.pool()
    nearest = oracle.distances(heldout, train.rows, "hamming").min(1)
    assert np.array_equal(reference.nearest_distances("heldout", "train"), nearest)


def test_two_models_share_theirs(searched):
    sets = {"train": tokens(80, 2), "twin_train": tokens(120, 3), "heldout": tokens(150, 4)}
    reference = Comparison(**sets, alpha=1e-9, permutations=9)
    for seed in (0, 10):
        comparison = reference.with_samples(tokens(100, seed), tokens(100, seed + 1))
        default(comparison, twins=True)
        counts = [searched.count(call) for call in (("knn", 150), ("knn", 100), ("pool_credit", 100))]
        assert counts == [2 if seed == 0 else 0, 4, 2]
        del searched[:]


def test_neighbors_of_any_two_sets_by_name_or_by_rows(searched):
    rows = {"gen": tokens(30, 0), "train": tokens(20, 1), "heldout": tokens(25, 2)}
    sets = {name: torch.from_numpy(part) for name, part in rows.items()}
    comparison = Comparison(**sets)
    found = comparison.nearest(comparison.gen, comparison.heldout, 3)
    expected = biasgen.knn(rows["gen"], rows["heldout"], 3)
    for name in ("distances", "indices", "tie_counts"):
        assert isinstance(getattr(found, name), np.ndarray)
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert comparison.nearest("gen", "heldout", 3) is found
    assert len(searched) == 1
    coverage = comparison.nearest("train", "gen")
    assert np.array_equal(coverage.indices, biasgen.knn(rows["train"], rows["gen"]).indices)
    other = comparison.with_samples(sets["heldout"][:9])
    assert other.nearest("gen", "heldout").distances.max() == 0, "found anew for other samples"
    with pytest.raises(ValueError, match=r"^query: want one of .*gen, train, heldout, got 'twin_gen'"):
        comparison.nearest("twin_gen", "train")
    with pytest.raises(ValueError, match=r"^reference: want one of .* got another Tensor"):
        comparison.nearest("gen", sets["gen"][:3])


def test_credit_within_a_distance_is_that_of_the_near_rows():
    train, heldout, gen = tokens(40, 1), tokens(60, 2), tokens(50, 3)
    comparison = Comparison(gen=gen, train=train, heldout=heldout)
    pool = np.concatenate([train, heldout])
    near = oracle.distances(gen, pool, "hamming").min(1) <= 1
    assert 0 < near.sum() < len(gen)
    for rows, within in ((gen[near], 1), (gen, 8), (gen[:0], -1)):
        found = comparison.credit("gen", within=within)
        expected = np.zeros(100) if len(rows) == 0 else biasgen.nearest_credit(rows, pool).weights
        assert np.array_equal(found.weights, expected)
        assert len(found.distances) == len(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gen": tokens(3, 0)[:, :7]}, r"^gen: want rows of shape \(8,\)"),
        ({"heldout": images(3, 0)}, r"^heldout: want rows of shape \(8,\)"),
        ({"twin_train": tokens(3, 0)[:, :7]}, r"^twin_train: want rows of shape \(8,\)"),
        ({"placebo": images(3, 0)}, r"^placebo: want rows of shape \(8,\)"),
        ({"alpha": 1.5}, r"^alpha: want a share in \(0, 1\), got 1.5"),
        ({"permutations": 0}, r"^permutations: .*got 0"),
        ({"distance": "l2"}, r"^distance: unknown 'l2'"),
    ],
)
def test_sets_that_do_not_agree_are_refused_before_any_search(change, message):
    with pytest.raises(ValueError, match=message):
        Comparison(**{"gen": tokens(3, 0), "train": tokens(3, 1), "heldout": tokens(3, 2)} | change)


def test_a_checkpoint_of_another_shape_is_refused():
    comparison = Comparison(train=tokens(20, 1), heldout=tokens(20, 2))
    with pytest.raises(ValueError, match=r"^gen: want rows of shape \(8,\) as in train, got \(7,\)"):
        comparison.with_samples(tokens(5, 3)[:, :7])


def test_the_views_of_any_training_set_are_searched():
    train = images(20, 1)
    mirrored = TrainingSet(train[..., ::-1].copy(), views=("identity", "hflip"))
    comparison = Comparison(gen=mirrored, train=train, heldout=images(20, 2))
    assert comparison.nearest_distances("gen", "train").tolist() == [0] * 20
    assert comparison.credit("gen").distances.tolist() == [0] * 20
