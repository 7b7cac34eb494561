"""Where tile and encoding tasks run: in threads, or at once in the calling one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

__all__ = ["Executor", "executor"]

T = TypeVar("T")


class Executor(Protocol):
    """The part of an executor the cutter uses."""

    threads: int

    def submit(self, task: Callable[[], T]) -> Future[T]: ...

    def __enter__(self) -> Executor: ...

    def __exit__(self, *_: object) -> None: ...


class _Inline:
    """Runs tasks at once in the calling thread: one thread means one."""

    threads = 1

    def submit(self, task: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(task())
        return future

    def __enter__(self) -> _Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Threads:
    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="wsitool")

    def submit(self, task: Callable[[], T]) -> Future[T]:
        return self._pool.submit(task)

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *_: object) -> None:
        # What has not begun is dropped: after an error nobody takes it.
        self._pool.shutdown(wait=True, cancel_futures=True)


def executor(threads: int) -> Executor:
    """Where tile and encoding tasks run.

    Used as a context manager: leaving it waits for what runs and drops what has not begun. With one thread
    `submit` runs the task at once, in the caller's.
    """
    # A pool of one would only pass every task through a queue.
    return _Inline() if threads <= 1 else _Threads(threads)
