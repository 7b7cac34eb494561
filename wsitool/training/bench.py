"""How fast this machine reads, decodes, augments and steps, each alone and together, and what limits.

The steps are those of `pretrain`: its optimiser, precision, memory layout and loop.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsitool.api import Meta, Method, Params, Progress
from wsitool.backbones.build import build_backbone
from wsitool.backbones.device import choose_device, pin_threads
from wsitool.backbones.precision import effective_precision, tuned
from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import UsageError
from wsitool.loading import PatchLoader
from wsitool.loading.device_decode import effective_decode, say_decoding
from wsitool.methods.meta import check_needs, describer, find_pairs, first_batch
from wsitool.methods.registry import blame_plugin, load_method
from wsitool.store.collection import Collection
from wsitool.store.layout import Tally
from wsitool.store.options import Decode
from wsitool.training.config import PretrainConfig
from wsitool.training.engine import run_steps
from wsitool.training.fit import prepare
from wsitool.training.module import Schedule, Training, make_views
from wsitool.training.operations import Operations
from wsitool.training.parts import recipe_of
from wsitool.training.side_stream import SideStream
from wsitool.training.stream import BatchStream

__all__ = ["BenchResult", "Steps", "bench"]

# Of the rate of steps on views that are there already: below it, something else than the network limits.
_GOOD_SHARE = 0.95
_HALFWAY = Progress(step=50, steps=100, epoch=0, share=0.5, lr=1e-4)


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """Patches per second of each stage alone and of all together.

    `read` and `decode` are of one thread, `load` is the whole loader with its threads onto `device`; `upload`
    is the copy from page-locked memory alone, None on a CPU, as `decode` is for raw stores. `augment` makes
    the views of batches that are on the device, `step` trains on views that are. `training` is all of it.
    `kernels` and `waits` are what one batch asks of the device, and how often the host stands still for it.
    """

    device: str
    precision: str
    threads: int
    batch_size: int
    read: float
    decode: float | None
    load: float
    upload: float | None
    augment: float
    step: float
    training: float
    kernels: int
    waits: int

    @property
    def expected(self) -> float:
        """Patches per second that the stages alone allow: loading runs beside augmenting and stepping."""
        # One after the other on the device, so their times add up; loading has threads of its own.
        return min(self.load, 1 / (1 / self.augment + 1 / self.step))

    @property
    def share(self) -> float:
        """`training` as a share of `step`: what loading and views leave of the network's own speed."""
        return self.training / self.step

    @property
    def advice(self) -> str:
        """One sentence on what limits."""
        # A fifth in hand: a loader that is only just as fast leaves the step waiting at every hiccup.
        if self.load < 1.2 / (1 / self.augment + 1 / self.step):
            return (
                "Data limits: give the loader more --threads, keep the stores on a local disk, or write "
                "them with --codec raw if decoding is the slower part."
            )
        if self.augment < self.step:
            return "Augmentation limits: a smaller --image-size or a GPU speeds it up; data keeps up."
        if self.device != "cpu" and self.share < _GOOD_SHARE:
            return (
                f"The host limits: {self.kernels:,} operations a batch are more than it hands over in time; "
                "a larger --batch-size, or pretrain --compile, gives the device more to do for each."
            )
        return "The model limits, as it should: data and augmentation keep up."


def bench(
    collection: Collection,
    *,
    method: str = "simclr",
    backbone: str = "resnet18",
    batch_size: int = 64,
    image_size: int | None = None,
    threads: int = 2,
    device: str = "auto",
    precision: str = "auto",
    decode: Decode = "auto",
    seconds: float = 3.0,
    reporter: Reporter = SILENT,
) -> BenchResult:
    """Measure each stage for about `seconds` seconds; nothing is written.

    The figures are of data that was read before. UsageError if the collection has less than one batch.
    """
    _check_amount(collection, batch_size)
    hardware = choose_device(device)
    config = PretrainConfig(
        method=method,
        backbone=backbone,
        init="random",
        batch_size=batch_size,
        image_size=image_size,
        threads=threads,
        precision=effective_precision(precision, hardware.type),
        decode=effective_decode(decode, hardware),
    )
    say_decoding(config.decode, collection, reporter)
    with reporter.task("measuring", total=5, unit="stage") as task, tuned(hardware):
        read, decoded = _reading(collection, batch_size, seconds)
        task.advance(note="read, decode")
        load = _loading(collection, config, hardware, seconds)
        upload = _uploading(collection, batch_size, hardware, seconds)
        task.advance(note="load")
        steps = Steps(collection, config, hardware)
        augment = steps.rate_of_views(seconds)
        task.advance(note="augment")
        step = steps.rate(steps.same_views(), seconds)
        task.advance(note="step")
        training = steps.rate(steps.batches(), seconds)
        task.advance(note="all together")
        kernels, waits = steps.operations()
    return BenchResult(
        device=str(hardware),
        precision=config.precision,
        threads=threads,
        batch_size=batch_size,
        read=read,
        decode=decoded,
        load=load,
        upload=upload,
        augment=augment,
        step=step,
        training=training,
        kernels=kernels,
        waits=waits,
    )


def _check_amount(collection: Collection, batch_size: int) -> None:
    if len(collection) < batch_size:
        raise UsageError(f"Measuring needs a batch of {batch_size} patches, and there are {len(collection)}.")


def _reading(collection: Collection, batch_size: int, seconds: float) -> tuple[float, float | None]:
    rng = np.random.default_rng(0)
    side = collection.patch_size
    out = np.empty((batch_size, side, side, 3), dtype=np.uint8)
    tally = Tally()

    def once() -> None:
        # Random rows, as a shuffled epoch asks for them.
        collection.read_into(rng.integers(0, len(collection), batch_size), out, tally=tally)

    # Opening files and touching fresh memory is not what is measured.
    once()
    tally.read_seconds = tally.decode_seconds = 0.0
    patches = _repeat(once, seconds, torch.device("cpu"))[0] * batch_size
    decode = patches / tally.decode_seconds if tally.decode_seconds else None
    return patches / tally.read_seconds, decode


def _loading(collection: Collection, config: PretrainConfig, device: torch.device, seconds: float) -> float:
    # With the start of its threads, some milliseconds of `seconds`.
    patches, began = 0, time.perf_counter()
    for batch in _endless(collection, config, device):
        patches += len(batch["patches"])
        if time.perf_counter() - began >= seconds:
            break
    _wait_for(device)
    return patches / (time.perf_counter() - began)


def _uploading(collection: Collection, batch_size: int, device: torch.device, seconds: float) -> float | None:
    if device.type == "cpu":
        return None
    side = collection.patch_size
    pinned = torch.empty((batch_size, side, side, 3), dtype=torch.uint8).pin_memory()
    times, spent = _repeat(lambda: pinned.to(device, non_blocking=True), seconds, device)
    return times * batch_size / spent


def _endless(collection: Collection, config: PretrainConfig, device: torch.device) -> BatchStream:
    kind = load_method(config.method)
    loader = PatchLoader(
        collection,
        batch_size=config.patches_per_batch,
        threads=config.threads,
        drop_last=True,
        device=device,
        decode=config.decode,
        pairs=find_pairs(kind, collection),
    )
    # Whoever reads it stops by the clock.
    return BatchStream(loader, total=1 << 40, describe=describer(kind, collection))


Views = dict[str, Tensor]


class Steps:
    """The training of `pretrain`, measured in parts; each goes on from the weights of the one before."""

    def __init__(self, collection: Collection, config: PretrainConfig, device: torch.device) -> None:
        self._device = device
        kind = load_method(config.method)
        params: Params = kind.params_type.from_preset("paper", {})
        encoder = build_backbone(config.backbone, init="random")
        check_needs(kind, config.method, collection, encoder)
        config = self._config = config.with_recipe(recipe_of(kind, encoder)[0])
        with blame_plugin(config.method, "its set-up"):
            method: Method[Any] = kind(encoder, encoder.feature_dim, params)
        pin_threads()
        stream = _endless(collection, config, device)
        schedule = Schedule(per_epoch=1, epochs=stream.total)
        self._training: Training = prepare(method, encoder, config, schedule, stream, device)
        # The same patches every time: reading has its own figure.
        rows = torch.arange(config.patches_per_batch)
        self._patches, self._meta = first_batch(kind, collection, rows, device=str(device))
        self._deadline = math.inf
        self._batches = 0

    def rate_of_views(self, seconds: float) -> float:
        """Patches per second of making views of patches on the device."""
        numbers = itertools.count()

        def views() -> None:
            self._views(self._patches, next(numbers), self._meta)

        # The first call allocates, compiles kernels and fills caches.
        views()
        times, spent = _repeat(views, seconds, self._device)
        return times * self._config.patches_per_batch / spent

    def same_views(self) -> Iterator[Views]:
        """Views made once, again and again."""
        return itertools.repeat(self._views(self._patches, 0, self._meta))

    def batches(self) -> Iterator[Views]:
        """Views of batches of the loader, as a training has them."""
        side = SideStream(self._device)
        for item in self._training.stream:
            views = partial(self._views, item["patches"], item["step"], item["meta"])
            yield side.make(views, item["patches"])

    def rate(self, batches: Iterable[Views], seconds: float) -> float:
        """Patches per second of training on `batches`."""
        batches, self._deadline = iter(batches), math.inf
        self._train(itertools.islice(batches, 2))
        _wait_for(self._device)
        self._batches, began = 0, time.perf_counter()
        self._deadline = began + seconds
        self._train(batches)
        _wait_for(self._device)
        return self._batches * self._config.patches_per_batch / (time.perf_counter() - began)

    def operations(self) -> tuple[int, int]:
        """Kernels and waits of one batch, its views with it."""
        self._deadline = math.inf
        with Operations(self._device) as counted:
            self._train(iter((self._views(self._patches, 1, self._meta),)))
        # On a CPU nothing is waited for: an operation is over when it returns.
        return counted.kernels.total(), 0 if self._device.type == "cpu" else counted.waits

    def _views(self, patches: Tensor, number: int, meta: Meta | None) -> Views:
        return make_views(self._training.module.method, patches, self._config, number, meta)

    def _train(self, batches: Iterator[Views]) -> None:
        training = self._training
        run_steps(
            self,
            batches,
            network=training.module.method,
            optimizer=training.optimizer,
            precision=training.precision,
        )

    # What the loop asks for.

    def begin(self, batch: Views) -> bool:
        with blame_plugin(self._config.method, "before_step"):
            self._training.module.method.before_step(_HALFWAY)
        return True

    def loss(self, network: nn.Module, batch: Views) -> Tensor:
        with blame_plugin(self._config.method, "its loss"):
            loss: Tensor = self._training.module.method.loss(batch).loss
        return loss

    def before_step(self) -> None:
        pass

    def after_step(self, batch: Views) -> None:
        with torch.no_grad(), blame_plugin(self._config.method, "after_step"):
            self._training.module.method.after_step(0.5)

    def end(self, batch: Views) -> bool:
        self._batches += 1
        return time.perf_counter() >= self._deadline


def _repeat(run: Callable[[], object], seconds: float, device: torch.device) -> tuple[int, float]:
    """Run until `seconds` have passed: how often, and in what time."""
    _wait_for(device)
    times, began = 0, time.perf_counter()
    while times == 0 or time.perf_counter() - began < seconds:
        run()
        times += 1
    # Kernels are only queued until here. One wait at the end, as the queue is in order.
    _wait_for(device)
    return times, time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
