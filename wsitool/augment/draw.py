"""Parameters of a batch, drawn from a generator; and the pieces a CPU works on at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

from wsitool.augment.memory import reused_empty

__all__ = ["as_float", "chosen", "in_pieces", "one_thread", "pieces", "to_device", "uniform"]

# Float values per piece: 1 MiB, so that the thirty passes of a colour jitter stay in a core's own cache.
_PIECE = 2**18
# Values per piece of a whole pipeline: what it allocates is small enough to come from the heap again.
_PIPELINE_PIECE = 2**20


def uniform(rng: Generator, shape: int | tuple[int, ...], low: float, high: float) -> Tensor:
    """Float32 values in [low, high) on the generator's device."""
    return torch.empty(shape, device=rng.device).uniform_(low, high, generator=rng)


def chosen(rng: Generator, count: int, p: float) -> Tensor:
    """(count,) bool, each True with probability `p`."""
    return torch.rand(count, device=rng.device, generator=rng) < p


def to_device(drawn: Tensor, device: torch.device) -> Tensor:
    """What was drawn on the CPU, on `device`: by a copy from page-locked memory that nobody waits for."""
    if device.type == "cuda" and drawn.device.type == "cpu":
        drawn = drawn.pin_memory()  # from torch's own cache of it
    return drawn.to(device, non_blocking=True)


def as_float(images: Tensor) -> Tensor:
    """uint8 becomes float32 in [0, 1], contiguous; float stays as it is."""
    if images.dtype != torch.uint8:
        return images
    return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def pieces(images: Tensor, values: int | None = None) -> Iterator[slice]:
    """Slices over the batch of about `values` values on the CPU, all of it on any other device.

    At least one image each, and nothing for an empty batch. The slices cover the batch in order, without
    overlap.
    """
    count = len(images)
    values = _PIECE if values is None else values
    # At least one image a piece, however large it is.
    step = max(values // max(images[0].numel(), 1), 1) if images.device.type == "cpu" and count else count
    for start in range(0, count, max(step, 1)):
        yield slice(start, min(start + step, count))


def in_pieces(images: Tensor, operation: Callable[[Tensor], Tensor]) -> Tensor:
    """Run a pipeline of operations over the batch, some images at a time where the device is a CPU.

    `operation` maps (b, 3, H, W) to (b, ...), of one shape and dtype for all pieces. Faster than whole
    batches, as what lies between the operations stays in the cache. The order of random draws depends on the
    pieces, hence on the image size and the kind of device, and on nothing else.
    """
    slices = list(pieces(images, _PIPELINE_PIECE))
    if images.device.type != "cpu" or not slices:
        return operation(images)
    with one_thread():
        first = operation(images[slices[0]])
        out = reused_empty((len(images), *first.shape[1:]), first)
        out[slices[0]] = first
        for piece in slices[1:]:
            out[piece] = operation(images[piece])
    return out


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch from dividing operations among threads: on images they are so short that
    waiting for each other costs several times the work on a machine that is busy with anything else."""
    before = torch.get_num_threads()
    if before == 1:  # setting it is not free of side effects: MKL's number is that of the whole process
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
