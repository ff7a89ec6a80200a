"""Implementations of the ops, in order of preference. To add one, write a module and name it here.

A backend module has DEVICES (torch device types), OPS = {op: {"dtypes": names, "distances": names}}, probe() -> None or a sentence
that says why it cannot run, and one function for each op. An op that does not take every case has "refuses" there, too: case -> None or a
sentence. Where it takes only some devices of a type the module has device_refusal(device) -> None or a sentence. probe(), device_refusal()
and refusal() never raise, print or build. Where the kernels need a self-test the module has fault(op, device) -> None or what is wrong; it
may build, and is asked before the backend is chosen for a caller who named none.
"""
import importlib
from functools import cache
from types import ModuleType
from typing import Any

from biasgen import _settings

# Interpreted, Triton is for tests: it runs when asked for.
ORDER = ("cuda", "cpu", "torch", "triton") if _settings.triton_interpreted() else ("cuda", "triton", "cpu", "torch")


@cache
def load(name: str) -> tuple[ModuleType | None, str | None]:
    """(module, None), or (None, why it cannot be used)."""
    module, why = _imported(name)
    why = why or module.probe()
    return (None, why) if why else (module, None)


@cache
def _imported(name: str) -> tuple[ModuleType | None, str | None]:
    if name not in ORDER:
        return None, f"no such backend; known: {', '.join(ORDER)}"
    try:
        return importlib.import_module(f"biasgen.backends.{name}_backend"), None
    except ImportError as error:
        return None, str(error)


def refusal(
    name: str, op: str, *, device: Any, dtype: str, distance: str | None = None, case: Any = None
) -> str | None:
    """Why backend `name` cannot run this call on tensors of `device`, a torch.device or its name, or None."""
    module, why = _imported(name)
    if module is None:
        return why
    # Said first: a probe may start CUDA, which a call on CPU tensors must not.
    if str(device).partition(":")[0] not in module.DEVICES:
        return f"takes tensors on {', '.join(module.DEVICES)}, got {device}"
    why = load(name)[1]
    if not why and hasattr(module, "device_refusal"):
        why = module.device_refusal(device)
    if why:
        return why
    if op not in module.OPS:
        return f"has no {op}"
    if dtype not in module.OPS[op]["dtypes"]:
        return f"{op} takes {', '.join(module.OPS[op]['dtypes'])}, got {dtype}"
    if distance is not None and distance not in module.OPS[op]["distances"]:
        return f"{op} has no {distance}"
    if case is not None and "refuses" in module.OPS[op]:
        return module.OPS[op]["refuses"](case)
    return None
