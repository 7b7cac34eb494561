"""What a classification run came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsitool.base.tables import read_table
from wsitool.report.result import Result

__all__ = ["ClassifyResult"]

_WHOLE = ("row", "x", "y", "patches")


@dataclass(frozen=True, kw_only=True, repr=False)
class ClassifyResult(Result):
    """What a run came to; `judged_on` is "test", "folds" or, with neither, "validation".

    `counted` says what had labels: "patches", "slides" or "patients".

    >>> result = wsitool.classify("stores", "result", encoder="encoder.safetensors", head="linear", folds=2)
    >>> result.judged_on, result.classes
    ('folds', ('adh', 'benign'))
    >>> sum(row["part"] != "validation" for row in result.rows) == result.scores["patches"]
    True
    """

    classes: tuple[str, ...]
    judged_on: str
    metrics: dict[str, Any]
    trained_on: int
    validated_on: int
    counted: str = "patches"

    @property
    def scores(self) -> dict[str, Any]:
        """The figures of the part it was judged on."""
        figures: dict[str, Any] = self.metrics[self.judged_on]
        return figures

    @property
    def said_first(self) -> list[str]:
        """What must be known before any figure is read: guessing, hardly trained, a class never judged."""
        return list(self.metrics["said_first"])

    @property
    def summary(self) -> str:
        if not self.metrics:  # of another process than the first
            return f"trained with others: {self.out}"
        accuracy = self.scores["accuracy"]
        judged = f"{self.scores[self.counted]:,} {self.counted} ({self.judged_on})"
        what = f"accuracy {accuracy:.3f} on {judged}"
        return f"{what}, trained on {self.trained_on:,}: {self.out}"

    @property
    def facts(self) -> Mapping[str, object]:
        """What must be said first, then each metric with its 95 % interval where there is one."""
        from wsitool.evaluation.metrics import METRICS

        facts: dict[str, object] = {f"first {i + 1}": text for i, text in enumerate(self.said_first)}
        for name in METRICS:
            value, interval = self.scores[name], self.scores["intervals"][name]
            between = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
            facts[name.replace("_", " ")] = "undefined" if value is None else f"{value:.3f}{between}"
        return facts

    @property
    def pictures(self) -> Sequence[Path]:
        return (self.out / "confusion.png", self.out / "curves.png")

    @property
    def rows(self) -> Sequence[Mapping[str, object]]:
        """A row for each judged patch or slide, as predictions.csv has it; probabilities are uncalibrated."""
        table = read_table(self.out / "predictions.csv", needs=("part", "predicted"), exact=True)
        return [
            {header: _value(name, row[name]) for name, header in table.headers.items()} for row in table.rows
        ]


def _value(column: str, text: str) -> object:
    if column in _WHOLE:
        return int(text)
    return float(text) if column.startswith("p_") else text
