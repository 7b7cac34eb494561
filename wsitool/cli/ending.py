"""How a command ends: with its result, or with one sentence and an exit code, whatever stopped it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, TextIO

from wsitool.base.interrupt import Interrupted, deliver_again, raise_if_stopping, stoppable
from wsitool.errors import WsitoolError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "errors_in_one_sentence",
    "in_one_sentence",
    "is_of_stdout",
    "quiet_start",
    "take_any_text",
    "whole_process",
]

_BROKEN_PIPE = 128 + signal.SIGPIPE
_depth = 0


def quiet_start() -> None:
    """Ctrl-C during the first imports, before anything is begun: a sentence instead of a traceback."""
    earlier = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            _say("Stopped by SIGINT: nothing was begun.")
        else:
            earlier(kind, error, trace)

    sys.excepthook = hook


@contextmanager
def whole_process() -> Iterator[None]:
    """What holds where the command line is all that this process does; ends with SystemExit.

    A request to stop that Python swallows comes again, what cannot be written at the end is said in one
    sentence, and a signal before and after the command ends the process without a word.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from wsitool.base.sentences import silence_echoes

    silence_echoes()
    earlier = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs, /) -> None:
        if isinstance(unraisable.exc_value, Interrupted):
            deliver_again(unraisable.exc_value)
        else:
            earlier(unraisable)

    sys.unraisablehook = hook
    code = 0
    try:
        yield
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    failure = _flush(sys.stdout)
    if isinstance(failure, BrokenPipeError):
        code = code or _BROKEN_PIPE
    elif failure is not None:
        _say(_about_stdout(failure))
        code = code or 1
    _flush(sys.stderr)
    sys.exit(code)


def take_any_text() -> None:
    """Have the output take names of slides that do not fit the terminal, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def in_one_sentence(*, debug: Callable[[], bool]) -> Iterator[None]:
    """As `errors_in_one_sentence`, and for signals: 128 plus their number.

    A block inside another leaves signals to the outer one.
    """
    global _depth
    _depth += 1
    try:
        with stoppable(whole_process=True), errors_in_one_sentence(debug=debug):
            yield
    except KeyboardInterrupt as stop:
        if _depth > 1:
            raise
        _let_go(stop)
        _end_by_signal(stop if isinstance(stop, Interrupted) else Interrupted(signal.SIGINT))
    finally:
        _depth -= 1


@contextmanager
def errors_in_one_sentence(*, debug: Callable[[], bool]) -> Iterator[None]:
    """Turn an error of the `with` block into one sentence on stderr and SystemExit: 1, or 2 for wrong usage.

    So end WsitoolErrors and what the system refuses: disks, permissions, memory. Where nobody reads standard
    output any more it is 141, without a word. With `debug` errors pass as they are, others always do.
    """
    from wsitool.base.sentences import one_sentence, printable, system_error

    try:
        try:
            yield
        except (Exception, SystemExit):
            raise_if_stopping()  # a library made something else of an Interrupted
            raise
    except BrokenPipeError:
        _flush(sys.stdout)
        sys.exit(_BROKEN_PIPE)
    except Exception as error:
        told = isinstance(error, WsitoolError | OSError | MemoryError | UnicodeEncodeError)
        if debug() or not (told or system_error(error)):
            raise
        _let_go(error)
        _flush(sys.stdout)
        _say(_about_stdout(error) if is_of_stdout(error) else f"Error: {printable(one_sentence(error))}")
        sys.exit(error.exit_code if isinstance(error, WsitoolError) else 1)


def _let_go(error: BaseException) -> None:
    """Have what was begun inside `error`, and never came to a `with` block, end: its frames hold it."""
    import gc
    import traceback

    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__context__
    gc.collect()


def _end_by_signal(stop: Interrupted) -> NoReturn:
    again = "" if stop.progress or stop.counted else ": run the same command again"
    if not stop.silent:
        _say(f"{stop}{again}.")
    sys.exit(stop.exit_code)


def _about_stdout(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else error
    return f"Error: Standard output could not be written ({reason}): give it another place."


def is_of_stdout(error: BaseException) -> bool:
    """Whether it was raised by writing a command's words, and not a file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    writes = trace is not None and trace.tb_frame.f_code.co_name == "echo"
    return writes and isinstance(error, OSError) and error.filename is None


def _say(sentence: str) -> None:
    with suppress(OSError, ValueError, AttributeError):  # stderr may be closed, full, or not there
        print(sentence, file=sys.stderr, flush=True)


def _flush(stream: TextIO | None) -> OSError | None:
    """Write out what is buffered; what cannot be written is dropped, so that Python does not try again."""
    if stream is None:
        return None
    try:
        stream.flush()
    except ValueError:  # closed
        return None
    except OSError as error:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return error
    return None
