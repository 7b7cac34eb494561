"""Parameters of a batch, drawn from a generator; and the pieces a CPU works on at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

__all__ = ["as_float", "chosen", "pieces", "uniform"]

# Float values per piece: 1 MiB, so that the thirty passes of a colour jitter stay in a core's own cache.
_PIECE = 2**18


def uniform(rng: Generator, shape: int | tuple[int, ...], low: float, high: float) -> Tensor:
    """Float32 values in [low, high) on the generator's device."""
    return torch.empty(shape, device=rng.device).uniform_(low, high, generator=rng)


def chosen(rng: Generator, count: int, p: float) -> Tensor:
    """(count,) bool, each True with probability `p`."""
    return torch.rand(count, device=rng.device, generator=rng) < p


def as_float(images: Tensor) -> Tensor:
    """uint8 becomes float32 in [0, 1], contiguous; float stays as it is."""
    if images.dtype != torch.uint8:
        return images
    return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def pieces(images: Tensor) -> Iterator[slice]:
    """Slices over the batch: cache-sized on the CPU, one for the whole batch on any other device."""
    count = len(images)
    step = max(_PIECE // max(images[0].numel(), 1), 1) if images.device.type == "cpu" and count else count
    for start in range(0, count, max(step, 1)):
        yield slice(start, min(start + step, count))
