"""Progress on a terminal or in Jupyter (rich bars), in a log (plain lines), or as calls of a function."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.util import find_spec

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

__all__ = ["ProgressChoice", "console_reporter", "reporter_of"]

ProgressChoice = bool | Callable[[str, float, float], object] | Reporter | None
"""What functions take as `progress`, see `reporter_of`."""

_PLAIN_EVERY_SECONDS = 5.0
_COUNT_AND_TIME = 30  # columns of "100000/100000", "0:00:00" and the gaps


def console_reporter(*, quiet: bool = False, verbose: bool = False) -> Reporter:
    """Choose bars or plain lines by whether stderr is a terminal; results belong to stdout, progress here.

    `verbose` are plain lines everywhere, one for each step. `quiet` goes first.
    """
    console = Console(stderr=True, highlight=False)
    if quiet or verbose or not console.is_terminal:
        return _PlainReporter(quiet=quiet, every=0.0 if verbose else _PLAIN_EVERY_SECONDS)
    return _RichReporter(console)


def reporter_of(progress: ProgressChoice = None) -> Reporter:
    """Who hears of the progress of a function that Python called.

    None draws a bar where somebody looks, on a terminal or in Jupyter (there with ipywidgets), and shows
    warnings everywhere; True draws plain lines where no bar can be; False shows warnings only. A function is
    called as `progress(what, done, total)` at each step, in the calling thread; a `Reporter` gets everything.
    """
    if isinstance(progress, bool) or progress is None:
        console = Console(stderr=True, highlight=False)
        # rich draws in Jupyter by widgets alone, and warns at each step where they are missing.
        drawn = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
        if drawn and progress is not False:
            return _RichReporter(console)
        return _PlainReporter(quiet=not progress)
    return _CallingReporter(progress) if callable(progress) else progress


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
    def __init__(self, description: str, total: float, unit: str, *, quiet: bool, every: float) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._quiet, self._every = quiet, every
        self._done = 0.0
        self._last = time.monotonic()

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if not self._quiet and now - self._last >= self._every:
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
    def __init__(self, *, quiet: bool, every: float = _PLAIN_EVERY_SECONDS) -> None:
        self._quiet, self._every = quiet, every

    @contextmanager
    def _open(self, description: str, total: float, unit: str) -> Iterator[Task]:
        task = _PlainTask(description, total, unit, quiet=self._quiet, every=self._every)
        with _told_on_stop(task.how_far):
            yield task

    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        return self._open(description, total, unit)

    def say(self, message: str) -> None:
        if not self._quiet:
            _print(message)

    def warn(self, message: str) -> None:
        _print(f"Warning: {message}")


class _CallingTask:
    def __init__(self, call: Callable[[str, float, float], object], description: str, total: float) -> None:
        self._call, self._description, self._total = call, description, total
        self._done = 0.0

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        self._done += amount
        self._call(self._description, self._done, self._total)
        raise_if_stopping()


class _CallingReporter(_PlainReporter):
    """Steps are calls of a function, warnings lines as ever."""

    def __init__(self, call: Callable[[str, float, float], object]) -> None:
        super().__init__(quiet=True)
        self._call = call

    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        return nullcontext(_CallingTask(self._call, description, total))
