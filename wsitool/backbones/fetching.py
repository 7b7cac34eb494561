"""Results of batches brought from a device to the host, some batches at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["BLOCK", "fetched"]

T = TypeVar("T")

BLOCK = 16
"""Batches whose results are fetched together: each fetch waits until the device has run all it was given."""


def fetched(batches: Iterable[tuple[Tensor, T]]) -> Iterator[tuple[NDArray[np.float32], T]]:
    """Each batch's values (B, ...) as float32 on the host, and what came with them, in order.

    A device is waited for once in `BLOCK` batches and at the end, so that it has work queued while the host
    prepares more; nothing is held back on a CPU, whose results are there at once.
    """
    pending: list[tuple[Tensor, T]] = []
    for values, note in batches:
        if values.device.type == "cpu":
            yield values.float().numpy(), note
            continue
        pending.append((values, note))
        if len(pending) == BLOCK:
            yield from _fetch(pending)
            pending.clear()
    if pending:
        yield from _fetch(pending)


def _fetch(pending: list[tuple[Tensor, T]]) -> Iterator[tuple[NDArray[np.float32], T]]:
    together = torch.cat([values.float() for values, _ in pending]).cpu()
    parts = together.split_with_sizes([len(values) for values, _ in pending])
    for part, (_, note) in zip(parts, pending, strict=True):
        yield part.numpy(), note
