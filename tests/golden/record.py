"""The form in which an answer is recorded and compared: digests of bits, numbers, texts.

A call is (name, function without arguments, tolerance). What it returns becomes plain JSON. An
array becomes its kind, its element type, its shape and the digest of its bytes; where the call has
a tolerance, the numbers of a float array stand beside the digest. Two records agree when everything
is equal, but that numbers of a call with a tolerance may differ by it.
"""

import dataclasses
import hashlib
import math

import numpy as np
import torch

MOST = 24
"""Numbers of an array that are recorded in full; of a larger one as many, evenly spaced."""


def record(call):
    """What `call` (name, function, tolerance) gives today, an error as its type and text."""
    _, function, tolerance = call
    try:
        value = function()
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error)}
    return plain(value, tolerance is not None)


def plain(value, with_numbers):
    """`value` as JSON holds it; a number that JSON does not have becomes its name."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return _array(value, with_numbers)
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {f.name: plain(getattr(value, f.name), with_numbers) for f in fields}
    if isinstance(value, dict):
        return {str(name): plain(entry, with_numbers) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, with_numbers) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        return {"bytes": _digest(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    return value


def differences(old, new, tolerance, at="", scale=0.0):
    """A sentence for each place `at` which two records differ; tolerance None: in any bit.

    Else a number may be off by that share of the largest of its array (`scale`), or of 1 if that is
    more, and digests of arrays whose numbers are recorded are left out.
    """
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        left_out = {"sha256"} if tolerance is not None and "numbers" in old else set()
        for name in (name for name in old if name not in left_out):
            yield from differences(old[name], new[name], tolerance, f"{at}.{name}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        scale = max((abs(x) for x in old if isinstance(x, float)), default=0.0)
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, tolerance, f"{at}[{i}]", scale)
    elif tolerance is not None and isinstance(old, float) and isinstance(new, float):
        if not abs(old - new) <= tolerance * max(1, abs(old), scale):
            yield f"{at}: was {old!r}, is {new!r}"
    elif type(old) is not type(new) or old != new:
        yield f"{at}: was {old!r:.200}, is {new!r:.200}"


def _array(values, with_numbers):
    kind = "tensor" if isinstance(values, torch.Tensor) else "array"
    tensor = values if kind == "tensor" else torch.from_numpy(np.array(values))
    tensor = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    kept = {kind: f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"}
    kept["sha256"] = _digest(bytes(tensor.untyped_storage()))
    if with_numbers and tensor.is_floating_point():
        flat = tensor.double().flatten().numpy()
        shown = flat[np.linspace(0, len(flat) - 1, min(MOST, len(flat))).round().astype(int)]
        finite = np.where(np.isfinite(flat), flat, 0)
        if len(flat) > MOST:  # no number is left out of these
            waves = np.cos(np.arange(1, 4)[:, None] * np.arange(len(flat)))
            shown = np.concatenate([shown, waves @ finite / len(flat)])
        kept["numbers"] = [
            float(f"{x:.12g}") if math.isfinite(x) else repr(float(x)) for x in shown
        ]
    return kept


def _digest(content):
    return hashlib.sha256(content).hexdigest()[:16]
