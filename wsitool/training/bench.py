"""How fast this machine reads, decodes, augments and steps, each measured alone, and which of them limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from wsitool.api import Params, resize
from wsitool.backbones.build import build_backbone
from wsitool.backbones.device import choose_device, place
from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import UsageError
from wsitool.loading import PatchLoader
from wsitool.methods.registry import blame_plugin, load_method
from wsitool.store.collection import Collection
from wsitool.store.reader import Tally

__all__ = ["BenchResult", "bench"]


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """Patches per second of each stage alone; `decode` is None for raw stores.

    `read` and `decode` are of one thread, `load` is the whole loader with its threads, `augment` and `step`
    run on `device`.
    """

    device: str
    threads: int
    batch_size: int
    read: float
    decode: float | None
    load: float
    augment: float
    step: float

    @property
    def expected(self) -> float:
        """Patches per second to expect of a training: loading runs beside augmenting and stepping."""
        # One after the other on the device, so their times add up; loading has threads of its own.
        return min(self.load, 1 / (1 / self.augment + 1 / self.step))

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
        return "The model limits, as it should: data and augmentation keep up."


def bench(
    collection: Collection,
    *,
    method: str = "simclr",
    backbone: str = "resnet18",
    batch_size: int = 64,
    image_size: int | None = None,
    threads: int = 2,
    device: str | None = None,
    seconds: float = 3.0,
    reporter: Reporter = SILENT,
) -> BenchResult:
    """Measure each stage for about `seconds` seconds; nothing is written.

    The first pass may read the disk and later ones the page cache: the figures are of data that was read
    before. UsageError if the collection has less than one batch.
    """
    if len(collection) < batch_size:
        raise UsageError(f"Measuring needs a batch of {batch_size} patches, and there are {len(collection)}.")
    device = str(choose_device(device or "auto"))
    with reporter.task("measuring", total=4, unit="stage") as task:
        read, decode = _reading(collection, batch_size, seconds)
        task.advance(note="read, decode")
        load = _loading(collection, batch_size, threads, device, seconds)
        task.advance(note="load")
        augment, step = _method_rates(collection, method, backbone, batch_size, image_size, device, seconds)
        task.advance(2, note="augment, step")
    return BenchResult(
        device=device,
        threads=threads,
        batch_size=batch_size,
        read=read,
        decode=decode,
        load=load,
        augment=augment,
        step=step,
    )


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
    patches = _repeat(once, seconds, "cpu")[0] * batch_size
    decode = patches / tally.decode_seconds if tally.decode_seconds else None
    return patches / tally.read_seconds, decode


def _loading(collection: Collection, batch_size: int, threads: int, device: str, seconds: float) -> float:
    # With the start of its threads, some milliseconds of `seconds`.
    loader = PatchLoader(collection, batch_size=batch_size, threads=threads, device=device)
    patches, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for batch in loader:
            patches += len(batch)
            if time.perf_counter() - began >= seconds:
                break
    return patches / (time.perf_counter() - began)


def _method_rates(
    collection: Collection,
    name: str,
    backbone: str,
    batch_size: int,
    image_size: int | None,
    device: str,
    seconds: float,
) -> tuple[float, float]:
    method_type = load_method(name)
    params: Params = method_type.params_type.from_preset("paper", {})
    encoder = build_backbone(backbone, init="random")
    with blame_plugin(name, "its set-up"):
        model = method_type(encoder, encoder.feature_dim, params)
    place(model, torch.device(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    # The same patches every time: reading has its own figure.
    indices = np.arange(batch_size)
    patches = torch.from_numpy(collection.read(indices)).permute(0, 3, 1, 2).to(device)
    patches = patches if image_size is None else resize(patches, image_size)
    rng = torch.Generator().manual_seed(0)

    def augment() -> None:
        with torch.no_grad(), blame_plugin(name, "its views"):
            model.views(patches, rng)

    # Views made once, so that the step is timed without them.
    with torch.no_grad(), blame_plugin(name, "its views"):
        views = model.views(patches, rng)

    def step() -> None:
        with blame_plugin(name, "its loss"):
            loss = model.loss(views).loss
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's, unannotated
        optimizer.step()

    rates = []
    for run in (augment, step):
        # The first call allocates, compiles kernels and fills caches.
        run()
        times, spent = _repeat(run, seconds, device)
        rates.append(times * batch_size / spent)
    return rates[0], rates[1]


def _repeat(run: Callable[[], None], seconds: float, device: str) -> tuple[int, float]:
    """Run until `seconds` have passed: how often, and in what time."""
    times, began = 0, time.perf_counter()
    while times == 0 or time.perf_counter() - began < seconds:
        run()
        times += 1
    # Kernels are only queued until here. One wait at the end, as the queue is in order.
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return times, time.perf_counter() - began
