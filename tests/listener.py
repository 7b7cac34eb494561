"""A reporter for tests of what is said."""

from __future__ import annotations

__all__ = ["Listener"]


class Listener:
    """A reporter that remembers warnings."""

    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, message: str) -> None:
        self.warned.append(message)

    def say(self, message: str) -> None:
        pass
