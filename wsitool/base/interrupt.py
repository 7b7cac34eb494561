"""One rule for Ctrl-C, SIGTERM, SIGUSR1 (SLURM), SIGHUP: finish or drop the item in hand, say how far, end.

The command line runs every command inside `stoppable()`. A signal then raises `Interrupted` in the main
thread, so that `with` blocks drop what is half written; where the item in hand should rather be finished (a
training step and its checkpoint), `deferred()` puts the signal off until its block asks or ends. A second
signal never waits. Python swallows what is raised inside a destructor or a callback of C: a request is kept,
and raised again (`raise_if_stopping`, `deliver_again`), until the block has ended.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = [
    "STOP_SIGNALS",
    "Interrupted",
    "StopRequest",
    "deferred",
    "deliver_again",
    "progress_on_stop",
    "raise_if_stopping",
    "stoppable",
]

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_SAME_REQUEST_SECONDS = 1.0  # a terminal and a wrapper both pass Ctrl-C on


class Interrupted(KeyboardInterrupt):
    """The user or the scheduler asked this process to end; `progress` says how far it had come.

    `counted` says the same where nobody set `progress`: what the outermost progress bar stood at. `silent`
    where another process of the same run says it.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = signal.Signals(number)
        self.progress = self.counted = ""
        self.silent = False

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process ended by this signal: 130 for Ctrl-C, 143 for SIGTERM."""
        # 128 + n, as shells report it.
        return 128 + self.number

    def __str__(self) -> str:
        progress = self.progress or self.counted
        return f"Stopped by {self.number.name}" + (f": {progress}" if progress else "")


class StopRequest:
    """Whether a signal has come while a `deferred()` block was open.

    Yielded by `deferred()`. The block asks between two items, and ends or raises there.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._when = 0.0

    @property
    def requested(self) -> bool:
        return self._number is not None

    @property
    def number(self) -> int:
        """The signal that has come, 0 if none has; asking raises nothing."""
        return self._number or 0

    def raise_if_requested(self) -> None:
        """Raise Interrupted where a signal has come."""
        if self._number is not None:
            raise _stop(self._number)


# The innermost open `deferred()` block; signals come to the main thread, which alone opens one.
_open: StopRequest | None = None
_depth = 0  # of open `stoppable()` blocks
_whole_process = False  # the outermost of them is a whole command
_stopping: tuple[int, float] | None = None  # the signal that was raised, and when


def _stop(number: int) -> Interrupted:
    global _stopping
    # Outside of `stoppable` nobody asks again: an exception that gets lost there is the program's affair.
    if _depth:
        _stopping = (number, time.monotonic())
    return Interrupted(number)


def _handle(number: int, _: FrameType | None) -> None:
    now = time.monotonic()
    # The first signal within a deferred block is only noted.
    if _open is not None and not _open.requested:
        _open._number, _open._when = number, now
        return
    # The same Ctrl-C once more: a terminal sends it to the group, and a wrapper passes its own on.
    if _whole_process and _open is not None and now - _open._when < _SAME_REQUEST_SECONDS:
        return
    if _whole_process and _stopping is not None:
        # `with` blocks are being left: what they still do is short, and cutting it off leaves things behind.
        if now - _stopping[1] > _SAME_REQUEST_SECONDS:
            _end_at_once(number)
        return
    raise _stop(number)


def _end_at_once(number: int) -> None:
    # A progress bar hides the cursor; os.write and os._exit, as no `with` block and no buffer may run again.
    show_cursor = b"\x1b[?25h" if os.isatty(2) else b""
    name = signal.Signals(number).name.encode()
    os.write(2, show_cursor + b"Stopped at once by a second " + name + b": the next run clears up.\n")
    os._exit(128 + number)


@contextmanager
def stoppable(*, whole_process: bool = False) -> Iterator[None]:
    """Turn `STOP_SIGNALS` into `Interrupted` for a `with` block; does nothing outside the main thread.

    A signal that this process was started to ignore (`nohup`, a background job's Ctrl-C) stays ignored. Where
    the block is all that the process does (`whole_process`), signals within a second are one request, and a
    later one while the block is being left ends the process on the spot.
    """
    global _depth, _whole_process, _stopping
    # Python lets only the main thread set handlers, and delivers signals to it alone.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer = _whole_process
    # What was ignored at the start is meant: nohup, or a shell's background job.
    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    earlier = {number: signal.signal(number, _handle) for number in heeded}
    _depth, _whole_process = _depth + 1, outer or whole_process
    try:
        yield
    finally:
        _depth, _whole_process = _depth - 1, outer
        if not _depth:
            _stopping = None
        # Handlers of before come back in any case: the program may go on after a command.
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[StopRequest]:
    """Put signals off: the first is only noted in the request, and raised at the block's end at the latest.

    Works in the command line and in a plain Python program alike; in other threads than the main one, which
    no signal reaches, it does nothing. Inside another such block the request becomes that one's. Where the
    block ends by an error of its own, `raise_if_stopping` has the last word.
    """
    global _open, _stopping
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    # First of all: to set handlers takes long enough for a signal to come between and skip a clean-up.
    outer, _open = _open, request
    try:
        if outer is not None:
            # A signal that came before the block counts for it.
            request._number, request._when = outer._number, outer._when
        with stoppable():
            try:
                yield request
            except BaseException:
                # The block's own error is on its way; that a signal had come is kept for
                # `raise_if_stopping`.
                if outer is None and request._number is not None and _depth > 1:
                    _stopping = (request._number, time.monotonic())
                raise
    finally:
        _open = outer
        if outer is not None:  # a block inside another must not cut that one short
            outer._number, outer._when = request._number, request._when
    if outer is None:
        request.raise_if_requested()


def raise_if_stopping() -> None:
    """Raise Interrupted again if one was raised in an open `stoppable()` block and got lost since.

    For code that catches everything around one item of many: called there, it tells a signal from the item's
    own failure. Does nothing in other threads than the main one.
    """
    if _stopping is not None and threading.current_thread() is threading.main_thread():
        raise _stop(_stopping[0])


def deliver_again(lost: Interrupted) -> None:
    """Have a signal come again in a moment, whose Interrupted was swallowed; for `sys.unraisablehook`."""
    global _stopping
    if _depth:
        _stopping = None
        # In a moment and in the main thread's normal course: raising here would be swallowed again.
        again = threading.Timer(0.01, os.kill, (os.getpid(), lost.number))
        again.daemon = True
        again.start()


@contextmanager
def progress_on_stop(progress: Callable[[], str]) -> Iterator[None]:
    """Tell an `Interrupted` that passes by how far it is: "12 of 20 slides done; run again to go on"."""
    try:
        yield
    except Interrupted as stop:
        # The innermost block that knows says it; outer ones leave it.
        stop.progress = stop.progress or progress()
        raise
