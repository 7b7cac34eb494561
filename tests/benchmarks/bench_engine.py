"""What the engine costs on top of a bare torch loop doing the same steps.

A bare step - next batch, views, loss, backward, update, nothing else - is taken after every step of a real
`pretrain`, within the same process: the two alternate, so that whatever slows the machine slows both. The
bare loop has its own model, optimiser and loader of the same kind. Time is summed over blocks of steps, which
hold the rows, bars and logs written now and then as well, and the median block is told. The ends of epochs
(features, checkpoint) are left out. Run it for a table; pytest runs a small one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wsitool.backbones.build import build_backbone
from wsitool.base.console import console_reporter
from wsitool.loading import PatchLoader
from wsitool.methods.registry import load_method
from wsitool.store.collection import open_collection
from wsitool.training import monitor
from wsitool.training.config import PretrainConfig
from wsitool.training.optim import make_optimizer
from wsitool.training.run import pretrain
from wsitool.training.stream import Item

sys.path.insert(0, str(Path(__file__).parent.parent))
from patch_stores import patch_folder

Pair = NDArray[np.float64]  # seconds by the wall, of the main thread's CPU
_WARM_UP = 3


def _now() -> Pair:
    return np.array([time.perf_counter(), time.thread_time()])


def bare_loop(stores: Path, config: PretrainConfig) -> Iterator[None]:
    """Take one step of a loop with nothing but load, views, loss and update each time it is asked."""
    encoder = build_backbone(config.backbone, init="random", seed=config.seed)
    kind = load_method(config.method)
    method = kind(encoder, encoder.feature_dim, kind.params_type.from_dict(config.params))
    method.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(method, config)
    loader = PatchLoader(
        open_collection(stores), batch_size=config.batch_size, seed=config.seed, drop_last=True
    )
    rng = torch.Generator().manual_seed(config.seed)
    for batch in loader:
        optimizer.zero_grad()
        with torch.no_grad():
            views = method.views(batch.patches, rng)
        method.loss(views).loss.backward()
        optimizer.step()
        yield


@dataclass(frozen=True)
class Measured:
    """Seconds (wall, main thread's CPU) of the steps of each loop, in the order they were taken."""

    bare: Pair
    engine: Pair

    def per_step(self, block: int) -> tuple[Pair, Pair]:
        """Median over blocks of a bare step's seconds, and of what the engine adds to it."""
        count = len(self.bare) // block
        bare, engine = (
            times[: count * block].reshape(count, block, 2).mean(axis=1) for times in (self.bare, self.engine)
        )
        return np.median(bare, axis=0), np.median(engine - bare, axis=0)


def measure(stores: Path, config: PretrainConfig, out: Path, *, quiet: bool = True) -> Measured:
    """Train by the engine, a bare step after each of its own; the first steps and the last are left out."""
    bare, engine = [], []
    steps = bare_loop(stores, config)
    original = monitor.Monitor.after_batch
    began = _now()

    def timed(self: monitor.Monitor, item: Item) -> bool:
        nonlocal began
        stops = original(self, item)
        ended = _now()
        engine.append(ended - began)
        next(steps)
        began = _now()
        bare.append(began - ended)
        return stops

    monitor.Monitor.after_batch = timed  # type: ignore[method-assign]
    try:
        values = config.to_dict()
        values.pop("init")
        pretrain(
            stores, out=out, init="random", overwrite=True, reporter=console_reporter(quiet=quiet), **values
        )
    finally:
        monitor.Monitor.after_batch = original  # type: ignore[method-assign]
    keep = slice(_WARM_UP, -1)
    return Measured(np.array(bare[keep]), np.array(engine[keep]))


def _config(**options: object) -> PretrainConfig:
    values = {"backbone": "resnet18", "init": "random", "device": "cpu", "epochs": 1, **options}
    return PretrainConfig(**values)  # type: ignore[arg-type]


@pytest.mark.benchmark
def test_smoke(tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "stores", each=16, size=32)
    measured = measure(stores, _config(method="rotation", batch_size=4), tmp_path / "run")
    assert len(measured.bare) == len(measured.engine) == 4
    bare, _ = measured.per_step(2)
    assert (bare > 0).all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=44, help="steps of each loop; small ones take ten times as many"
    )
    steps = parser.parse_args().steps
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; the bar: at most 3 % of the step")
    print("method    backbone       batch   px  steps   bare ms  engine adds ms   wall  main thread's CPU")
    cases = (
        ("simclr", "resnet18", 64, 96, steps, 10),
        ("simclr", "resnet18", 32, 64, 2 * steps, 10),
        ("rotation", "squeezenet1_1", 4, 32, 10 * steps, 20),
    )
    for method, backbone, batch, size, count, block in cases:
        config = _config(method=method, backbone=backbone, batch_size=batch)
        with tempfile.TemporaryDirectory() as folder:
            stores = patch_folder(Path(folder, "stores"), each=batch * count // 2, size=size)
            measured = measure(stores, config, Path(folder, "run"))
        bare, added = measured.per_step(block)
        print(
            f"{method:<9} {backbone:<14} {batch:>5} {size:>4} {len(measured.bare):>6} {bare[0] * 1e3:>9.1f}"
            f" {added[0] * 1e3:>+15.2f} {added[0] / bare[0]:>+6.1%} {added[1] / bare[1]:>+10.1%}"
            f" ({added[1] * 1e3:+.2f} ms)",
            flush=True,
        )


if __name__ == "__main__":
    main()
