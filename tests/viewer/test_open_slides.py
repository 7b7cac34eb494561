from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from wsitool.base.open_things import OpenThings
from wsitool.viewer import app
from wsitool.viewer.library import Library, SlideEntry


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


class _Counted:
    """Stands for a slide, its pyramid or a store: counts how many are open."""

    open: ClassVar[int] = 0
    most: ClassVar[int] = 0

    def __init__(self, *_: Any) -> None:
        type(self).open += 1
        type(self).most = max(self.open, self.most)

    def close(self) -> None:
        type(self).open -= 1


def test_five_thousand_slides_leave_few_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory and descriptors follow what is open, not what was looked at."""

    class Pyramid(_Counted):
        pass

    class Store(_Counted):
        pass

    (tmp_path / "a.svs").touch()
    monkeypatch.setattr(app, "open_slide", lambda source: source)
    monkeypatch.setattr(app, "Pyramid", Pyramid)
    monkeypatch.setattr(app, "open_store", Store)
    answers = app._Answers(Library([tmp_path]), None)
    for number in range(5000):
        slide = _entry(f"{number}", tmp_path)
        with answers._pyramid(slide), answers._store(_entry(f"{number}", tmp_path, store=tmp_path)):
            pass
    assert (Pyramid.open, Store.open) == (24, 64)
    assert (Pyramid.most, Store.most) == (25, 65)
    answers.close()
    assert Pyramid.open == Store.open == 0


def _entry(id: str, folder: Path, store: Path | None = None) -> SlideEntry:
    nothing: dict[str, Any] = {"group": "", "problem": "", "width": 0, "height": 0, "mpp": None, "patches": 0}
    return SlideEntry(
        id=id, collection="", name=id, status="done", store=store, source=str(folder / "a.svs"), counts={},
        labels={}, **nothing,
    )  # fmt: skip
