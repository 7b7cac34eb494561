"""Slides in worker processes, so that a decoder that crashes takes one slide with it and not the run.

Workers are started as programs of their own (no fork of a process with threads, no import of the caller's
main module) and die when this process does.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from wsitool.base.interrupt import STOP_SIGNALS
from wsitool.base.progress import Reporter, Task
from wsitool.base.sentences import one_sentence
from wsitool.errors import UsageError
from wsitool.tiling.guarded import failed_result
from wsitool.tiling.results import SlideResult
from wsitool.tiling.slide_task import SlideTask

__all__ = ["run_in_processes"]

_Message = tuple[int, str, Any]


def run_in_processes(
    tasks: Sequence[SlideTask], *, workers: int, reporter: Reporter
) -> Generator[tuple[int, SlideResult]]:
    """Run tasks in `workers` processes; yields (index of the task, result) as slides end.

    A worker that dies gives its slide a failed result that names the signal, and is replaced. Raises
    UsageError where a worker does. Close it to end the workers, whatever they are at.
    """
    # Any worker takes the next: slides differ in size by orders of magnitude.
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(tasks)):
        waiting.put(index)
    messages: queue.SimpleQueue[_Message] = queue.SimpleQueue()
    pool = [_Worker(tasks, waiting, messages) for _ in range(min(workers, len(tasks)))]
    bars = _Bars(tasks, reporter)
    left = len(tasks)
    try:
        while left:
            index, kind, value = messages.get()
            if kind == "usage":
                raise UsageError(value)
            if kind == "result":
                left -= 1
                bars.close(index)
                yield index, SlideResult(**value)
            else:
                bars.show(index, kind, value)
    finally:
        # Also where the caller stopped listening: closing the generator ends here.
        for worker in pool:
            worker.stop()
        bars.close_all()


class _Worker:
    """A thread that keeps one worker process busy."""

    def __init__(
        self,
        tasks: Sequence[SlideTask],
        waiting: queue.SimpleQueue[int],
        messages: queue.SimpleQueue[_Message],
    ) -> None:
        self._tasks, self._waiting, self._messages = tasks, waiting, messages
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        # Inherited by the process: Ctrl-C and SLURM reach the whole group, but this process decides who ends.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        while not self._stopped:
            try:
                index = self._waiting.get_nowait()
            except queue.Empty:
                break
            try:
                self._run(index)
            except Exception as error:  # noqa: BLE001 - around one slide of many; else nobody would answer for it
                failed = failed_result(self._tasks[index], one_sentence(error))
                self._messages.put((index, "result", vars(failed)))
        self._end_process()

    def _run(self, index: int) -> None:
        process = self._process = self._process or _start()
        if self._stopped:  # `stop` may have looked for a process before there was one
            return
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the worker was started with pipes")
        # A worker that died is noticed below, by the end of its output.
        with suppress(BrokenPipeError):
            process.stdin.write(self._tasks[index].to_json() + "\n")
            process.stdin.flush()
        for line in process.stdout:
            if not line.endswith("\n"):  # it died in the middle of a message
                break
            kind, value = json.loads(line)
            self._messages.put((index, kind, value))
            if kind in ("result", "usage"):
                return
        # Its output ended: `wait` has the exit code at once.
        died = failed_result(self._tasks[index], _cause(process.wait()))
        self._end_process()
        self._messages.put((index, "result", vars(died)))

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()

    def stop(self) -> None:
        """End the process, whatever it does; its store is only there if it was complete."""
        self._stopped = True
        process = self._process
        if process is not None:
            # Not terminate: a decoder in a loop of C code lets no handler run.
            process.kill()
        self._thread.join()


def _start() -> subprocess.Popen[str]:
    # A folder of the caller's that holds a json.py must not be imported from, hence -P.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "wsitool.tiling.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        # Messages must come when they are sent, not when a buffer is full.
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def _cause(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return (
                f"Its worker process was ended by {signal.Signals(-code).name}, probably a crash of a decoder"
            )
    return f"Its worker process ended with code {code}"


class _Bars:
    """Progress of the slides under way."""

    def __init__(self, tasks: Sequence[SlideTask], reporter: Reporter) -> None:
        self._tasks, self._reporter = tasks, reporter
        self._open: dict[int, tuple[ExitStack, Task]] = {}

    def show(self, index: int, kind: str, value: Any) -> None:
        if kind == "begin":
            stack = ExitStack()
            task = stack.enter_context(self._reporter.task(value[0], total=value[1], unit="patches"))
            self._open[index] = stack, task
        elif kind == "advance" and index in self._open:
            self._open[index][1].advance(value)
        elif kind == "end":
            self.close(index)
        elif kind == "warn":
            self._reporter.warn(value)
        elif kind == "say":
            self._reporter.say(value)

    def close(self, index: int) -> None:
        if index in self._open:
            self._open.pop(index)[0].close()

    def close_all(self) -> None:
        for index in list(self._open):
            self.close(index)
