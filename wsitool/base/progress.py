"""How long-running functions say how far they are, without knowing who listens.

Library functions take `reporter: Reporter = SILENT`; the command line passes one that draws.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

__all__ = ["SILENT", "Reporter", "Task", "Warnings"]


class Task(Protocol):
    """One piece of work with a known amount."""

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        """Count `amount` as done; `note` is shown beside the bar (a rate, a loss)."""
        ...


class Reporter(Protocol):
    """Where progress and messages go."""

    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        """Open a bar of `total` units for the length of a `with` block."""
        ...

    def say(self, message: str) -> None:
        """Show one line that stays."""
        ...

    def warn(self, message: str) -> None:
        """Show one line that the user should not miss."""
        ...


class _SilentTask:
    def advance(self, amount: float = 1, *, note: str = "") -> None:
        pass


class _Silent:
    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        return nullcontext(_SilentTask())

    def say(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        pass


class Warnings(_Silent):
    """Keeps the warnings alone, for whoever can show them: what works on another machine has no terminal."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def warn(self, message: str) -> None:
        self.heard.append(message)


SILENT: Reporter = _Silent()
