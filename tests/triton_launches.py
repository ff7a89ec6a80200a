"""Watches launches of the Triton kernels: which variant of ahead_of_time each of them is."""
from functools import cache

import torch

from biasgen.triton_kernels import ahead_of_time

_TYPES = {
    "*i8": torch.int8, "*i32": torch.int32, "*i64": torch.int64, "*fp32": torch.float32,
    "*fp64": torch.float64,
}  # fmt: skip
_SIZES = {"DEPTH", "TILE_D"}  # where loops end and how long a row is: no variant of their own


@cache
def variants():
    """ahead_of_time.kernels(), made once."""
    return ahead_of_time.kernels()


def name_of(kernel, arguments):
    """The variant that a launch with these arguments, by name, is. LookupError: none."""
    for name, (known, types, constants, _) in variants().items():
        if kernel is known and all(
            arguments[key].dtype == _TYPES[type] for key, type in types.items() if type in _TYPES
        ) and all(arguments[key] == constants[key] for key in constants.keys() - _SIZES):
            return name
    raise LookupError(f"{kernel}: ahead_of_time has no such variant")


def watch(monkeypatch):
    """A set of the variants launched from now on, compiled or interpreted."""
    seen = set()
    for kind in {type(kernel) for kernel, *_ in variants().values()}:

        def run(self, *arguments, inner=kind.run, **options):
            if any(self is kernel for kernel, *_ in variants().values()):
                bound = dict(zip(self.arg_names, arguments, strict=False)) | options
                seen.add(name_of(self, bound))
            return inner(self, *arguments, **options)

        monkeypatch.setattr(kind, "run", run)
    return seen
