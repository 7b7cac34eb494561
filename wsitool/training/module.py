"""The method as Lightning sees it: one step, one optimiser, nothing of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule
from torch import Tensor
from torch.optim import Optimizer

from wsitool.api import Method, Step, rank, resize
from wsitool.errors import PluginError
from wsitool.methods.registry import blame_plugin
from wsitool.training.config import PretrainConfig
from wsitool.training.optim import learning_rate, make_optimizer
from wsitool.training.seeding import seed_networks, seed_of, step_generator
from wsitool.training.stream import BatchStream, Item
from wsitool.training.timing import Stopwatch

__all__ = ["PretrainModule", "Schedule", "compute_step"]


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
    method: Method[Any], patches: Tensor, config: PretrainConfig, step: int, watch: Stopwatch | None = None
) -> Step:
    """Views and loss of batch number `step`; all randomness follows from (seed, step, rank).

    `patches` uint8 (B, 3, P, P) are resized to the run's image size first. `watch` counts the time of views.
    """
    # A fourth number, so that networks and views of one step do not draw from the same stream.
    seed_networks(seed_of(config.seed, step, rank(), 1), patches.device)
    with (watch or Stopwatch()).running(patches.device):
        views = _make_views(method, patches, config, step)
    with blame_plugin(config.method, "loss"):
        made = method.loss(views)
        if not isinstance(made, Step):
            raise TypeError(f"loss must return a wsitool.api.Step, got {type(made).__name__}")
        return made


def _make_views(method: Method[Any], patches: Tensor, config: PretrainConfig, step: int) -> dict[str, Tensor]:
    # In float32 whatever the run's precision: autocast would do the products of crop and blur in 16 bits.
    with torch.no_grad(), torch.autocast(patches.device.type, enabled=False):
        if config.image_size is not None:
            patches = resize(patches, config.image_size)
        with blame_plugin(config.method, "views"):
            # By the batch's number, from the start of training and not of the process: a resumed run draws
            # the same.
            return method.views(patches, step_generator(config.seed, step, rank()))


class PretrainModule(LightningModule):
    """Trains `method` on a stream of batches by the schedule of `config`.

    `stream` and `monitor` must be set before training. The learning rate is set at each batch, randomness
    seeded by it: Lightning holds no state of either.
    """

    def __init__(self, method: Method[Any], config: PretrainConfig, schedule: Schedule) -> None:
        super().__init__()
        self.method = method
        self.config = config
        self.schedule = schedule
        self.stream: BatchStream | None = None
        # Set by the run before training: what a callback needs exists only when the trainer does.
        self.monitor: Callback | None = None
        self.last: Step | None = None
        self.augmenting = Stopwatch()
        self._batch = 0

    def train_dataloader(self) -> Any:
        return self.stream

    def configure_callbacks(self) -> list[Callback]:
        return [] if self.monitor is None else [self.monitor]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # the loader has put it there, ahead of the step

    def configure_optimizers(self) -> Optimizer:
        return make_optimizer(self.method, self.config)

    def on_train_batch_start(self, batch: Item, batch_idx: int) -> None:
        self._batch = batch["step"]
        # Accumulated batches share the rate of the step they make.
        step = batch["step"] // self.schedule.accumulate
        # Set here and not by a scheduler: the rate follows from the position, so a checkpoint need not hold
        # its state.
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = learning_rate(self.config, step, self.schedule.steps)

    def training_step(self, batch: Item, batch_idx: int) -> Tensor:
        self.last = compute_step(self.method, batch["patches"], self.config, batch["step"], self.augmenting)
        _check_loss(self.last.loss, self.config.method)
        return self.last.loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        # Runs forward and backward by the closure that Lightning passes, then the optimiser.
        super().optimizer_step(*args, **kwargs)
        # Here and not after the batch: a checkpoint saved then must hold the updated teacher or queue.
        with torch.no_grad(), blame_plugin(self.config.method, "after_step"):
            self.method.after_step((self._batch + 1) / self.schedule.batches)


def _check_loss(loss: object, name: str) -> None:
    # Before `backward`, whose own error would not name the method.
    if not (isinstance(loss, Tensor) and loss.ndim == 0 and loss.requires_grad):
        raise PluginError(f"The loss of method '{name}' must be a scalar tensor with gradient, got {loss!r}.")
