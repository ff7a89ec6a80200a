"""Membership: scikit-learn's ROC curve, a known power, its null, losses that are refused."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from biasgen import membership


def rows_with(values) -> np.ndarray:
    """One feature a row, which is its loss."""
    return np.asarray(values, dtype=np.float64)[:, None]


def loss(rows, t):
    return rows[:, 0] + t


@settings(max_examples=40, deadline=None)
@given(
    train=st.lists(st.integers(0, 15), min_size=1, max_size=30),
    heldout=st.lists(st.integers(0, 15), min_size=4, max_size=30),
    fpr=st.sampled_from([0.25, 0.3, 0.5, 0.9]),
)
def test_scikit_learns_roc(train, heldout, fpr):
    found = membership(loss, train=rows_with(train), heldout=rows_with(heldout), t=0, fpr=fpr, permutations=1)
    labels, scores = [1] * len(train) + [0] * len(heldout), -np.array(train + heldout)
    assert found.auc.value == pytest.approx(roc_auc_score(labels, scores))
    mistaken, told, _ = roc_curve(labels, scores, drop_intermediate=False)
    best = np.flatnonzero(mistaken <= fpr + 1e-12)[-1]
    assert found.tpr.value == pytest.approx(told[best])
    assert found.tpr.heldout == pytest.approx(mistaken[best])


def test_numbers_by_hand():
    found = membership(loss, train=rows_with([1, 2, 2, 9]), heldout=rows_with([2, 3, 4, 5]), t=0, fpr=0.25)
    assert found.tpr.value == 3 / 4                       # below 3, where one held-out row of four lies
    assert found.tpr.params["threshold"] == 3.0
    assert found.tpr.heldout == 1 / 4
    assert (found.tpr.n_train, found.tpr.n_heldout, found.auc.n_train, found.auc.n_heldout, found.auc.n_gen) == (4, 4, 4, 4, None)
    assert found.auc.value == pytest.approx((4 + 3.5 + 3.5 + 0) / 16)
    assert found.tpr.ci[0] < 0.75 < found.tpr.ci[1]


def test_levels_are_averaged_and_tensors_are_taken():
    seen = []

    def noisy(rows, t):
        assert not torch.is_grad_enabled()
        seen.append((len(rows), t))
        return torch.as_tensor(rows[:, 0]) * (1.0 if t == 10 else 3.0)

    train, heldout = rows_with([1, 2]), rows_with([1.5, 3, 4])
    found = membership(noisy, train=train, heldout=heldout, t=[10, 20], fpr=0.4)
    assert sorted(seen) == [(2, 10), (2, 20), (3, 10), (3, 20)]
    assert found.tpr.params["threshold"] == 2 * 3     # (1 + 3) / 2 times the second smallest
    assert found.auc.params["t"] == [10, 20]


def test_null_and_power():
    rng = np.random.default_rng(0)
    flagged = np.zeros(2)
    shares = []
    for seed in range(200):
        train, heldout = rows_with(rng.normal(size=150)), rows_with(rng.normal(size=100))
        found = membership(loss, train=train, heldout=heldout, t=0, fpr=0.05, permutations=99, seed=seed)
        flagged += [found.auc.p_value <= 0.05, found.tpr.p_value <= 0.05]
        shares.append(found.tpr.value)
    assert flagged.max() <= 20     # 5 % of 200; above 20 has probability 1e-3
    assert np.mean(shares) == pytest.approx(6 / 101, abs=4 * np.std(shares) / np.sqrt(200))
    assert found.tpr.null.mean == pytest.approx(6 / 101, abs=0.01)     # (k + 1) / (h + 1), k = 5
    leaning = membership(loss, train=rows_with(rng.normal(-1, 1, 150)), heldout=heldout, t=0, fpr=0.05, permutations=99)
    assert (leaning.auc.p_value, leaning.tpr.p_value) == (0.01, 0.01)
    assert leaning.tpr.value == pytest.approx(0.26, abs=0.12)     # Phi(Phi^-1(.05) + 1)


def test_held_out_rows_that_allow_exactly_one_mistake():
    heldout = rows_with(np.arange(3000))
    found = membership(loss, train=rows_with(np.arange(-1, 5)), heldout=heldout, t=0, fpr=0.001, permutations=1)
    assert found.tpr.params["threshold"] == 3.0     # .001 * 3000 rows lie below


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fpr": 0.001}, r"^fpr: want a share in \[1 / 4, 1\), .*got 0.001"),
        ({"fpr": 1.0}, r"^fpr: .*got 1.0"),
        ({"t": []}, r"^t: want at least one noise level"),
        ({"permutations": 0}, r"^permutations: .*got 0"),
        ({"heldout": rows_with([1, np.nan, 2, 3])}, r"^loss: want finite numbers, got nan for row 1 of heldout at t = 0"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        membership(loss, **({"train": rows_with([1]), "heldout": rows_with([1, 2, 3, 4]), "t": 0, "fpr": 0.5} | change))


def test_a_loss_of_another_shape_is_refused():
    sets = {"train": rows_with([1, 2]), "heldout": rows_with([1, 2]), "t": 3, "fpr": 0.5}
    with pytest.raises(ValueError, match=r"^loss: want shape \(2,\), one number a row of train, got \(2, 1\) at t = 3"):
        membership(lambda rows, t: rows, **sets)
    with pytest.raises(TypeError, match=r"^loss: want a function of \(rows, t\), got float"):
        membership(0.5, **sets)
