"""What the engine costs on top of a bare torch loop doing the same steps.

Both sides run the same method on the same stores with the same loader, batch and optimiser; they are timed in
turns within one process, so that a busy machine slows both. Run it for a table; pytest runs a small one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pytest
import pytorch_lightning
import torch

from wsitool.backbones import build_backbone
from wsitool.loading import PatchLoader
from wsitool.plugins import load_method
from wsitool.store import open_collection
from wsitool.training import PretrainConfig, monitor, pretrain
from wsitool.training.module import compute_step
from wsitool.training.optim import make_optimizer

sys.path.insert(0, str(Path(__file__).parent.parent))
from patch_stores import patch_folder


def bare_steps(stores: Path, config: PretrainConfig) -> list[float]:
    """Seconds of every step of a loop with nothing but the steps: load, views, loss, backward, update."""
    encoder = build_backbone(config.backbone, init="random", seed=config.seed)
    kind = load_method(config.method)
    method = kind(encoder, encoder.feature_dim, kind.params_type.from_dict(config.params))
    method.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(method, config)
    loader = PatchLoader(
        open_collection(stores), batch_size=config.batch_size, seed=config.seed, drop_last=True
    )
    seconds, step = [], 0
    for epoch in range(config.epochs):
        loader.set_epoch(epoch)
        began = time.perf_counter()
        for batch in loader:
            optimizer.zero_grad()
            loss = compute_step(method, batch.patches, config, step).loss
            loss.backward()
            optimizer.step()
            loss.item()
            seconds.append(time.perf_counter() - began)
            began, step = time.perf_counter(), step + 1
    return seconds


def engine_steps(stores: Path, config: PretrainConfig, out: Path) -> list[float]:
    """Seconds between the ends of the engine's steps, logging and metrics included, checkpoints aside."""
    seconds: list[float] = []
    began = time.perf_counter()
    original = monitor.Monitor.on_train_batch_end

    def timed(self: monitor.Monitor, *args: object, **kwargs: object) -> None:
        nonlocal began
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()

    monitor.Monitor.on_train_batch_end = timed  # type: ignore[method-assign]
    try:
        values = config.to_dict()
        values.pop("init")
        pretrain(stores, out=out, init="random", overwrite=True, **values)
    finally:
        monitor.Monitor.on_train_batch_end = original  # type: ignore[method-assign]
    return seconds


def compare(config: PretrainConfig, *, each: int, size: int, rounds: int) -> tuple[float, float, int]:
    """Median seconds per step of the bare loop and of the engine, and the number of steps of each."""
    with tempfile.TemporaryDirectory() as folder:
        stores = patch_folder(Path(folder, "stores"), each=each, size=size)
        bare: list[float] = []
        engine: list[float] = []
        for _ in range(
            rounds
        ):  # in turns, and the epochs' first steps (start-up) and last (checkpoint) aside
            per_epoch = 2 * each // config.batch_size
            keep = [i for i in range(per_epoch * config.epochs) if i % per_epoch not in (0, per_epoch - 1)]
            one, two = bare_steps(stores, config), engine_steps(stores, config, Path(folder, "run"))
            bare += [one[i] for i in keep]
            engine += [two[i] for i in keep]
    return statistics.median(bare), statistics.median(engine), len(bare)


def _config(**options: object) -> PretrainConfig:
    values = {"backbone": "resnet18", "init": "random", "accelerator": "cpu", "epochs": 2, **options}
    return PretrainConfig(**values)  # type: ignore[arg-type]


@pytest.mark.benchmark
def test_smoke(tmp_path: Path) -> None:
    bare, engine, steps = compare(_config(method="rotation", batch_size=4), each=8, size=32, rounds=1)
    assert steps == 4 and bare > 0 and engine > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(
        f"torch {torch.__version__}, pytorch-lightning {pytorch_lightning.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    print(
        f"{'method':<10} {'batch':>5} {'px':>4} {'steps':>6} {'bare ms':>8} {'engine ms':>9} {'overhead':>9}"
    )
    for method, batch, size in (("simclr", 32, 64), ("simclr", 32, 96), ("rotation", 16, 64)):
        config = _config(method=method, batch_size=batch)
        bare, engine, steps = compare(config, each=batch * 6, size=size, rounds=rounds)
        print(
            f"{method:<10} {batch:>5} {size:>4} {steps:>6} {bare * 1e3:>8.1f} {engine * 1e3:>9.1f} "
            f"{engine / bare - 1:>+9.1%}"
        )


if __name__ == "__main__":
    main()
