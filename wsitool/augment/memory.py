"""Memory for results that is used again: on a CPU, fresh pages cost a third of making two views."""

from __future__ import annotations

import math
import sys
import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["reused_empty"]

_KEPT = 4  # buffers: two views in use and two being made
_LOCK = threading.Lock()
_BUFFERS: list[NDArray[np.uint8]] = []
_SAMPLE = [np.empty(0)]
# What the interpreter counts for an array that only a list holds; measured, as CPython may change.
_IDLE = sys.getrefcount(_SAMPLE[0])


def reused_empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised tensor of `like`'s dtype, in memory that nobody holds a tensor on any more.

    Safe to call from any thread. At most four buffers are kept, for the whole process; a tensor somebody
    holds is never handed out again.
    """
    if like.device.type != "cpu":
        return like.new_empty(shape)
    size = math.prod(shape) * like.element_size()
    with _LOCK:
        return torch.from_numpy(_idle_buffer(size)[:size]).view(like.dtype).view(shape)


def _idle_buffer(size: int) -> NDArray[np.uint8]:
    for slot in range(len(_BUFFERS)):
        fits = size <= _BUFFERS[slot].nbytes <= 2 * size
        if fits and sys.getrefcount(_BUFFERS[slot]) <= _IDLE:
            return _BUFFERS[slot]
    # The oldest goes; a tensor on it keeps its memory alive by itself.
    if len(_BUFFERS) == _KEPT:  # of other sizes, or all in use: whoever holds one keeps it
        del _BUFFERS[0]
    _BUFFERS.append(np.empty(size, dtype=np.uint8))
    return _BUFFERS[-1]
