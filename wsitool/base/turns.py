"""Items that several processes make in one folder: what another is at comes later, and then is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from wsitool.base.lock import Held, is_locked
from wsitool.base.progress import SILENT, Reporter

__all__ = ["in_turn", "patiently"]

_POLL_SECONDS = 0.25

T = TypeVar("T")
U = TypeVar("U")


def in_turn(items: Sequence[T], make: Callable[[T], U], reporter: Reporter = SILENT) -> Iterator[tuple[T, U]]:
    """Each item with what `make` makes of it; those for which it raises Held after the others.

    Where nothing else is left it waits for one of them, and says for whom.
    """
    left = list(items)
    while left:
        held: list[tuple[T, Held]] = []
        for item in left:
            try:
                made = make(item)
            except Held as by:
                held.append((item, by))
            else:
                yield item, made
        if len(held) == len(left):
            _wait([by for _, by in held], reporter)
        left = [item for item, _ in held]


def patiently(make: Callable[[], U], reporter: Reporter = SILENT) -> U:
    """What `make` makes, tried again for as long as it raises Held."""
    ((_, made),) = in_turn([None], lambda _: make(), reporter)
    return made


def _wait(held: Sequence[Held], reporter: Reporter) -> None:
    """Until one of the locks is let go."""
    for line in dict.fromkeys(f"Waiting for {by.what}: {by.holder} is at it." for by in held):
        reporter.say(line)
    while all(is_locked(by.path) for by in held):
        time.sleep(_POLL_SECONDS)
