"""How many labels are used and in which order, as options say it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import total_ordering
from typing import Literal

from wsitool.errors import UsageError

__all__ = ["Amount", "Balance", "PerClass", "Select", "amount_in_json", "asks", "check_order"]

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
