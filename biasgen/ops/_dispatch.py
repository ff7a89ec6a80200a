"""Chooses the backend of one call."""
import warnings
from types import ModuleType
from typing import Any

from biasgen import _settings, backends


def choose(
    op: str,
    *,
    device: Any,
    dtype: str,
    distance: str | None = None,
    backend: str | None = None,
    case: Any = None,
) -> tuple[str, ModuleType]:
    """(name, module) for this call: `backend`, else BIASGEN_BACKEND, else the first of
    backends.ORDER that takes it and has no fault.

    device: that of the tensors, a torch.device or its name. case: what else a backend may refuse,
    for its OPS[op]["refuses"]. A backend that was asked for never falls back: ValueError says why
    it refuses. RuntimeWarning where one is passed over for a fault.
    """
    asked = backend or _settings.backend()
    why = {}
    for name in (asked,) if asked else backends.ORDER:
        why[name] = backends.refusal(name, op, device=device, dtype=dtype, distance=distance, case=case)
        if why[name] is not None:
            continue
        module = backends.load(name)[0]
        if not asked and hasattr(module, "fault"):
            why[name] = module.fault(op, device)
        if why[name] is None:
            return name, module
        warnings.warn(f"backend: {name} is passed over for {op}: {why[name]}", RuntimeWarning, stacklevel=3)
    raise ValueError(f"backend: none can run {op} here; " + "; ".join(f"{name}: {reason}" for name, reason in why.items()))
