"""How many labels are used and in which order, as options say it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import total_ordering
from typing import Literal

from wsitool.errors import UsageError

__all__ = [
    "Amount",
    "Balance",
    "PerClass",
    "Select",
    "amount_in_json",
    "amount_of",
    "asks",
    "check_order",
    "file_part",
    "percent",
]

Balance = Literal["weighted", "subset"]
Select = Literal["spread", "random", "margin", "typical-margin"]


@total_ordering
@dataclass(frozen=True)
class PerClass:
    """So many labels of each class, where else a share of all labels stands.

    It sorts below every share, PerClass(20) < 0.01, and is no number: what would write it as one fails.
    """

    count: int

    def __lt__(self, other: float | PerClass) -> bool:
        return self.count < other.count if isinstance(other, PerClass) else True

    def __str__(self) -> str:
        return f"{self.count} per class"


Amount = float | PerClass


def amount_in_json(amount: Amount) -> float | str:
    """A share as a number, a number of each class in words."""
    return str(amount) if isinstance(amount, PerClass) else amount


def asks(select: Select) -> bool:
    """Whether the order is asked for in rounds, and so depends on features."""
    return select in ("margin", "typical-margin")


def check_order(select: Select, balance: Balance) -> None:
    """UsageError where as many of each class are wanted from answers that nobody knows beforehand."""
    if asks(select) and balance == "subset":
        raise UsageError(
            f"--select {select} asks for patches whose classes are not known, and --balance subset takes as "
            "many of each: use --balance weighted, or --select spread or random."
        )


def percent(fraction: Amount) -> str:
    """An amount of labels as it is said to people: "25 %", "2.5 %", "5 per class"."""
    return str(fraction) if isinstance(fraction, PerClass) else f"{100 * fraction:g} %"


def file_part(fraction: Amount) -> str:
    """An amount of labels in names of files: "25pct", "5each"."""
    return f"{fraction.count}each" if isinstance(fraction, PerClass) else f"{100 * fraction:g}pct"


def amount_of(fraction: Amount) -> dict[str, float | int | None]:
    """An amount of labels in JSON: a share, or None and a number of each class."""
    if isinstance(fraction, PerClass):
        return {"fraction": None, "labels_per_class": fraction.count}
    return {"fraction": fraction}
