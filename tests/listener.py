"""A reporter for tests of what is said."""

from __future__ import annotations

from contextlib import AbstractContextManager

from wsitool.base.progress import SILENT, Task

__all__ = ["Listener"]


class Listener:
    """A reporter that remembers what was said."""

    def __init__(self) -> None:
        self.warned: list[str] = []
        self.said: list[str] = []

    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        return SILENT.task(description, total=total, unit=unit)

    def warn(self, message: str) -> None:
        self.warned.append(message)

    def say(self, message: str) -> None:
        self.said.append(message)
