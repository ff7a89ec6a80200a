"""Implementations of the ops, and which of them can run a call.

An op (biasgen/ops) checks its arguments, asks for a backend that takes the call, and makes the
answer of what that backend finds. A backend is one module, <name>_backend.py:

- cpu: native kernels of biasgen._cpu, at the best instruction set of the machine. Their blocks go
  to a pool of Python threads.
- torch: plain torch on any device. It has every op and every distance, so that each call has an
  answer, and it is what the others are compared with.
- triton: searches and the denoiser on a GPU. In Triton's interpreter they run on the CPU, for
  tests.
- cuda: trees on a GPU, where biasgen._cuda was built.

ORDER says which is preferred. `refusal` asks a backend whether it takes an op, an element type and
a distance, without running anything; a caller who names a backend gets its refusal as an error, all
others the next backend (biasgen/ops/_dispatch.py).

How a search works (docs/exactness.md): the distances of all pairs are bounded by something quick,
such as a product of int8 matrices, and what the bounds leave open gets its value to the bit. That is
why answers do not depend on the backend. Each backend has one table from the name of a distance to
what computes it, and offers the names in that table: VALUES in _values.py (torch), SEARCHES in
cpu_backend.py, SQUARES in triton_backend.py. A name that is not there is refused.

The files whose names begin with an underscore are parts of one backend, but _mode.py (the state of
the process), _values.py (what a distance is, which all of torch's and Triton's code uses) and
_contract.py.

To add a backend, write a module that keeps the contract in _contract.py, and name it in ORDER:
tests/test_backend_contract.py and the conformance tests then check it.
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
    """Why backend `name` cannot run this call on tensors of `device`, a torch.device or its name,
    or None."""
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
    offered = module.OPS[op]["distances"]
    if distance is not None and distance not in offered:
        return f"{op} takes {', '.join(offered)}, got {distance}"
    if case is not None and "refuses" in module.OPS[op]:
        return module.OPS[op]["refuses"](case)
    return None
