"""The process that tiles slides for `processes`: tasks come in as JSON lines, messages go out as JSON lines.

Run as `python -m wsitool.tiling.worker`; not meant for people.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import Any, TextIO

from wsitool.base.progress import Task
from wsitool.base.sentences import silence_echoes
from wsitool.errors import UsageError
from wsitool.tiling.guarded import run_guarded
from wsitool.tiling.slide_task import SlideTask

__all__ = ["main"]


def main() -> None:
    """Answer tasks until standard input ends; end at once then, as the parent is gone."""
    # Whatever a library prints must not get between the messages.
    silence_echoes()
    # The true standard output moves to a number of its own; number 1 becomes standard error.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    # A thread, as only it can notice the parent's end while a slide is being tiled.
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    reporter = _PipeReporter(out)
    while True:
        task = SlideTask.from_json(tasks.get())
        try:
            reporter.send("result", asdict(run_guarded(task, reporter)))
        except UsageError as error:
            reporter.send("usage", str(error))


def _listen(tasks: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        tasks.put(line)
    # At once, and without clearing up: the parent removes what is left.
    os._exit(0)


class _PipeTask:
    def __init__(self, reporter: _PipeReporter) -> None:
        self._reporter = reporter

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        self._reporter.send("advance", amount)


class _PipeReporter:
    def __init__(self, out: TextIO) -> None:
        self._out = out

    def send(self, kind: str, value: Any) -> None:
        try:
            self._out.write(json.dumps([kind, value]) + "\n")
            self._out.flush()
        except BrokenPipeError:
            os._exit(0)  # the parent is gone, which `_listen` has not noticed yet

    @contextmanager
    def _open(self, description: str, total: float) -> Iterator[Task]:
        self.send("begin", [description, total])
        try:
            yield _PipeTask(self)
        finally:
            self.send("end", None)

    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        return self._open(description, total)

    def say(self, message: str) -> None:
        self.send("say", message)

    def warn(self, message: str) -> None:
        self.send("warn", message)


if __name__ == "__main__":
    main()
