"""Memory that blocks of patches are cut into, used again and again."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

__all__ = ["Buffers"]

_PIECE = 8


class Buffers:
    """Arrays (B, h, w, 3) uint8 of one shape, each beginning on a page where its size allows it.

    Fresh memory costs page faults for every patch, so buffers go round. Several come out of a large piece,
    because huge pages, which make copying a third cheaper, fill only large pieces. Mapped memory begins on
    a page boundary, as writing past the system's cache wants it.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self._shape = shape
        self._spare: list[NDArray[np.uint8]] = []

    def take(self) -> NDArray[np.uint8]:
        """An array of unspecified content."""
        if not self._spare:
            # From the end: what is never used is never touched, and takes no memory.
            self._spare.extend(_piece((_PIECE, *self._shape))[::-1])
        return self._spare.pop()

    def give_back(self, buffer: NDArray[np.uint8]) -> None:
        """Let a buffer be taken again."""
        self._spare.append(buffer)


def _piece(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    memory = mmap.mmap(-1, math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8).reshape(shape)
