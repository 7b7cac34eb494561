"""Progress on a terminal (rich bars) or in a log (plain lines, at most one every few seconds)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from wsitool.progress import Reporter, Task

__all__ = ["console_reporter"]

_PLAIN_EVERY_SECONDS = 5.0


def console_reporter(*, quiet: bool = False) -> Reporter:
    """Choose bars or plain lines by whether stderr is a terminal; results belong to stdout, progress here."""
    console = Console(stderr=True, highlight=False)
    return _RichReporter(console) if console.is_terminal and not quiet else _PlainReporter(quiet=quiet)


class _RichTask:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        self._progress.update(self._task, advance=amount, note=note)


class _RichReporter:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None

    @contextmanager
    def _open(self, description: str, total: float) -> Iterator[Task]:
        # rich allows one live display at a time: a task inside a task becomes a second bar of the first.
        outer = self._progress
        progress = outer or Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        if outer is None:
            progress.start()
            self._progress = progress
        task = progress.add_task(description, total=total, note="")
        try:
            yield _RichTask(progress, task)
        finally:
            if outer is None:
                progress.stop()
                self._progress = None
            else:
                progress.remove_task(task)

    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        return self._open(description, total)

    def say(self, message: str) -> None:
        self._console.print(message, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        self._console.print(f"Warning: {message}", style="yellow", markup=False, soft_wrap=True)


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
            line = f"{self._description}: {self._done:g}/{self._total:g} {self._unit} {note}"
            print(line.rstrip(), file=sys.stderr, flush=True)


class _PlainReporter:
    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    @contextmanager
    def _open(self, description: str, total: float, unit: str) -> Iterator[Task]:
        yield _PlainTask(description, total, unit, self._quiet)

    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        return self._open(description, total, unit)

    def say(self, message: str) -> None:
        if not self._quiet:
            print(message, file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        print(f"Warning: {message}", file=sys.stderr, flush=True)
