"""Parts of slides decoded by threads before they are asked for, and kept while they are in use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["DecodedAhead"]

T = TypeVar("T")


class DecodedAhead(Generic[T]):
    """What `threads` threads decode; the longest unused is forgotten beyond `limit` bytes.

    To be used from any thread.
    """

    def __init__(self, *, threads: int, limit: int) -> None:
        self._threads, self._limit = threads, limit
        self._parts: OrderedDict[Hashable, tuple[Future[T], int]] = OrderedDict()
        self._bytes = 0
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def begin(self, key: Hashable, size: int, decode: Callable[[], T]) -> None:
        """Have the part `key` of `size` bytes decoded, unless it is there; waits for nothing."""
        with self._lock:
            if key in self._parts:
                self._parts.move_to_end(key)
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="wsitool-decode")
            self._parts[key] = self._pool.submit(decode), size
            self._bytes += size
            while self._bytes > self._limit and len(self._parts) > 1:
                # Whoever waits for it has it all the same.
                self._bytes -= self._parts.popitem(last=False)[1][1]

    def get(self, key: Hashable) -> Future[T] | None:
        """The part, to be waited for; None where it was not begun, or is forgotten."""
        with self._lock:
            part = self._parts.get(key)
            if part is None:
                return None
            self._parts.move_to_end(key)
            return part[0]

    def close(self) -> None:
        """Forget all of it, wait for what is being decoded and drop what has not begun."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._parts.clear()
            self._bytes = 0
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
