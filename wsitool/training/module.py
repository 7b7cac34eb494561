"""One step of a method, and what a process needs to take it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wsitool.api import Meta, Method, Step, rank, resize
from wsitool.augment.fused import fused
from wsitool.backbones.precision import Precision
from wsitool.errors import PluginError
from wsitool.methods.meta import call_views
from wsitool.methods.registry import blame_plugin
from wsitool.training.config import PretrainConfig
from wsitool.training.seeding import seed_networks, seed_of, step_generator
from wsitool.training.side_stream import SideStream
from wsitool.training.stream import BatchStream
from wsitool.training.timing import Stopwatch

__all__ = ["PretrainModule", "Schedule", "Training", "compute_step", "make_views"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Batches per epoch and in all, and how many of them make one optimiser step."""

    per_epoch: int
    epochs: int
    accumulate: int = 1

    @property
    def batches(self) -> int:
        return self.per_epoch * self.epochs

    @property
    def steps(self) -> int:
        """Optimiser steps in all; the last may be of fewer batches."""
        return math.ceil(self.batches / self.accumulate)

    def is_step(self, batch: int) -> bool:
        """Whether the optimiser steps after batch number `batch`."""
        return (batch + 1) % self.accumulate == 0 or batch + 1 == self.batches


def compute_step(
    method: Method[Any],
    patches: Tensor,
    config: PretrainConfig,
    step: int,
    *,
    meta: Meta | None = None,
    watch: Stopwatch | None = None,
    side: SideStream | None = None,
) -> Step:
    """Views and loss of batch number `step`; all randomness follows from (seed, step, rank).

    `patches` uint8 (B, 3, P, P) are resized to the run's image size first. `meta` is for methods that ask for
    it, `watch` counts the time of views, and on `side` they are made while the step before is running.
    """
    # A fourth number, so that networks and views of one step do not draw from the same stream.
    seed_networks(seed_of(config.seed, step, rank(), 1), patches.device)

    def views() -> dict[str, Tensor]:
        with (watch or Stopwatch()).running(patches.device):
            return make_views(method, patches, config, step, meta)

    pairs = None if meta is None else meta.pairs
    inputs = (patches,) if pairs is None else (patches, pairs)
    made_views = views() if side is None else side.make(views, *inputs)
    with blame_plugin(config.method, "loss"):
        made = method.loss(made_views)
        if not isinstance(made, Step):
            raise TypeError(f"loss must return a wsitool.api.Step, got {type(made).__name__}")
        return made


def make_views(
    method: Method[Any], patches: Tensor, config: PretrainConfig, step: int, meta: Meta | None = None
) -> dict[str, Tensor]:
    """The views of batch number `step`: of `patches` uint8 (B, 3, P, P) at the run's image size."""
    # In float32 whatever the run's precision: autocast would do the products of crop and blur in 16 bits.
    with (
        torch.no_grad(),
        torch.autocast(patches.device.type, enabled=False),
        fused("inductor" if config.compile else None),
    ):
        if config.image_size is not None:
            patches = resize(patches, config.image_size)
            if meta is not None and meta.pairs is not None:
                meta = dataclasses.replace(meta, pairs=resize(meta.pairs, config.image_size))
        with blame_plugin(config.method, "views"):
            # By the batch's number, from the start of training and not of the process: a resumed run draws
            # the same.
            return call_views(method, patches, step_generator(config.seed, step, rank()), meta)


class PretrainModule(nn.Module):
    """The method with its loss on a batch as its forward pass: what several processes share.

    `last` is what the latest batch gave, `augmenting` counts the time of views.
    """

    def __init__(self, method: Method[Any], config: PretrainConfig, schedule: Schedule) -> None:
        super().__init__()
        self.method = method
        self.config = config
        self.schedule = schedule
        self.last: Step | None = None
        self.augmenting = Stopwatch()
        self._side: SideStream | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, patches: Tensor, step: int, meta: Meta | None = None) -> Tensor:
        """The loss of `patches` (B, 3, P, P) uint8 as batch number `step`; PluginError where it is none."""
        if self._side is None:
            self._side = SideStream(patches.device)
        self.last = compute_step(
            self.method, patches, self.config, step, meta=meta, watch=self.augmenting, side=self._side
        )
        _check_loss(self.last.loss, self.config.method)
        return self.last.loss


@dataclass(frozen=True, kw_only=True)
class Training:
    """All that a process trains with; what of it changes is in a checkpoint, or follows from the position."""

    module: PretrainModule
    optimizer: Optimizer
    precision: Precision
    stream: BatchStream


def _check_loss(loss: object, name: str) -> None:
    # Before `backward`, whose own error would not name the method.
    if not (isinstance(loss, Tensor) and loss.ndim == 0 and loss.requires_grad):
        raise PluginError(f"The loss of method '{name}' must be a scalar tensor with gradient, got {loss!r}.")
