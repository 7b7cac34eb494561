"""Whether a step fits in memory: a few are taken as training takes them, with parts that then go away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch

from wsitool.api import Method
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.precision import tuned
from wsitool.base.machine import FIRST_BATCH, largest_that_fits
from wsitool.base.progress import Reporter
from wsitool.errors import MemoryShortError
from wsitool.loading import PatchLoader
from wsitool.methods.meta import describer, find_pairs
from wsitool.store.collection import Collection
from wsitool.training.config import PretrainConfig
from wsitool.training.fit import fit, prepare
from wsitool.training.module import Schedule
from wsitool.training.stream import BatchStream, Item

__all__ = ["Untrained", "chosen_batch", "memory_advice", "try_steps"]

# The first makes the optimiser's own memory; only in the second is all of it there.
_STEPS = 2


class Untrained(Protocol):
    """The parts of a run that has taken no step."""

    config: PretrainConfig
    collection: Collection
    encoder: Encoder
    method: Method[Any]

    @property
    def device(self) -> torch.device: ...


def chosen_batch(
    config: PretrainConfig, make: Callable[[PretrainConfig], Untrained], reporter: Reporter
) -> PretrainConfig:
    """`config` with the largest of 64, 32, ... of which a step fits in place of a batch size "auto".

    `make` builds what trains; it is made anew for each number that is tried, and nothing of it stays.
    MemoryShortError where not even two patches fit.
    """
    if config.batch_size != "auto":
        return config
    patches = len(make(dataclasses.replace(config, batch_size=2)).collection)
    first = FIRST_BATCH
    # A run needs one whole batch.
    while first > max(2, patches):
        first //= 2
    size = largest_that_fits(
        lambda size: try_steps(make(dataclasses.replace(config, batch_size=size)), size), first, least=2
    )
    if size is None:
        raise MemoryShortError(
            "There is not enough memory for a step of 2 patches: lower --image-size, or take a smaller "
            "--backbone."
        )
    reporter.say(f"--batch-size auto is {size}: {'the largest' if size < first else 'a step'} that fits.")
    return dataclasses.replace(config, batch_size=size)


def memory_advice(run: Untrained, *, alone: bool) -> str:
    """What to do where memory is short; others that train with this process wait, so that none is tried."""
    fits = None
    if alone:
        fits = largest_that_fits(partial(try_steps, run), run.config.patches_per_batch // 2, least=2)
    return run.config.memory_advice(fits)


def try_steps(run: Untrained, size: int) -> None:
    """Two steps of `size` patches, by which the run is spoilt, and the random state is not."""
    config, device = dataclasses.replace(run.config, batch_size=size), run.device
    method, encoder, collection = run.method, run.encoder, run.collection
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        tuned(device, deterministic=config.deterministic),
    ):
        loader = PatchLoader(
            collection,
            batch_size=config.patches_per_batch,
            seed=config.seed,
            threads=1,
            drop_last=True,
            device=device,
            decode=config.decode,
            pairs=find_pairs(type(method), collection),
        )
        stream = BatchStream(loader, total=_STEPS, describe=describer(type(method), collection))
        schedule = Schedule(per_epoch=_STEPS, epochs=1)
        fit(prepare(method, encoder, config, schedule, stream, device), _Unwatched())


class _Unwatched:
    """In place of a run's monitor: nothing is looked at or written."""

    def begin(self) -> None:
        return

    def before_step(self) -> None:
        return

    def after_batch(self, item: Item) -> bool:
        return False
