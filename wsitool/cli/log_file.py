"""`--log FILE`: what a command says, with the time, in a file that others may write to as well."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from wsitool.base.progress import Reporter, Task
from wsitool.base.sentences import printable

__all__ = ["LogFile", "Logged"]

_PROGRESS_SECONDS = 30.0


class LogFile:
    """Lines with time and kind, appended to the file at `path`; OSError where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("a", encoding="utf-8"):
            pass

    def write(self, kind: str, message: str) -> None:
        """Add one line. What cannot be written is left out: a full disk must not cost a run."""
        line = f"{datetime.now().astimezone().isoformat(timespec='seconds')} {kind:<8} {printable(message)}\n"
        # Opened anew each time: logs are moved away under running programs.
        with suppress(OSError), self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line)


class _LoggedTask:
    def __init__(
        self, shown: Task, log: LogFile, description: str, total: float, unit: str, *, every: float
    ) -> None:
        self._shown, self._log, self._what, self._every = shown, log, (description, total, unit), every
        self._done, self._last = 0.0, time.monotonic()

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            description, total, unit = self._what
            self._log.write("progress", f"{description}: {self._done:g}/{total:g} {unit} {note}".rstrip())
        self._shown.advance(amount, note=note)


class Logged:
    """A reporter that also writes to a log: what is said, and progress every half minute or at each step."""

    def __init__(self, shown: Reporter, log: LogFile, *, verbose: bool = False) -> None:
        self._shown, self._log = shown, log
        self._every = 0.0 if verbose else _PROGRESS_SECONDS

    @contextmanager
    def _open(self, description: str, total: float, unit: str) -> Iterator[Task]:
        with self._shown.task(description, total=total, unit=unit) as task:
            yield _LoggedTask(task, self._log, description, total, unit, every=self._every)

    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        return self._open(description, total, unit)

    def say(self, message: str) -> None:
        self._log.write("note", message)
        self._shown.say(message)

    def warn(self, message: str) -> None:
        self._log.write("warning", message)
        self._shown.warn(message)
