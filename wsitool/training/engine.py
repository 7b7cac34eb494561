"""The one loop that trains, in pretraining and in fine-tuning: batches, losses, optimiser steps."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from wsitool.backbones.precision import Precision

__all__ = ["Trainable", "run_steps"]

B = TypeVar("B", contravariant=True)


class Trainable(Protocol[B]):
    """What is trained, as the loop asks for it; nothing in it needs to wait for the device."""

    def begin(self, batch: B) -> bool:
        """Before a batch: set rates; says whether the optimiser steps after it."""

    def loss(self, network: nn.Module, batch: B) -> Tensor:
        """The batch's loss by `network`, a scalar with gradient; under autocast."""

    def before_step(self) -> None:
        """With the gradients of the whole step there (scaled, in float16), before the optimiser."""

    def after_step(self, batch: B) -> None:
        """After the optimiser."""

    def end(self, batch: B) -> bool:
        """After a batch; says whether to stop."""


def run_steps(
    trainable: Trainable[B],
    batches: Iterable[B],
    *,
    network: nn.Module,
    optimizer: Optimizer,
    precision: Precision,
    accumulate: int = 1,
) -> None:
    """Train on `batches` until they or `trainable` end; the gradient of a step is the mean over `accumulate`.

    `network` may be wrapped for several processes: gradients then travel once a step.
    """
    optimizer.zero_grad(set_to_none=True)
    with precision.guarded(network):
        for batch in batches:
            steps = trainable.begin(batch)
            with _sending(network, now=steps):
                with precision.autocast():
                    loss = trainable.loss(network, batch)
                precision.backward(loss / accumulate if accumulate > 1 else loss)
            if steps:
                trainable.before_step()
                precision.step(optimizer)
                # Now, so that the next forward pass has the gradients' memory.
                optimizer.zero_grad(set_to_none=True)
                trainable.after_step(batch)
            if trainable.end(batch):
                return


def _sending(network: nn.Module, *, now: bool) -> AbstractContextManager[None]:
    # Around the forward pass too, which decides what the backward pass sends.
    if isinstance(network, DistributedDataParallel) and not now:
        return network.no_sync()
    return nullcontext()
