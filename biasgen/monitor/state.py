"""A monitor's history as plain containers and tensors, which a training checkpoint can hold and torch.load(weights_only=True) can read."""
from typing import Any

import numpy as np
import torch

from biasgen.results import Null, Record, Result, field_values


def record_to_state(record: Record) -> dict[str, Any]:
    """dicts, numbers, strings, tuples and tensors that record_from_state turns back."""
    metrics = {name: _plain(field_values(result)) for name, result in record.metrics.items()}
    return {"step": record.step, "seconds": record.seconds, "scalars": dict(record.scalars), "metrics": metrics}


def record_from_state(state: dict[str, Any]) -> Record:
    """The Record behind record_to_state; per-sample numbers come back as NumPy arrays."""
    return Record(state["step"], state["seconds"], dict(state["scalars"]), {n: _result(values) for n, values in state["metrics"].items()})


def _result(values: dict[str, Any]) -> Result:
    null, per_sample = values["null"], values["per_sample"]
    return Result(
        **values
        | {
            "null": None if null is None else Null(**null),
            "per_sample": per_sample.numpy() if isinstance(per_sample, torch.Tensor) else per_sample,
        }
    )


def _plain(value: Any) -> Any:
    """NumPy arrays as tensors, NumPy scalars as numbers, containers and Null member by member."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Null):
        return _plain(field_values(value))
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(entry) for entry in value)
    return value
