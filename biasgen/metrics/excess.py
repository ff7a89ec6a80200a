"""How far a denoiser is from the exact one, and how much of that depends on its training set."""
from typing import Any

import torch


def excess_kl(exact: Any, model: Any) -> torch.Tensor:
    """(B,) nats per token, float64: mean over the L positions of KL(exact || model).

    Args:
        exact (B, L, Q): probabilities of the exact denoiser, e.g. TreeDenoiser; zeros contribute nothing.
        model (B, L, Q): log-probabilities of the model (log_softmax of its logits: a probability could underflow to 0).

    Use it instead of a sampled cross-entropy, which has the same minimum under far more noise. Raises ValueError where shapes differ.
    """
    exact, model = _tables(exact=exact, model=model)
    terms = torch.where(exact > 0, torch.xlogy(exact, exact) - exact * model, 0.0)
    return terms.sum(dim=-1).mean(dim=-1)


def variance_share(model_a: Any, model_b: Any, exact: Any) -> float:
    """1/2 mean |D_A - D_B|^2 / mean over both models of |D - D_exact|^2: how much of the squared error changes with training set and seed.

    model_a, model_b, exact: (B, L, Q) probabilities of two models with independent data and seeds, and of the exact denoiser, at the same
    noised rows. In expectation at most 1; a sample may exceed it. NaN where both models are exact. Raises ValueError where shapes differ.
    """
    model_a, model_b, exact = _tables(model_a=model_a, model_b=model_b, exact=exact)
    error = ((model_a - exact).square().mean() + (model_b - exact).square().mean()) / 2
    return float((model_a - model_b).square().mean() / 2 / error)


def _tables(**tables: Any) -> list[torch.Tensor]:
    """The tables as float64 of one shape (B, L, Q)."""
    tensors = {name: torch.as_tensor(table) for name, table in tables.items()}
    first = next(iter(tensors))
    for name, table in tensors.items():
        if table.ndim != 3 or table.shape != tensors[first].shape:
            raise ValueError(f"{name}: want shape (B, L, Q) as of {first} {tuple(tensors[first].shape)}, got {tuple(table.shape)}")
    return [table.double() for table in tensors.values()]
