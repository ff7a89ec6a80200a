"""How far a denoiser is from the exact one, in nats per token."""
from typing import Any

import numpy as np
import torch

from biasgen.ops._rows import as_tensor
from biasgen.results import Result
from biasgen.statistics.bootstrap import ratio


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


def excess(exact: Any, *models: Any, clusters: Any = None, redraws: int = 999, seed: int = 0) -> Result:
    """Mean of excess_kl over rows and models, nats per token, with a 95 % interval: how far the models are from the exact denoiser.

    Args:
        exact (B, L, Q): probabilities of the exact denoiser. models: of each the log-probabilities (B, L, Q) at the same noised rows.
        clusters (B,): integer id of the sequence behind each row, where rows are several noises of one.
        redraws, seed: of the bootstrap, which redraws clusters: the interval is for these models.

    per_sample (B,): the rows, mean of the models. Raises ValueError where shapes differ and TypeError without a model.
    """
    if not models:
        raise TypeError("models: want at least one table of log-probabilities, got none")
    rows = torch.stack([excess_kl(exact, model) for model in models]).mean(0).cpu().numpy()
    value, ci = ratio(rows, np.ones_like(rows), clusters=clusters, redraws=redraws, seed=seed)
    return Result(value, ci=ci, per_sample=rows, params={"rows": len(rows), "models": len(models), "redraws": redraws, "seed": seed})


def _tables(**tables: Any) -> list[torch.Tensor]:
    """The tables as float64 of one shape (B, L, Q)."""
    tensors = {name: as_tensor(table) for name, table in tables.items()}
    first = next(iter(tensors))
    for name, table in tensors.items():
        if table.ndim != 3 or table.shape != tensors[first].shape:
            raise ValueError(f"{name}: want shape (B, L, Q) as of {first} {tuple(tensors[first].shape)}, got {tuple(table.shape)}")
    return [table.double() for table in tensors.values()]
