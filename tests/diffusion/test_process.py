"""The space that the model works in."""
import numpy as np
import pytest
import torch

from biasgen import TrainingSet
from biasgen.diffusion import model_space

TOKENS = np.array([[0, 2], [1, 1], [0, 0]], np.int8)
IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2) * 10


def test_floats_stay_as_they_are():
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert model_space(rows) is rows
    assert torch.equal(model_space(rows.numpy()), rows)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_tokens_become_one_hot(dtype):
    rows = model_space(TOKENS.astype(dtype), Q=4)
    assert (rows.shape, rows.dtype) == ((3, 2, 4), torch.float32)
    assert torch.equal(rows, torch.eye(4)[torch.from_numpy(TOKENS).long()])
    assert model_space(torch.from_numpy(TOKENS)).shape == (3, 2, 3)   # Q: one more than the largest
    assert torch.equal(model_space(TrainingSet(TOKENS), Q=4), rows)


def test_encode_gets_a_tensor_of_the_rows():
    def encode(x):
        assert (type(x), x.dtype) == (torch.Tensor, torch.uint8)
        return x / 127.5 - 1

    expected = torch.from_numpy(IMAGES).float() / 127.5 - 1
    for rows in (IMAGES, torch.from_numpy(IMAGES), TrainingSet(IMAGES)):
        assert torch.equal(model_space(rows, encode), expected)
    assert torch.equal(model_space(TOKENS, lambda x: x[:, :1].double()), torch.from_numpy(TOKENS[:, :1]).double())
    weight = torch.ones(1, requires_grad=True)
    assert not model_space(IMAGES, lambda x: x * weight).requires_grad


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((IMAGES,), {}, r"train: torch\.uint8 rows want encode=.*lambda x: x / 127\.5 - 1"),
        ((TOKENS > 0,), {}, r"train: torch\.bool rows want encode="),
        ((TOKENS[:0],), {}, r"train: want at least one row, got shape \(0, 2\)"),
        ((TOKENS,), {"Q": 2}, r"train: want symbols 0\.\.1, got 0\.\.2"),
        ((TOKENS - 1,), {}, r"train: want symbols 0\.\.1, got -1\.\.1"),
        ((IMAGES, lambda x: x), {}, r"encode: want floats of shape \(2, \.\.\.\), got torch\.uint8 of shape \(2, 3, 2, 2\)"),
        ((IMAGES, lambda x: x.float().flatten()), {}, r"encode: want floats .* got torch\.float32 of shape \(24,\)"),
    ],
)
def test_errors(arguments, options, message):
    with pytest.raises(ValueError, match="^" + message):
        model_space(*arguments, **options, name="train")


def test_wrong_kind_of_object():
    with pytest.raises(TypeError, match=r"^rows: want a NumPy array, a torch tensor or an object with `\.rows`, got list"):
        model_space([[0, 1]])
