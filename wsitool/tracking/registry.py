"""The loggers by name, one entry each.

A new one is one file with its `StartLogging`, one entry below and an extra of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType

from wsitool.base.parameters import Params, hparam
from wsitool.base.plugins import import_target
from wsitool.errors import UsageError
from wsitool.tracking.contract import LoggedRun, RunInfo, StartLogging

__all__ = ["LOGGERS", "NO_LOGGER", "LoggerKind", "LoggerOptions", "check_loggers"]

NO_LOGGER = "none"


@dataclass(frozen=True, kw_only=True)
class LoggerKind:
    """One logger: `start` names its `StartLogging`, `package` what it imports, of the extra `name`."""

    name: str
    about: str
    package: str
    start: str

    def begin(self, info: RunInfo) -> LoggedRun:
        """Import it and begin, or go on with, a run; raises whatever the library does."""
        start: StartLogging = import_target(self.start, f"The logger '{self.name}' of wsitool")
        return start(info)


_KINDS = (
    LoggerKind(
        name="tensorboard",
        about="event files in OUT/tensorboard",
        package="tensorboard",
        start="wsitool.tracking.tensorboard:start",
    ),
    LoggerKind(
        name="mlflow",
        about="a database in OUT/mlflow, or MLFLOW_TRACKING_URI",
        package="mlflow",
        start="wsitool.tracking.mlflow:start",
    ),
    LoggerKind(
        name="wandb",
        about="Weights & Biases, offline in OUT/wandb unless WANDB_MODE says otherwise",
        package="wandb",
        start="wsitool.tracking.wandb:start",
    ),
)

LOGGERS: Mapping[str, LoggerKind] = MappingProxyType({kind.name: kind for kind in _KINDS})


@dataclass(frozen=True, kw_only=True)
class LoggerOptions(Params):
    """Where a run is told of beside its folder."""

    logger: tuple[str, ...] = hparam(
        (NO_LOGGER,),
        f"Beside OUT, comma between: {'; '.join(f'{kind.name}: {kind.about}' for kind in _KINDS)}.",
        choices=(NO_LOGGER, *LOGGERS),
    )


def check_loggers(names: tuple[str, ...]) -> None:
    """UsageError where the library of one is not installed; nothing is imported."""
    for kind in (LOGGERS[name] for name in names if name != NO_LOGGER):
        if find_spec(kind.package) is None:
            raise UsageError(
                f"--logger {kind.name} needs {kind.package}: install wsitool[{kind.name}], or leave it out."
            )
