"""Where an experiment is computed, and whom it tells."""

from __future__ import annotations

from dataclasses import dataclass

from wsitool.base.devices import DeviceOptions
from wsitool.base.parameters import Params, same_as
from wsitool.tracking.registry import LoggerOptions, check_loggers

__all__ = ["ExperimentDevice"]


@dataclass(frozen=True, kw_only=True)
class ExperimentDevice(Params):
    """Where an experiment is computed and told of, which is no part of its plan."""

    device: str = same_as(
        DeviceOptions,
        "device",
        help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps; several share the cells, cuda:0,cuda:1 "
        "or cuda:0-3.",
    )
    logger: tuple[str, ...] = same_as(LoggerOptions, "logger")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_loggers(self.logger)
