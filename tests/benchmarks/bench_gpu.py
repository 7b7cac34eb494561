"""SimCLR on a device: our loader and views beside those of torchvision, kornia and lightly scripts.

python tests/benchmarks/bench_gpu.py [--device cuda] [--seconds 8]

Needs no network, and five minutes on a GPU. All candidates train the same network with the same optimiser,
precision and memory layout, in turn; only where the views come from differs.
"""

from __future__ import annotations

import argparse
import io
import itertools
import multiprocessing
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from bench_stores import write
from PIL import Image
from side_by_side import Claim, peer_version, print_table, tissue_patches
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from wsitool.backbones.device import choose_device
from wsitool.backbones.precision import effective_precision, tuned
from wsitool.store.collection import Collection, open_collection
from wsitool.training.bench import Steps, bench
from wsitool.training.config import PretrainConfig

__all__ = ["run"]

_OURS, _FIXED = "wsitool loader and views", "the step alone, fixed views"
_TORCHVISION, _LIGHTLY = "DataLoader + torchvision v2", "DataLoader + lightly's SimCLRTransform"
_KORNIA = "DataLoader + kornia on the device"
_CLAIMS = [
    Claim(ours=_OURS, peer=_FIXED, factor=0.95),
    Claim(ours=_OURS, peer=_TORCHVISION, factor=5),
    Claim(ours=_OURS, peer=_LIGHTLY, factor=5),
    Claim(ours=_OURS, peer=_KORNIA, factor=1),
]
_LEAST_VIEWS = 10_000  # patches/s of two views each at 224 px, on a data-centre GPU
Views = dict[str, Tensor]
Transform = Callable[[Image.Image], tuple[Tensor, ...]]


class _Jpegs(Dataset[tuple[Tensor, ...]]):
    """The patches of a store as a script has them: a PIL image and a transform for each, in a worker."""

    def __init__(self, encoded: list[bytes], transform: Transform) -> None:
        self._encoded, self._transform = encoded, transform

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self._transform(Image.open(io.BytesIO(self._encoded[index])))


class _TorchvisionViews:
    """SimCLR's two views by torchvision v2."""

    def __init__(self, size: int) -> None:
        kernel = size // 10 // 2 * 2 + 1
        self._view = v2.Compose(
            [
                v2.PILToTensor(),
                v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __call__(self, image: Image.Image) -> tuple[Tensor, ...]:
        return self._view(image), self._view(image)


class _Bytes:
    """The image as uint8 (3, P, P), for views that are made on the device."""

    def __call__(self, image: Image.Image) -> tuple[Tensor, ...]:
        return (v2.functional.pil_to_tensor(image),)


def run(
    collection: Collection, config: PretrainConfig, device: torch.device, *, seconds: float, rounds: int
) -> dict[str, float]:
    """Patches per second of training on each candidate's views: medians of `rounds` turns of `seconds`."""
    steps = Steps(collection, config, device)
    views: dict[str, Iterator[Views]] = {_OURS: steps.batches(), _FIXED: steps.same_views()}
    views |= {name: iter(made) for name, made in _peers(collection, config, device).items()}
    rates: dict[str, list[float]] = {name: [] for name in views}
    for _ in range(rounds):
        for name, batches in views.items():
            rates[name].append(steps.rate(batches, seconds))
    return {name: statistics.median(turns) for name, turns in rates.items()}


def _peers(
    collection: Collection, config: PretrainConfig, device: torch.device
) -> dict[str, Iterator[Views]]:
    encoded = [data for store in collection.stores for data in store.encoded(range(len(store)))]
    size = config.image_size or collection.patch_size

    def loaded(transform: Transform) -> Iterator[tuple[Tensor, ...]]:
        loader = DataLoader(
            _Jpegs(encoded, transform),
            batch_size=config.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=os.cpu_count() or 1,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
            multiprocessing_context=multiprocessing.get_context("forkserver"),
        )
        for batch in itertools.chain.from_iterable(itertools.repeat(loader)):
            # channels last, as the networks are; what a careful script does
            yield tuple(
                part.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
                for part in batch
            )

    def pairs(transform: Transform) -> Iterator[Views]:
        return ({"a": a, "b": b} for a, b in loaded(transform))

    peers = {_TORCHVISION: pairs(_TorchvisionViews(size))}
    if peer_version("lightly"):
        from lightly.transforms import SimCLRTransform

        none = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
        peers[_LIGHTLY] = pairs(SimCLRTransform(size, cj_strength=1.0, normalize=none))
    if peer_version("kornia"):
        view = _kornia_view(size)
        peers[_KORNIA] = (
            {"a": view(images), "b": view(images)}
            for images in (x.float() / 255 for (x,) in loaded(_Bytes()))
        )
    return peers


def _kornia_view(size: int) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kornia's own deprecations at import
        import kornia.augmentation as k
    kernel = size // 10 // 2 * 2 + 1
    view: Callable[[Tensor], Tensor] = k.AugmentationSequential(
        k.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        k.RandomHorizontalFlip(),
        k.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        k.RandomGrayscale(p=0.2),
        k.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5),
    )
    return view


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--patches", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=max(2, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(arguments)
    device = choose_device(asked.device)
    config = PretrainConfig(
        method="simclr",
        backbone=asked.backbone,
        init="random",
        batch_size=asked.batch_size,
        threads=asked.threads,
        precision=effective_precision("auto", device.type),
    )
    name = torch.cuda.get_device_name() if device.type == "cuda" else str(device)
    versions = ", ".join(filter(None, map(peer_version, ("torch", "torchvision", "kornia", "lightly"))))
    with tempfile.TemporaryDirectory() as folder:
        collection = open_collection(
            write(Path(folder) / "p.h5", "jpeg", tissue_patches(asked.patches, asked.size))
        )
        print(f"{name}, {os.cpu_count()} CPUs; {asked.backbone}, {asked.size} px, batch {asked.batch_size}")
        stages = bench(
            collection,
            backbone=asked.backbone,
            batch_size=asked.batch_size,
            threads=asked.threads,
            device=str(device),
            seconds=asked.seconds / 2,
        )
        for stage in ("read", "decode", "load", "upload", "augment", "step", "training"):
            rate = getattr(stages, stage)
            if rate is not None:
                print(f"  {stage:<20}{rate:>12,.0f} patches/s")
        print(f"  {stages.kernels:,} operations and {stages.waits} waits a batch; {stages.advice}")
        if device.type == "cuda" and asked.size == 224:
            verdict = "met" if stages.augment >= _LEAST_VIEWS else "NOT MET"
            print(f"  views: {stages.augment:,.0f} patches/s (at least {_LEAST_VIEWS:,}: {verdict})")
        with tuned(device):
            rates = run(collection, config, device, seconds=asked.seconds, rounds=asked.rounds)
        print_table(f"Training, {config.precision} bits ({versions})", rates, _CLAIMS)


if __name__ == "__main__":
    main()
