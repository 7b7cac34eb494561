"""Where an experiment is computed, and which part of it: no part of its plan, as it changes no result."""

from __future__ import annotations

from dataclasses import dataclass

from wsitool.base.cluster import DASK
from wsitool.base.devices import DeviceOptions, device_names
from wsitool.base.parameters import Params, hparam, same_as
from wsitool.base.shards import SHARD, part_of
from wsitool.errors import UsageError
from wsitool.tracking.registry import LoggerOptions, check_loggers

__all__ = ["ExperimentDevice", "ExperimentShard"]


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
    dask: str | None = hparam(None, f"{DASK} A task for each cell and pretraining.")
    dask_resource: str | None = hparam(
        None, "Each task takes one of this resource of a worker, such as GPU (dask worker --resources GPU=1)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_loggers(self.logger)
        if self.dask is not None and len(device_names(self.device)) > 1:
            raise UsageError(
                f"--dask has workers of one device each, got --device {self.device}: name one, and start as "
                "many workers."
            )
        if self.dask_resource is not None and self.dask is None:
            raise UsageError("--dask-resource is of the workers of --dask ADDRESS, which is not given.")


@dataclass(frozen=True, kw_only=True)
class ExperimentShard(Params):
    """Which of the cells a job makes."""

    shard: str | None = hparam(None, SHARD)

    def __post_init__(self) -> None:
        """UsageError for what is no part."""
        super().__post_init__()
        part_of((), self.shard)
