"""Who finds an item in other hands makes the others first, and then waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wsitool.base.lock import Held, locked
from wsitool.base.making import failure_of, making
from wsitool.base.progress import SILENT
from wsitool.base.turns import in_turn, patiently


@contextmanager
def _held(path: Path, let_go: threading.Event) -> Iterator[None]:
    taken = threading.Event()

    def hold() -> None:
        with locked(path, what="it"):
            taken.set()
            assert let_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(60)
    yield
    thread.join()


def test_others_come_first_and_whom_it_waits_for_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, said = threading.Event(), list[str]()

    def say(line: str) -> None:
        said.append(line)
        let_go.set()

    monkeypatch.setattr(SILENT, "say", say)

    def make(name: str) -> str:
        with making(tmp_path / "o" / name, what=f"the cell {name}"):
            return name.upper()

    (tmp_path / "o").mkdir()
    with _held(tmp_path / "o" / "a", let_go):
        assert list(in_turn(["a", "b", "c"], make, SILENT)) == [("b", "B"), ("c", "C"), ("a", "A")]
    (line,) = said
    assert line.startswith("Waiting for the cell a: process ") and line.endswith(" is at it.")
    assert patiently(lambda: make("a")) == "A" and list(in_turn([], make)) == []
    assert not list((tmp_path / "o").iterdir())


def test_a_failure_is_told_until_the_next_try(tmp_path: Path) -> None:
    item = tmp_path / "a"
    with pytest.raises(ValueError, match="no luck"), making(item, what="a"):
        raise ValueError("no luck")
    assert "no luck" in failure_of(item)
    with making(item, what="a"):
        assert failure_of(item) == ""
    with pytest.raises(KeyboardInterrupt), making(item, what="a"):
        raise KeyboardInterrupt
    # Something that it needs is in other hands: it is only put off.
    with (
        locked(tmp_path / "b", what="b"),
        pytest.raises(Held, match="b is being"),
        making(item, what="a"),
        making(tmp_path / "b", what="b"),
    ):
        pass
    assert failure_of(item) == "" and not list(tmp_path.iterdir())
