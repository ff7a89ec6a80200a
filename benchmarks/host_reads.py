"""Finds what waits for a device: operations whose result the host reads, none of which a CUDA graph may capture.

    with NoHostReads(): work()      # AssertionError names the first such operation; tensors may lie on the CPU
"""
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# By name: a number that becomes Python's, or a result whose shape depends on numbers.
_READS = {
    "_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
    "bincount", "histc",
}


class NoHostReads(TorchDispatchMode):
    """Operations on tensors while this is active: none of those that wait. What Triton's interpreter does is not looked at."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            at is not None and at.dtype in (torch.bool, torch.uint8) for at in args[1]
        )
        repeats = name == "repeat_interleave" and kwargs.get("output_size") is None and not isinstance(args[-1], int)
        to_host = name == "_to_copy" and args[0].device.type != "cpu" and torch.device(kwargs.get("device") or "cuda").type == "cpu"
        waits = name in _READS or by_mask or repeats or to_host
        assert not waits, f"{name} waits for the device"
        return func(*args, **kwargs)
