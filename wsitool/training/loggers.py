"""Where rows of metrics go beside metrics.csv."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from wsitool.errors import UsageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["MetricLogger", "TensorBoard"]


class MetricLogger(Protocol):
    """What takes the rows of a run as they come, in the first process only."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """One row: numbers by name, after optimiser step number `step`."""


class TensorBoard:
    """Writes rows as scalars into a folder, until `close`; UsageError where tensorboard is not installed."""

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise UsageError(
                "--logger tensorboard needs tensorboard: install wsitool[tensorboard], or leave it out."
            )
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            # Only with the first row: it makes the folder, and takes a second to import.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is held back."""
        if self._writer is not None:
            self._writer.close()
