"""One rule for Ctrl-C, SIGTERM and SLURM's SIGUSR1: finish or drop the item in hand, say how far, end.

The command line runs every command inside `stoppable()`. A signal then raises `Interrupted` in the main
thread, so that `with` blocks drop what is half written; where the item in hand should rather be finished (a
training step and its checkpoint), `deferred()` puts the signal off until its block asks or ends. A second
signal never waits.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["STOP_SIGNALS", "Interrupted", "StopRequest", "deferred", "progress_on_stop", "stoppable"]

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(KeyboardInterrupt):
    """The user or the scheduler asked this process to end; `progress` says how far it had come."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = signal.Signals(number)
        self.progress = ""

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process ended by this signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"Stopped by {self.number.name}" + (f": {self.progress}" if self.progress else "")


class StopRequest:
    """Whether a signal has come while a `deferred()` block was open."""

    def __init__(self) -> None:
        self._number: int | None = None

    @property
    def requested(self) -> bool:
        return self._number is not None

    def raise_if_requested(self) -> None:
        """Raise Interrupted where a signal has come."""
        if self._number is not None:
            raise Interrupted(self._number)


# The innermost open `deferred()` block; signals come to the main thread, which alone opens one.
_open: StopRequest | None = None


def _handle(number: int, _: FrameType | None) -> None:
    if _open is not None and not _open.requested:
        _open._number = number
        return
    raise Interrupted(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn `STOP_SIGNALS` into `Interrupted` for a `with` block; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, _handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[StopRequest]:
    """Put signals off: the first is only noted in the request, and raised at the block's end at the latest.

    Works in the command line and in a plain Python program alike.
    """
    global _open
    request = StopRequest()
    with stoppable():
        outer, _open = _open, request
        try:
            yield request
        finally:
            _open = outer
    request.raise_if_requested()


@contextmanager
def progress_on_stop(progress: Callable[[], str]) -> Iterator[None]:
    """Tell an `Interrupted` that passes by how far it is: "12 of 20 slides done; run again to go on"."""
    try:
        yield
    except Interrupted as stop:
        stop.progress = stop.progress or progress()
        raise
