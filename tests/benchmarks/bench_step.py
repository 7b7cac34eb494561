"""A whole SimCLR training step with loader and augmentation, against the step alone and against lightly.

python tests/benchmarks/bench_step.py [--patches N]
"""

from __future__ import annotations

import argparse
import io
import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from bench_stores import write
from PIL import Image
from side_by_side import Claim, measure, own_process, peer_version, print_table, tissue_patches
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18

from wsitool.backbones.device import place
from wsitool.loading import PatchLoader
from wsitool.store.collection import open_collection
from wsitool.store.opening import open_store
from wsitool_plugins.simclr import SimCLR, SimCLRParams

__all__ = ["run"]

_BATCH = 64
_OURS, _ALONE = "wsitool loader and augmentation", "the step alone, fixed views"
_LIGHTLY, _MIXED = "lightly's example, DataLoader(2)", "our step on lightly's views, DataLoader(2)"
Views = dict[str, Tensor]
Loss = Callable[[Views], Tensor]
Model = Callable[[], tuple[nn.Module, int]]


class _Jpegs(Dataset[tuple[Tensor, Tensor]]):
    """What a lightly script does: a PIL image and lightly's transform for every patch, in a worker."""

    def __init__(self, encoded: list[bytes], size: int) -> None:
        from lightly.transforms import SimCLRTransform

        none = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
        self._encoded, self._transform = encoded, SimCLRTransform(size, cj_strength=1.0, normalize=none)

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        a, b = self._transform(Image.open(io.BytesIO(self._encoded[index])))
        return a, b


def full_model() -> tuple[nn.Module, int]:
    """resnet18 and its number of features."""
    network = resnet18(weights=None)
    network.fc = nn.Identity()
    return network, 512


def small_model() -> tuple[nn.Module, int]:
    """The first two stages of resnet18."""
    network = resnet18(weights=None)
    early = (network.conv1, network.bn1, network.relu, network.maxpool, network.layer1, network.layer2)
    return nn.Sequential(*early, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 128


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every candidate does in a turn: `steps` steps of a model on the patches of a store."""

    store: Path
    size: int
    model: Model
    steps: int


def run(folder: Path, model: Model, *, number: int, size: int, steps: int, rounds: int) -> dict[str, float]:
    """Patches per second of training `steps` steps a turn on `number` patches of `size` pixels."""
    path = write(folder / f"{size}.h5", "jpeg", tissue_patches(number, size))
    work = Work(store=path, size=size, model=model, steps=steps)
    with ExitStack() as stack:
        candidates = stack.enter_context(own_process(_ours, work))
        if peer_version("lightly"):
            candidates |= stack.enter_context(own_process(_lightlys, work))
        return measure(candidates, rounds=rounds)


def _ours(work: Work) -> dict[str, Callable[[], int]]:
    step, views = _our_step(work.model), _our_views(work)
    found = {_OURS: views, _ALONE: itertools.repeat(next(views))}
    if peer_version("lightly"):
        found[_MIXED] = _lightly_views(work)
    return {name: partial(_train, work.steps, *step, own) for name, own in found.items()}


def _lightlys(work: Work) -> dict[str, Callable[[], int]]:
    return {_LIGHTLY: partial(_train, work.steps, *_lightly_step(work.model), _lightly_views(work))}


def _train(steps: int, loss: Loss, optimizer: Optimizer, views: Iterator[Views]) -> int:
    for own in itertools.islice(views, steps):
        optimizer.zero_grad()
        loss(own).backward()
        optimizer.step()
    return steps * _BATCH


def _our_step(model: Model) -> tuple[Loss, Optimizer]:
    torch.manual_seed(0)
    method = SimCLR(*model(), SimCLRParams())
    place(method, torch.device("cpu"))
    return lambda views: method.loss(views).loss, torch.optim.Adam(method.parameters(), lr=1e-4)


def _our_views(work: Work) -> Iterator[Views]:
    loader = PatchLoader(open_collection(work.store), batch_size=_BATCH, drop_last=True)
    method = SimCLR(nn.Identity(), 1, SimCLRParams())
    rng = torch.Generator().manual_seed(0)
    while True:
        for batch in loader:
            with torch.no_grad():
                views = method.views(batch.patches, rng)
            yield views


def _lightly_step(model: Model) -> tuple[Loss, Optimizer]:
    """The step of lightly's own SimCLR example, on the same model and optimiser."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    torch.manual_seed(0)
    backbone, features = model()
    network = nn.Sequential(backbone, SimCLRProjectionHead(features, features, 128))
    criterion = NTXentLoss(temperature=0.5)

    def loss(views: Views) -> Tensor:
        found: Tensor = criterion(network(views["a"]), network(views["b"]))
        return found

    return loss, torch.optim.Adam(network.parameters(), lr=1e-4)


def _lightly_views(work: Work) -> Iterator[Views]:
    store = open_store(work.store)
    loader = DataLoader(
        _Jpegs(store.encoded(range(len(store))), work.size),
        batch_size=_BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=multiprocessing.get_context("forkserver"),
    )
    while True:
        for a, b in loader:
            yield {"a": a, "b": b}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=640)
    number = parser.parse_args(arguments).patches
    versions = ", ".join(filter(None, map(peer_version, ("torch", "torchvision", "lightly"))))
    # Many steps a turn: a DataLoader begins each with four batches made during the turns of the others.
    with tempfile.TemporaryDirectory() as folder:
        rates = run(Path(folder), full_model, number=number, size=96, steps=6, rounds=5)
        claims = [
            Claim(ours=_OURS, peer=_ALONE, factor=0.95),
            Claim(ours=_OURS, peer=_LIGHTLY, factor=1),
            Claim(ours=_OURS, peer=_MIXED, factor=1),
        ]
        print_table(f"SimCLR step, resnet18, 96 px, batch 64, 2 cores ({versions})", rates, claims)
        rates = run(Path(folder), small_model, number=number, size=64, steps=24, rounds=5)
        # The last line is what a loader and an augmentation without any cost would reach.
        claims = [Claim(ours=ours, peer=_LIGHTLY, factor=2) for ours in (_OURS, _ALONE)]
        print_table("SimCLR step, first two stages of resnet18, 64 px, batch 64", rates, claims)


if __name__ == "__main__":
    main()
