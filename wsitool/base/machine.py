"""What a machine does to a run: memory that is not enough, processes that are killed."""

from __future__ import annotations

import re
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from wsitool.errors import MemoryShortError

__all__ = [
    "FIRST_BATCH",
    "BatchSize",
    "explain_memory",
    "first_batch_size",
    "how_it_ended",
    "is_memory_short",
    "is_peer_lost",
    "largest_that_fits",
]

BatchSize = int | Literal["auto"]
"""Patches at once; "auto" is `FIRST_BATCH`, halved until it fits in memory."""
FIRST_BATCH = 64

# How allocators say it; torch has a class of its own for GPUs and none for the CPU.
_SHORT = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "bad_alloc",
)
# How gloo and NCCL say that the other end of a connection is gone.
_LOST = ("gloo/", "connection closed by peer", "connection reset by peer", "broken pipe")
_MOST_LETTERS = 160
_ASKED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]i?B)", re.IGNORECASE)


def is_memory_short(error: BaseException) -> bool:
    """Whether an allocation has failed, on the CPU or on a device."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    # torch raises a RuntimeError for the CPU's memory and a subclass for CUDA's.
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SHORT)


def is_peer_lost(error: BaseException) -> bool:
    """Whether a collective operation has failed, as it does when another rank is gone."""
    # Known by name, as torch is not imported here.
    if type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError"):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _LOST)


def first_batch_size(asked: BatchSize) -> int:
    """The number asked for, or the one that is tried first."""
    return FIRST_BATCH if asked == "auto" else asked


def largest_that_fits(attempt: Callable[[int], object], first: int, *, least: int = 1) -> int | None:
    """The first of `first`, its half, its quarter, ... of which `attempt` does not run out of memory.

    None where not even `least` fits. Other errors of `attempt` pass.
    """
    size = first
    while size >= least:
        try:
            attempt(size)
        except (MemoryError, RuntimeError) as error:
            if not is_memory_short(error):
                raise
            _forget(error)
        else:
            return size
        size //= 2
    return None


@contextmanager
def explain_memory(advice: str | Callable[[], str]) -> Iterator[None]:
    """Turn a failed allocation inside the block into a MemoryShortError that ends with `advice`.

    Other errors pass as they are. The message says how much was asked for, where the allocator did. `advice`
    may be found out then, by trying: what the block had in its hands is free by that time.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory_short(error):
            raise
        _forget(error)
        what_to_do = advice if isinstance(advice, str) else advice()
        # `from None`: the allocator's traceback tells a user nothing.
        raise MemoryShortError(f"There is not enough memory ({_asked(error)}): {what_to_do}.") from None


def _forget(error: BaseException) -> None:
    """Let go of what the functions that failed had in their hands: batches, activations, gradients."""
    each: BaseException | None = error
    while each is not None:
        traceback.clear_frames(each.__traceback__)
        each = each.__context__


def _asked(error: BaseException) -> str:
    text = " ".join(str(error).split())
    match = _ASKED.search(text)
    if match is None:
        return text[:_MOST_LETTERS] or type(error).__name__
    amount, unit = match.groups()
    # torch's CPU allocator says bytes, CUDA's says GiB.
    return (
        f"{float(amount) / 1e9:.3g} GB more were asked for"
        if unit == "bytes"
        else (f"{amount} {unit} more were asked for")
    )


def how_it_ended(code: int | None) -> str:
    """A process's end in words, from the code of `subprocess` (negative: a signal)."""
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL, which the system does where memory runs out"
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return "ended" if code is None else f"ended with exit code {code}"
