"""A stand-in for a device: its tensors are really on the host; it notes what is copied back."""
import weakref
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")  # the one device beside the host's that every build of torch has


class OnDevice(torch.Tensor):
    """A tensor on the pretended device; `held` is where its numbers are."""

    @staticmethod
    def __new__(cls, held):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        options = {"dtype": held.dtype, "device": DEVICE}
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, **layout, **options)

    def __init__(self, held):
        self.held = held

    def data_ptr(self):
        return self.held.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} on a tensor of a PretendDevice that is not active")


class PretendDevice(TorchDispatchMode):
    """While it is active, tensors can be put, made and worked on there.

    to_host: bytes of each copy to the host, of a single number 8. peak: the most bytes that tensors
    which operations made held at one time; what one operation takes while it runs is not seen.
    """

    def __init__(self):
        super().__init__()
        self.to_host, self.peak, self._users, self._bytes = [], 0, Counter(), {}

    def put(self, values):
        """A tensor of the host on the device, not counted in `peak`."""
        return OnDevice(values)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, OnDevice)]
        there = bool(given)
        if kwargs.get("device") is not None:
            there = torch.device(kwargs["device"]) == DEVICE
            kwargs["device"] = torch.device("cpu")
        args, kwargs = tree_map_only(OnDevice, lambda tensor: tensor.held, (args, kwargs))
        found = func(*args, **kwargs)
        if given and not there:
            self.to_host.append(found.nbytes)
        elif given and isinstance(found, bool | int | float):
            self.to_host.append(8)
        if not there:
            return found
        kept = {tensor.held.untyped_storage().data_ptr() for tensor in given} - self._users.keys()
        return tree_map_only(torch.Tensor, lambda tensor: self._made(tensor, kept), found)

    def _made(self, tensor, kept):
        made, storage = OnDevice(tensor), tensor.untyped_storage()
        if storage.data_ptr() not in kept:
            self._users[storage.data_ptr()] += 1
            self._bytes[storage.data_ptr()] = storage.nbytes()
            self.peak = max(self.peak, sum(self._bytes.values()))
            weakref.finalize(made, self._gone, storage.data_ptr())
        return made

    def _gone(self, address):
        self._users[address] -= 1
        if not self._users[address]:
            del self._users[address], self._bytes[address]
