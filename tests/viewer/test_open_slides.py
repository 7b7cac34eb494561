from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsitool.viewer.open_slides import OpenThings


class _Thing:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name
        log.append(f"open {name}")

    def close(self) -> None:
        self.log.append(f"close {self.name}")


def test_the_longest_unused_is_closed_and_what_is_in_use_is_not() -> None:
    log: list[str] = []
    things: OpenThings[_Thing] = OpenThings(2)
    with things.lease("a", lambda: _Thing(log, "a")):
        for name in "bcd":
            with things.lease(name, lambda name=name: _Thing(log, name)):  # type: ignore[misc]
                pass
        assert "close a" not in log  # it has lost its place, not its file
    assert log == ["open a", "open b", "open c", "open d", "close b", "close a"]
    things.close()
    assert log[-2:] == ["close c", "close d"]


def test_many_threads_open_once() -> None:
    log: list[str] = []
    things: OpenThings[_Thing] = OpenThings(2)
    together = threading.Barrier(8)

    def use(_: int) -> None:
        together.wait()
        with things.lease("a", lambda: _Thing(log, "a")):
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert log == ["open a"]


def test_an_error_leaves_nothing_behind() -> None:
    things: OpenThings[_Thing] = OpenThings(2)

    def fail() -> _Thing:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"), things.lease("a", fail):
            pass
    with things.lease("a", lambda: _Thing([], "a")) as thing:
        assert thing.name == "a"
