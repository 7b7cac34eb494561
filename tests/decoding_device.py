"""A second device that decodes JPEG: torchvision's own decoder of the CPU in place of the one of CUDA."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from accelerator import DEVICE, Accelerator
from torch import Tensor
from value_device import OnDevice, ValueDevice, value_device

from wsitool.store import jpeg

__all__ = ["DecodingDevice", "decoding_device"]


class DecodingDevice:
    """What loaders asked of the device: its operations, and how many streams it was given."""

    def __init__(self, *, strict: bool) -> None:
        self.counted: Accelerator = ValueDevice()
        self.streams = 0
        self.lock = threading.Lock()
        self._strict = strict

    def decode_jpeg(self, streams: list[Tensor], *, mode: Any, device: torch.device) -> list[Tensor]:
        """As torchvision's for CUDA, which takes tensors of the host; RuntimeError if one is damaged."""
        self.streams += len(streams)
        for stream in streams:
            assert (stream.device.type, stream.dtype, stream.dim()) == ("cpu", torch.uint8, 1)
            if self._strict:
                try:
                    jpeg.decode(stream.numpy().tobytes())
                except ValueError as error:
                    raise RuntimeError(str(error)) from None
        images = [torch.ops.image.decode_jpeg(stream, mode.value, False) for stream in streams]
        return [OnDevice(image) for image in images]

    def ring(self, shape: tuple[int, ...], number: int, device: torch.device) -> _Ring | None:
        return _Ring(self, shape, number) if device == DEVICE else None


class _Ring:
    """As `PinnedRing`, with memory that is not page-locked; a buffer given back is overwritten at once."""

    def __init__(self, owner: DecodingDevice, shape: tuple[int, ...], number: int) -> None:
        self._owner = owner
        self._free: SimpleQueue[Tensor] = SimpleQueue()
        for _ in range(number):
            self._free.put(torch.empty(shape, dtype=torch.uint8))

    def take(self) -> Tensor:
        return self._free.get()

    def upload(self, make: Callable[[], Tensor]) -> tuple[Tensor, None]:
        with self._owner.lock, self._owner.counted:  # a mode is of one thread at a time
            made = make()
        assert isinstance(made, OnDevice)
        made.content = made.content.clone()  # what a copy to a device would have made
        return made, None

    def release(self, buffer: Tensor) -> None:
        self._free.put(buffer.fill_(77))


@contextlib.contextmanager
def decoding_device(*, strict: bool = False) -> Iterator[DecodingDevice]:
    """Run the block with a `DEVICE` that has values and decodes JPEG for loaders.

    A `strict` one refuses what the CPU's decoder would.
    """
    device = DecodingDevice(strict=strict)
    with pytest.MonkeyPatch.context() as patch, value_device():
        patch.setattr("torchvision.io.decode_jpeg", device.decode_jpeg)
        patch.setattr("wsitool.loading.loader.ring_for", device.ring)
        # Commands ask for it by the name of the device that `value_device` puts another in the place of.
        patch.setattr("wsitool.loading.device_decode._HAVE_DECODERS", ("meta", "cpu"))
        yield device
