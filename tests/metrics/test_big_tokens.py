"""Tokens beyond 255 through files, metrics and controls: the same numbers in every element type that holds them, also mixed."""
from functools import cache

import numpy as np
import pytest
import torch

from biasgen import Schedule, TrainingSet, leakage, near_copies, nn_divergence, paired_distances, split_comparison, train_affinity
from biasgen.controls import uturn
from biasgen.diffusion import model_space

RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, 60_000, (900, 1)) + RNG.integers(0, 3, (900, 12))    # neighbors share most of their bits
SETS = {"train": WORDS[:400], "heldout": WORDS[400:800], "gen": np.concatenate([WORDS[:40], WORDS[800:]])}
SETS["gen"][:20, 3] += 256    # equal in the low byte
FORMS = {
    "uint16": lambda rows: rows.astype(np.uint16),
    "uint32": lambda rows: rows.astype(np.uint32),
    "int32": lambda rows: rows.astype(np.int32),
    "torch uint16": lambda rows: torch.from_numpy(rows.astype(np.uint16)),
    "torch uint32": lambda rows: torch.from_numpy(rows.astype(np.uint32)),
    "torch int64": torch.from_numpy,
}


@cache
def numbers(form):
    """Values of several metrics on the sets in one form; None: as they are."""
    sets = {name: rows if form is None else FORMS[form](rows) for name, rows in SETS.items()}
    gen, train, heldout = sets["gen"], sets["train"], sets["heldout"]
    split = split_comparison(gen_a=gen, gen_b=gen, train_a=train, train_b=heldout, heldout=gen, permutations=19)
    return [
        train_affinity(**sets, permutations=19).value,
        nn_divergence(**sets, permutations=19).value,
        split.own_share.value,
        leakage(**sets).rows.tolist(),
        near_copies(**sets).value,
    ]


@pytest.mark.parametrize("form", FORMS)
def test_every_type_gives_the_same_numbers(form):
    assert numbers(form) == numbers(None)


MIXED = [("torch uint16", "torch int64"), ("uint16", "int32"), ("uint32", "uint16"), ("int32", "torch uint32")]


@pytest.mark.parametrize(("one", "other"), MIXED)
def test_types_may_be_mixed(one, other):
    mixed = {name: FORMS[other if name == "heldout" else one](rows) for name, rows in SETS.items()}
    assert train_affinity(**mixed, permutations=19).value == numbers(None)[0] > 0.2
    a, b = FORMS[one](SETS["train"][:50]), FORMS[other](SETS["train"][:50] % 256)
    np.testing.assert_array_equal(np.asarray(paired_distances(a, b, distance="hamming")), (SETS["train"][:50] > 255).sum(1))


def test_a_file_keeps_two_bytes_a_token(tmp_path):
    rows = SETS["train"].astype(np.uint16)
    TrainingSet(rows).save(tmp_path / "set.biasgen")
    loaded = TrainingSet.load(tmp_path / "set.biasgen")
    assert (loaded.distance, loaded.rows.dtype, loaded.high) == ("hamming", np.uint16, rows.max())
    np.testing.assert_array_equal(loaded.knn(rows[7:9]).indices[:, 0], [7, 8])
    assert (tmp_path / "set.biasgen").stat().st_size < rows.nbytes + 4096 + 64


@pytest.mark.parametrize("form", ["uint16", "torch uint16", "torch uint32"])
def test_model_space_and_uturns(form):
    tokens = RNG.integers(0, 300, (6, 4))
    rows = FORMS[form](tokens)
    assert model_space(rows).shape == (6, 4, tokens.max() + 1)
    back = uturn(rows, lambda x_t, level: model_space(tokens), Schedule.linear(T=21), 1)
    assert back.dtype == rows.dtype
    np.testing.assert_array_equal(np.asarray(back), tokens)
