"""Views of a whole batch as a few compiled kernels, for training that asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["compiled", "fused", "is_fused"]

_BACKEND: ContextVar[str | None] = ContextVar("wsitool.fused", default=None)


@contextmanager
def fused(backend: str | None = "inductor") -> Iterator[None]:
    """Within the block a device's views are compiled by a backend of `torch.compile`; None: not.

    What is drawn is the same, values within 1e-5; memory has the channels last. A CPU's views stay as they
    are. The first batch of each size takes the compiler some time.
    """
    before = _BACKEND.set(backend)
    try:
        yield
    finally:
        _BACKEND.reset(before)


def is_fused() -> bool:
    """Whether the block is one of `fused`."""
    return _BACKEND.get() is not None


def compiled(arithmetic: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`arithmetic` as the block wants it: as it is, or compiled."""
    backend = _BACKEND.get()
    return arithmetic if backend is None else _compiled(arithmetic, backend)


@cache
def _compiled(arithmetic: Callable[..., Tensor], backend: str) -> Callable[..., Tensor]:
    def channels_last(*args: Any, **kwargs: Any) -> Tensor:
        # As convolutions want it: written so by the last kernel, and not by another.
        return arithmetic(*args, **kwargs).contiguous(memory_format=torch.channels_last)

    # One graph, of shapes as they are: a break or a new kernel length would cost what is to be saved.
    return torch.compile(channels_last, backend=backend, fullgraph=True, dynamic=False)
