"""Pretraining as the loop of `engine` asks for it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wsitool.api import Method, Progress, world_size
from wsitool.backbones.device import keep_freed_memory
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.precision import Precision
from wsitool.methods.registry import blame_plugin
from wsitool.training.config import PretrainConfig
from wsitool.training.engine import run_steps
from wsitool.training.module import PretrainModule, Schedule, Training
from wsitool.training.optim import hold_frozen, learning_rate, make_optimizer, set_rates
from wsitool.training.ranks import shared
from wsitool.training.stream import BatchStream, Item
from wsitool.training.sync_norm import synchronise

__all__ = ["Watch", "fit", "prepare"]


class Watch(Protocol):
    """What is done around the steps; `Monitor` does it for a run."""

    def begin(self) -> None:
        """Before the first batch."""

    def before_step(self) -> None:
        """With the gradients of a step there."""

    def after_batch(self, item: Item) -> bool:
        """After a batch and its step, if it made one; says whether to stop."""


def prepare(
    method: Method[Any],
    encoder: Encoder,
    config: PretrainConfig,
    schedule: Schedule,
    stream: BatchStream,
    device: torch.device,
) -> Training:
    """All that trains `method`, moved to `device`; `encoder` is its backbone, which may be compiled.

    Every process of the run must have joined the others.
    """
    keep_freed_memory(device)
    # Before the optimiser, as parameters are replaced.
    if world_size() > 1:
        synchronise(method, device)
    module = PretrainModule(method, config, schedule).to(device)
    # The whole module, teachers included.
    module.to(memory_format=torch.channels_last)
    if config.compile:
        # In place: the names in its state dict stay.
        encoder.trunk.compile()
    return Training(
        module=module,
        optimizer=make_optimizer(method, config),
        precision=Precision(config.precision, device),
        stream=stream,
    )


def fit(training: Training, monitor: Watch) -> None:
    """Train on the stream until it ends or `monitor` says to stop; its errors and the method's pass."""
    module = training.module
    monitor.begin()
    run_steps(
        _Pretraining(training, monitor),
        training.stream,
        network=shared(module, module.device),
        optimizer=training.optimizer,
        precision=training.precision,
        accumulate=module.schedule.accumulate,
    )


class _Pretraining:
    """The work of one run, batch by batch."""

    def __init__(self, training: Training, monitor: Watch) -> None:
        self._training, self._monitor = training, monitor
        self._module = training.module
        self._share = 0.0

    def begin(self, batch: Item) -> bool:
        config, schedule = self._module.config, self._module.schedule
        # Accumulated batches share the rate of the step they make.
        step = batch["step"] // schedule.accumulate
        # Set here and not by a scheduler: the rate follows from the position, so a checkpoint need not hold
        # its state.
        set_rates(self._training.optimizer, config, step, schedule.steps)
        self._share = step / schedule.steps
        # Before the first of accumulated batches: they are of one step.
        if batch["step"] % schedule.accumulate == 0:
            progress = Progress(
                step=step,
                steps=schedule.steps,
                epoch=batch["step"] // schedule.per_epoch,
                share=self._share,
                lr=learning_rate(config, step, schedule.steps),
            )
            with blame_plugin(config.method, "before_step"):
                self._module.method.before_step(progress)
        return schedule.is_step(batch["step"])

    def loss(self, network: nn.Module, batch: Item) -> Tensor:
        # Not by name: several processes' wrapper looks at what is given by name.
        loss: Tensor = network(batch["patches"], batch["step"], batch["meta"])
        return loss

    def before_step(self) -> None:
        self._monitor.before_step()
        hold_frozen(self._training.optimizer, self._share)
        self._training.precision.clip(self._training.optimizer, self._module.config.recipe.clip_grad)

    def after_step(self, batch: Item) -> None:
        # Here and not after the batch: a checkpoint saved then must hold the updated teacher or queue.
        module = self._module
        with torch.no_grad(), blame_plugin(module.config.method, "after_step"):
            module.method.after_step((batch["step"] + 1) / module.schedule.batches)

    def end(self, batch: Item) -> bool:
        return self._monitor.after_batch(batch)
