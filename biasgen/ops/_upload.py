"""Rows in host memory on their way to a device: two buffers on either side, one copied while the other is searched."""
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from biasgen.ops._prepared import Prepared

_PARTS = ("rows", "multiplicity", "members", "offsets")  # of a Prepared, the tensors
_ALIGNED = 256  # bytes: where each begins in a buffer


class Cuda:
    """What Upload needs of a device: memory, one stream for the copies beside the caller's, and events."""

    def __init__(self, device: torch.device):
        self.device = device
        self.copies = torch.cuda.Stream(device)

    @property
    def work(self) -> torch.cuda.Stream:
        """The stream on which the caller searches."""
        return torch.cuda.current_stream(self.device)

    def buffers(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(size,) bytes of pinned host memory, and of the device."""
        there = torch.empty(size, dtype=torch.uint8, device=self.device)
        there.record_stream(self.copies)
        return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True), there

    def copy(self, there: torch.Tensor, here: torch.Tensor) -> None:
        """Enqueue a copy on the stream for copies."""
        with torch.cuda.stream(self.copies):
            there.copy_(here, non_blocking=True)

    def event(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        """What is enqueued on `stream` up to now."""
        return stream.record_event()


class Upload:
    """Takes tensors of up to `size` bytes together to a device, turn by turn through two pairs of buffers.

    Of each pair the pinned half is filled again when its copy is over (`copied`), and the other half is copied to when the search of what
    it held is over (`searched`).
    """

    def __init__(self, device: Any, size: int):
        self._device = device
        self._buffers = [device.buffers(size) for _ in range(2)]
        begin = device.event(device.work)  # the memory may have been something else's until now
        self._copied: list[Any] = [None, None]
        self._searched = [begin, begin]
        self._turn = 0

    def start(self, tensors: list[torch.Tensor]) -> tuple[int, list[torch.Tensor]]:
        """Begin to copy: the pair of buffers in use, and the tensors on the device, which are not there before `arrived`."""
        turn, self._turn = self._turn, 1 - self._turn
        here, there = self._buffers[turn]
        if self._copied[turn] is not None:
            self._copied[turn].synchronize()
        ends = [0]
        for tensor in tensors:
            ends.append(ends[-1] + -(-tensor.nbytes // _ALIGNED) * _ALIGNED)
        parts = [slice(begin, begin + tensor.nbytes) for begin, tensor in zip(ends[:-1], tensors, strict=True)]
        for part, tensor in zip(parts, tensors, strict=True):
            here[part].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        self._device.copies.wait_event(self._searched[turn])
        self._device.copy(there[: ends[-1]], here[: ends[-1]])
        self._copied[turn] = self._device.event(self._device.copies)
        return turn, [there[part].view(tensor.dtype).view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def arrived(self, turn: int) -> None:
        """Let searches that are enqueued from now on wait for the copy."""
        self._device.work.wait_event(self._copied[turn])

    def done(self, turn: int) -> None:
        """All searches of what the pair holds are enqueued."""
        self._searched[turn] = self._device.event(self._device.work)


def uploaded(blocks: Iterator[tuple[int, Prepared]], rows: int, row_bytes: int, device: Any) -> Iterator[tuple[int, Prepared]]:
    """Blocks of up to `rows` rows on a device: a thread prepares and copies one block ahead of the one that is searched.

    What a block holds may be read by what is enqueued before the next block is asked for. A loop that is left early waits for the thread.
    """
    upload = Upload(device, rows * (row_bytes + 3 * 8) + 8 + len(_PARTS) * _ALIGNED)

    def following():
        found = next(blocks, None)
        return found and (*found, *upload.start([getattr(found[1], name) for name in _PARTS]))

    with ThreadPoolExecutor(1, thread_name_prefix="biasgen-upload") as reader:
        ahead = reader.submit(following)
        while found := ahead.result():
            start, block, turn, tensors = found
            ahead = reader.submit(following)
            upload.arrived(turn)
            yield start, replace(block, **dict(zip(_PARTS, tensors, strict=True)))
            upload.done(turn)
