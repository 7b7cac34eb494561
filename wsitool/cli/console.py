"""Progress on a terminal (rich bars) or in a log (plain lines, at most one every few seconds)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TimeRemainingColumn,
)
from rich.progress import Task as RichTask
from rich.table import Column
from rich.text import Text

from wsitool.base.interrupt import Interrupted, raise_if_stopping
from wsitool.base.progress import Reporter, Task
from wsitool.base.sentences import printable
from wsitool.cli.command import is_quiet, log_of_command
from wsitool.cli.log_file import Logged

__all__ = ["console_reporter", "torch_reporter"]

_PLAIN_EVERY_SECONDS = 5.0
_COUNT_AND_TIME = 30  # columns of "100000/100000", "0:00:00" and the gaps


def console_reporter(*, quiet: bool = False) -> Reporter:
    """Choose bars or plain lines by whether stderr is a terminal; results belong to stdout, progress here.

    The running command's --quiet and --log are heeded.
    """
    quiet = quiet or is_quiet()
    console = Console(stderr=True, highlight=False)
    shown = _RichReporter(console) if console.is_terminal and not quiet else _PlainReporter(quiet=quiet)
    log = log_of_command()
    return shown if log is None else Logged(shown, log)


def torch_reporter(*, quiet: bool = False) -> Reporter:
    """A `console_reporter` of a command about to import torch: it says so, as that can take half a minute.

    From the shared disk of a cluster it does, and a command that is silent so long looks stuck.
    """
    from wsitool.training.launch import is_first_process

    reporter = console_reporter(quiet=quiet)
    if is_first_process():  # one voice, where several processes run the command
        reporter.say("Starting PyTorch ...")
    return reporter


@contextmanager
def _told_on_stop(how_far: Callable[[], str]) -> Iterator[None]:
    """Write how far the bar is on an Interrupted that passes; the outermost bar has the last word."""
    try:
        try:
            yield
        except Exception:
            raise_if_stopping()
            raise
    except Interrupted as stop:
        stop.counted = how_far()
        raise


def _how_far(done: float, total: float, unit: str) -> str:
    return f"{done:,.10g} of {total:,.10g} {unit} done; run the same command again"


class _Cropped(ProgressColumn):
    """A text of a task, at most `width` letters of it."""

    def __init__(self, text: Callable[[RichTask], str], width: int) -> None:
        super().__init__(Column(no_wrap=True))
        self._text, self._width = text, width

    def render(self, task: RichTask) -> Text:
        shown = Text(self._text(task))
        shown.truncate(self._width, overflow="ellipsis")
        return shown


def _columns(width: int) -> list[ProgressColumn]:
    """What a bar shows on a terminal so wide: words and bar give way, count and time left never do."""
    bar = 20 if width >= 80 else 0
    description = width // 4
    note = max(0, width - description - bar - _COUNT_AND_TIME)
    return [
        _Cropped(lambda task: task.description, description),
        *([BarColumn(bar_width=bar)] if bar else []),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *([_Cropped(lambda task: task.fields["note"], note)] if note else []),
    ]


class _RichTask:
    def __init__(self, progress: Progress, task: TaskID, total: float, unit: str) -> None:
        self._progress, self._task, self._total, self._unit = progress, task, total, unit
        self._done = 0.0

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        self._done += amount
        self._progress.update(self._task, advance=amount, note=note)
        raise_if_stopping()

    def how_far(self) -> str:
        return _how_far(self._done, self._total, self._unit)


class _RichReporter:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None

    @contextmanager
    def _open(self, description: str, total: float, unit: str) -> Iterator[Task]:
        # rich allows one live display at a time: a task inside a task becomes a second bar of the first.
        outer = self._progress
        progress = outer or Progress(
            *_columns(self._console.width),
            console=self._console,
        )
        if outer is None:
            progress.start()
            self._progress = progress
        bar = progress.add_task(description, total=total, note="")
        task = _RichTask(progress, bar, total, unit)
        try:
            with _told_on_stop(task.how_far):
                yield task
        finally:
            if outer is None:
                progress.stop()
                self._progress = None
            else:
                progress.remove_task(bar)

    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        return self._open(description, total, unit)

    def say(self, message: str) -> None:
        self._console.print(printable(message), markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        self._console.print(f"Warning: {printable(message)}", style="yellow", markup=False, soft_wrap=True)


class _PlainTask:
    def __init__(self, description: str, total: float, unit: str, quiet: bool) -> None:
        self._description, self._total, self._unit, self._quiet = description, total, unit, quiet
        self._done = 0.0
        self._last = time.monotonic()

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if not self._quiet and now - self._last >= _PLAIN_EVERY_SECONDS:
            self._last = now
            _print(f"{self._description}: {self._done:g}/{self._total:g} {self._unit} {note}".rstrip())
        raise_if_stopping()

    def how_far(self) -> str:
        return _how_far(self._done, self._total, self._unit)


def _print(line: str) -> None:
    # Nobody may be there to read any more; that is no reason to lose the results.
    with suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)


class _PlainReporter:
    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    @contextmanager
    def _open(self, description: str, total: float, unit: str) -> Iterator[Task]:
        task = _PlainTask(description, total, unit, self._quiet)
        with _told_on_stop(task.how_far):
            yield task

    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        return self._open(description, total, unit)

    def say(self, message: str) -> None:
        if not self._quiet:
            _print(message)

    def warn(self, message: str) -> None:
        _print(f"Warning: {message}")
