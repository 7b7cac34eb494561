"""What a logger is: an object with `log_metrics` from Python, or a run of a library by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

__all__ = ["LoggedRow", "LoggedRun", "MetricLogger", "RunInfo", "StartLogging"]


class MetricLogger(Protocol):
    """What takes the rows of a run as they come, in the first process only."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """One row: numbers by name, after optimiser step number `step`."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a logger is told of a run that begins, or goes on where it has a `run_id`."""

    out: Path
    command: str
    config: Mapping[str, Any]
    run_id: str | None


@dataclass(frozen=True, kw_only=True)
class LoggedRow:
    """One row of metrics.csv."""

    step: int
    values: Mapping[str, float]


class LoggedRun(Protocol):
    """One run in a library of logging. Methods may raise anything: the run is then told of no more."""

    @property
    def run_id(self) -> str:
        """What `StartLogging` goes on with when the run is resumed."""

    def rows(self, rows: Sequence[LoggedRow]) -> None:
        """Some rows, in order; those after a checkpoint come again when a stopped run goes on."""

    def figures(self, figures: Mapping[str, float]) -> None:
        """What the run came to."""

    def picture(self, path: Path) -> None:
        """A PNG file of the run."""

    def file(self, path: Path) -> None:
        """Another file of the run: its record, its table."""

    def close(self, *, failed: bool) -> None:
        """Write what is held back; the run is over, or was stopped."""


class StartLogging(Protocol):
    """Begins a `LoggedRun`, or goes on with one; imports its library only now."""

    def __call__(self, info: RunInfo) -> LoggedRun: ...
