"""The patches that a classifier of slides attended to most, from a slide's table of `predict`."""

from __future__ import annotations

import csv
import heapq
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["AttendedPatch", "most_attended"]

_FIRST = 10


@dataclass(frozen=True, kw_only=True)
class AttendedPatch:
    """A patch with its `attention`, which is `relative` times what each would have if all had the same.

    It is `called` so by itself, of that `probability`. Level-0 corner `x`, `y` and `side`; None where the
    features that were judged do not say where they lie, and then `row` is theirs.
    """

    x: int | None
    y: int | None
    side: float | None
    row: int | None
    attention: float
    relative: float
    called: str
    probability: float

    @property
    def place(self) -> str:
        """In words."""
        return f"row {self.row}" if self.x is None else f"{self.x}, {self.y}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def most_attended(table: Path, count: int = _FIRST) -> list[AttendedPatch]:
    """The `count` of most attention, those surest of a class first where it is equal.

    None of a table that has no attention, or cannot be read.
    """
    try:
        with table.open(encoding="utf-8", newline="") as file:
            return heapq.nsmallest(count, _patches(file), key=lambda one: (-one.attention, -one.probability))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return []


def _patches(file: Any) -> Iterator[AttendedPatch]:
    for line in csv.DictReader(file):
        placed = "x" in line
        yield AttendedPatch(
            x=int(line["x"]) if placed else None,
            y=int(line["y"]) if placed else None,
            side=float(line["size"]) if placed else None,
            row=None if placed else int(line["row"]),
            attention=float(line["attention"]),
            relative=float(line["relative_attention"]),
            called=line["predicted"],
            probability=float(line[f"p_{line['predicted']}"]),
        )
