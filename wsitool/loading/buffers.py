"""Reusable batch memory: fresh pages cost as much as reading from the page cache does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["PinnedRing", "SharedBuffers", "ring_for"]


class SharedBuffers:
    """Arrays handed out as tensors and taken back once nobody holds a tensor on them any more.

    A batch the caller keeps is never overwritten: its buffer is not free. One thread takes.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._buffers: list[NDArray[np.uint8]] = []
        # What the interpreter counts for an array that only a list holds; measured, as CPython may change.
        holder = [np.empty(0)]
        self._idle = sys.getrefcount(holder[0])

    def take(self) -> NDArray[np.uint8]:
        """An array nobody uses, of the shape given; its content is undefined.

        Free is told by reference counts, so the caller must hold the array, or a tensor on it, for as long as
        it is in use.
        """
        for number in range(len(self._buffers)):
            if sys.getrefcount(self._buffers[number]) <= self._idle:
                # A linear scan, over as many buffers as there are batches in flight: threads, plus what the
                # trainer holds.
                return self._buffers[number]
        # Only ever grows: to the most batches that were in use at once.
        self._buffers.append(np.empty(self._shape, dtype=np.uint8))
        return self._buffers[-1]

    def __len__(self) -> int:
        return len(self._buffers)


class PinnedRing:
    """Page-locked host buffers and the side stream for copies to a CUDA device; `release` a copied buffer."""

    def __init__(self, shape: tuple[int, ...], number: int, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's, unannotated
        self._free: SimpleQueue[Tensor] = SimpleQueue()
        for _ in range(number):
            # Allocated once: page-locking takes milliseconds a buffer and memory from every other process.
            self._free.put(torch.empty(shape, dtype=torch.uint8, pin_memory=True))

    def take(self) -> Tensor:
        """A free buffer; waits where there is none, which bounds how far the threads read ahead."""
        return self._free.get()

    def upload(self, make: Callable[[], Tensor]) -> tuple[Tensor, torch.cuda.Event]:
        """What `make` copies to the device on the side stream, and the event of its end.

        It is the calling thread that waits for the copies, so that what they came from may be used again.
        """
        with torch.cuda.stream(self.stream):
            made = make()
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's, unannotated
            copied.record(self.stream)
        copied.synchronize()
        return made, copied

    def release(self, buffer: Tensor) -> None:
        self._free.put(buffer)


def ring_for(shape: tuple[int, ...], number: int, device: torch.device) -> PinnedRing | None:
    """Buffers to upload from; None for a device that shares the host's memory or copies without them."""
    return PinnedRing(shape, number, device) if device.type == "cuda" else None
