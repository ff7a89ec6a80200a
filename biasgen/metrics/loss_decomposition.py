"""How much of the error of a model depends on its training set and seed: two models on independent data, no sampling."""
import math
from typing import Any

import numpy as np
import torch

from biasgen.ops._rows import as_tensor
from biasgen.results import LossDecomposition, Result
from biasgen.statistics.bootstrap import ratio


def loss_decomposition(
    model_a: Any,
    model_b: Any,
    *,
    exact: Any = None,
    target: Any = None,
    third: Any = None,
    clusters: Any = None,
    redraws: int = 999,
    seed: int = 0,
) -> LossDecomposition:
    """Split the squared error of two models that share architecture and training, not data and seeds, into variance and bias.

    For predictions D_A, D_B of x_0 at the same noised held-out rows, 1/2 |D_A - D_B|^2 has the mean of the variance of one model over
    training sets and seeds; |D - D_exact|^2 has that of variance + bias^2. Squares are means over the entries of a row.

    Args:
        model_a, model_b (B, ...): the predictions; arrays or tensors, computed in float64.
        exact (B, ...): predictions of the exact denoiser. Then excess = mean over both models of |D - D_exact|^2, bias = excess - variance,
            and share = variance / excess: in expectation at most 1, a sample may exceed it.
        target (B, ...): the clean rows x_0. Then loss = mean over both models of |D - x_0|^2; without `exact`, share = variance / loss, a
            lower bound of the share of the excess, since the loss of the exact denoiser is in it. params["of"] says which it is.
        third (B, ...): predictions of a model on A's data with another seed. Then seed_variance = 1/2 |D_A - D_third|^2 and data_variance
            = variance - seed_variance (may be negative). Without it disagreement must not be called dependence on the data.
        clusters (B,): integer id of the sequence or image behind each row, where rows are several noises of one.
        redraws, seed: of the bootstrap.

    Returns Results with 95 % intervals, clusters redrawn; None for what was not asked. The intervals are for these models: how far
    another pair would differ is not in them. share is NaN where both models are exact. Raises ValueError where shapes differ.
    Source: the bias-variance decomposition (Geman, Bienenstock & Doursat 1992); biasgen, docs/statistics.md.
    """
    given = {"model_a": model_a, "model_b": model_b, "exact": exact, "target": target, "third": third}
    rows = _rows(**{name: values for name, values in given.items() if values is not None})
    settings = {"rows": len(rows["model_a"]), "redraws": redraws, "seed": seed}

    def square(a: str, b: str) -> np.ndarray:
        return (rows[a] - rows[b]).square().mean(1).cpu().numpy()

    def mean(values: np.ndarray, over: np.ndarray | None = None, **params: Any) -> Result:
        if over is not None and not over.any():
            return Result(math.nan, params=settings | params)
        denominator = np.ones_like(values) if over is None else over
        value, ci = ratio(values, denominator, clusters=clusters, redraws=redraws, seed=seed)
        return Result(value, ci=ci, params=settings | params)

    variance = square("model_a", "model_b") / 2
    found = {"variance": mean(variance)}
    if target is not None:
        loss = (square("model_a", "target") + square("model_b", "target")) / 2
        found |= {"loss": mean(loss), "share": mean(variance, loss, of="loss")}
    if exact is not None:
        excess = (square("model_a", "exact") + square("model_b", "exact")) / 2
        found |= {"excess": mean(excess), "bias": mean(excess - variance), "share": mean(variance, excess, of="excess")}
    if third is not None:
        seed_variance = square("model_a", "third") / 2
        found |= {"seed_variance": mean(seed_variance), "data_variance": mean(variance - seed_variance)}
    return LossDecomposition(**found)


def _rows(**given: Any) -> dict[str, torch.Tensor]:
    """The predictions as (B, D) float64 tensors of one shape, on the device of model_a."""
    tensors = {name: as_tensor(values).detach() for name, values in given.items()}
    first = tensors["model_a"]
    for name, values in tensors.items():
        if values.ndim < 2 or values.shape != first.shape or not values.numel():
            raise ValueError(f"{name}: want shape (B, ...) as of model_a {tuple(first.shape)}, got {tuple(values.shape)}")
    return {name: values.to(first.device, torch.float64).flatten(1) for name, values in tensors.items()}
