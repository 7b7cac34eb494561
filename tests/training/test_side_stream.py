"""Views are made beside the step before: who waits for whom, on a device that writes it down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from wsitool.training.side_stream import SideStream


class _Stream:
    """One of a device's queues; all of them write into one list."""

    current: _Stream
    calls: list[tuple[Any, ...]]

    def __init__(self, name: str) -> None:
        self.name = name

    def wait_stream(self, other: _Stream) -> None:
        self.calls.append((self.name, "waits for all of", other.name))

    def wait_event(self, event: tuple[str, int]) -> None:
        self.calls.append((self.name, "waits for", event))

    def record_event(self) -> tuple[str, int]:
        event = (self.name, sum(call[1] == "event" for call in self.calls))
        self.calls.append((self.name, "event", event))
        return event


class _Block:
    """A tensor as the allocator sees it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def record_stream(self, stream: _Stream) -> None:
        _Stream.calls.append((self.name, "is used by", stream.name))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    main, _Stream.calls = _Stream("step"), []
    _Stream.current = main

    @contextlib.contextmanager
    def inside(stream: _Stream) -> Iterator[None]:
        before, _Stream.current = _Stream.current, stream
        yield
        _Stream.current = before

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: _Stream("views"))
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: _Stream.current)
    return _Stream.calls


def test_a_step_waits_for_its_views_and_they_for_the_step_before_the_last(
    calls: list[tuple[Any, ...]],
) -> None:
    side = SideStream(torch.device("cuda", 0))

    def views() -> Any:
        calls.append((_Stream.current.name, "makes views"))
        return {"a": _Block("a")}

    for number in range(3):
        patches: Any = _Block(f"patches {number}")
        side.make(views, patches)
        calls.append((_Stream.current.name, "step", number))
    assert calls == [
        # weights that have just been copied
        ("views", "waits for all of", "step"),
        ("patches 0", "is used by", "views"),
        ("views", "makes views"),
        ("step", "event", ("step", 0)),
        ("step", "waits for all of", "views"),
        ("a", "is used by", "step"),
        ("step", "step", 0),
        # not for step 0, which is running: for what was queued before it
        ("views", "waits for", ("step", 0)),
        ("patches 1", "is used by", "views"),
        ("views", "makes views"),
        ("step", "event", ("step", 1)),
        ("step", "waits for all of", "views"),
        ("a", "is used by", "step"),
        ("step", "step", 1),
        # for step 0: so at most one batch of views is ahead
        ("views", "waits for", ("step", 1)),
        ("patches 2", "is used by", "views"),
        ("views", "makes views"),
        ("step", "event", ("step", 2)),
        ("step", "waits for all of", "views"),
        ("a", "is used by", "step"),
        ("step", "step", 2),
    ]


@pytest.mark.parametrize("device", ["cpu", "meta", "mps"])
def test_elsewhere_all_is_made_in_turn(calls: list[tuple[Any, ...]], device: str) -> None:
    made: dict[str, Tensor] = {"a": torch.zeros(2)}
    assert SideStream(torch.device(device)).make(lambda: made, torch.zeros(1)) is made
    assert not calls
