"""JPEG streams decoded by the device that the patches are for: their bytes go up instead of their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsitool.base.progress import Reporter
from wsitool.errors import UsageError
from wsitool.store import jpeg
from wsitool.store.collection import Collection
from wsitool.store.decoding import is_plain, left_to_cpu
from wsitool.store.options import Decode

__all__ = ["DeviceDecoder", "Streams", "UndecodedError", "effective_decode", "say_decoding"]

_HAVE_DECODERS = ("cuda",)


def effective_decode(decode: Decode, device: str | torch.device) -> Decode:
    """ "cpu" or "gpu"; UsageError where a GPU is to decode and `device` is none, or has no decoder.

    "auto" is "cpu" until somebody has measured a GPU.
    """
    if decode != "gpu":
        return "cpu"
    hardware = torch.device(device)
    if hardware.type not in _HAVE_DECODERS:
        raise UsageError(
            f"--decode gpu needs a CUDA device, and this runs on {hardware.type}: pass --decode cpu or auto."
        )
    sample = jpeg.encode(np.zeros((16, 16, 3), np.uint8), quality=90)
    try:
        DeviceDecoder(hardware).decode([torch.frombuffer(bytearray(sample), dtype=torch.uint8)])
    except (UndecodedError, ImportError) as error:
        raise UsageError(
            f"--decode gpu needs a torchvision that decodes JPEG on CUDA devices ({error}): install another, "
            "or leave --decode out."
        ) from None
    return "gpu"


def say_decoding(decode: Decode, collection: Collection, reporter: Reporter) -> None:
    """Say which stores are left to the CPU where a GPU decodes."""
    if decode == "gpu" and (sentence := left_to_cpu(collection.stores)):
        reporter.say(sentence)


class UndecodedError(Exception):
    """A device did not decode one of some streams; which of them it does not say."""


class Streams:
    """Puts what a device can decode into a batch's buffer as it is, and decodes the rest there.

    `lengths` (B,) int64: how many bytes at the beginning of a row are a JPEG stream; 0: the row is pixels.
    """

    def __init__(self, count: int) -> None:
        self.lengths: NDArray[np.int64] = np.zeros(count, np.int64)

    def __call__(self, data: bytes, out: NDArray[np.uint8], row: int) -> str:
        """Place the patch `data` of row `row` into `out`, (P, P, 3); "", or why it cannot be decoded."""
        if len(data) > out.size or not is_plain(data, len(out)):
            return jpeg.problem_of_decoding(data, out, row)
        out.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
        self.lengths[row] = len(data)
        return ""


class DeviceDecoder:
    """Batches of a buffer that `Streams` has filled, as pixels on `device`."""

    def __init__(self, device: torch.device) -> None:
        # Only here: torchvision brings torch._dynamo along and doubles the time of starting.
        from torchvision.io import ImageReadMode, decode_jpeg

        self._device, self._rgb, self._decode_jpeg = device, ImageReadMode.RGB, decode_jpeg

    def batch(self, buffer: Tensor, lengths: NDArray[np.int64]) -> Tensor:
        """The patches (B, P, P, 3) uint8 of `buffer`, of that shape; UndecodedError for a damaged stream.

        `buffer` must stay as it is until the copies on the current stream are done.
        """
        if not lengths.any():
            return buffer.to(self._device, non_blocking=True)
        rows = buffer.flatten(1)
        decoded = self.decode([rows[row, : lengths[row]] for row in np.flatnonzero(lengths).tolist()])
        images = iter(decoded)
        # Pixels go up one by one: few are between the streams, or all of a store.
        planes = [
            next(images) if length else buffer[row].to(self._device, non_blocking=True).permute(2, 0, 1)
            for row, length in enumerate(lengths.tolist())
        ]
        return torch.stack(planes).permute(0, 2, 3, 1).contiguous()

    def decode(self, streams: list[Tensor]) -> list[Tensor]:
        """Images (3, H, W) uint8 on the device; UndecodedError where one of the streams is none there."""
        try:
            images: Any = self._decode_jpeg(streams, mode=self._rgb, device=self._device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UndecodedError(str(error).partition("\n")[0]) from None
        decoded: list[Tensor] = images
        return decoded
