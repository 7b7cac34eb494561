"""Things such as slides and stores, kept open while they are used again and again, but few at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

__all__ = ["OpenThings"]


class Closes(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closes)


@dataclass
class _Held(Generic[T]):
    thing: T
    users: int = 0
    dropped: bool = False


class OpenThings(Generic[T]):
    """At most `limit` open things beside those in use, the longest unused closed first; for many threads.

    Memory and descriptors do not grow with what has been opened.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[str, _Held[T]] = OrderedDict()
        self._opening: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lease(self, key: str, open_it: Callable[[], T]) -> Iterator[T]:
        """The thing of `key`, opened by `open_it` if it is not open; what that raises is raised."""
        held = self._taken(key)
        if held is None:
            with self._lock:
                opening = self._opening.setdefault(key, threading.Lock())
            with opening:  # requests for the tiles of a new slide come at once: one of them opens it
                held = self._taken(key) or self._put(key, open_it())
        try:
            yield held.thing
        finally:
            self._give_back(held)

    def close(self) -> None:
        """Close all that is not in use, and the rest when its use ends."""
        with self._lock:
            ready = [self._dropped(key) for key in list(self._held)]
        _close(ready)

    def _taken(self, key: str) -> _Held[T] | None:
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
                held.users += 1
            return held

    def _put(self, key: str, thing: T) -> _Held[T]:
        with self._lock:
            held = self._held[key] = _Held(thing, users=1)
            self._opening.pop(key, None)
            ready = [self._dropped(old) for old in list(self._held)[: -self._limit]]
        _close(ready)
        return held

    def _dropped(self, key: str) -> _Held[T]:
        held = self._held.pop(key)
        held.dropped = True
        return held

    def _give_back(self, held: _Held[T]) -> None:
        with self._lock:
            held.users -= 1
        _close([held])


def _close(held: list[_Held[T]]) -> None:
    for one in held:
        if one.dropped and not one.users:
            one.thing.close()
