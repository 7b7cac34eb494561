"""What the engine costs on top of a bare torch loop doing the same steps.

Both sides run the same method on the same stores with the same loader, batch and optimiser; they are timed in
turns within one process, by the wall and by the CPU time of the process, which other programs do not stretch.
Run it for a table; pytest runs a small one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning
import torch
from numpy.typing import NDArray

from wsitool.backbones import build_backbone
from wsitool.loading import PatchLoader
from wsitool.plugins import load_method
from wsitool.store import open_collection
from wsitool.training import PretrainConfig, monitor, pretrain
from wsitool.training.module import compute_step
from wsitool.training.optim import make_optimizer

sys.path.insert(0, str(Path(__file__).parent.parent))
from patch_stores import patch_folder

Pair = NDArray[np.float64]  # wall, CPU
Times = list[Pair]


def _now() -> Pair:
    return np.array([time.perf_counter(), time.process_time()])


def bare_steps(stores: Path, config: PretrainConfig) -> Times:
    """Seconds (wall, CPU) of every step of a loop with nothing but load, views, loss and update."""
    encoder = build_backbone(config.backbone, init="random", seed=config.seed)
    kind = load_method(config.method)
    method = kind(encoder, encoder.feature_dim, kind.params_type.from_dict(config.params))
    method.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(method, config)
    loader = PatchLoader(
        open_collection(stores), batch_size=config.batch_size, seed=config.seed, drop_last=True
    )
    seconds: Times = []
    step = 0
    for epoch in range(config.epochs):
        loader.set_epoch(epoch)
        began = _now()
        for batch in loader:
            optimizer.zero_grad()
            loss = compute_step(method, batch.patches, config, step).loss
            loss.backward()
            optimizer.step()
            loss.item()
            seconds.append(_now() - began)
            began, step = _now(), step + 1
    return seconds


def engine_steps(stores: Path, config: PretrainConfig, out: Path) -> Times:
    """Seconds (wall, CPU) between the ends of the engine's steps, metrics included."""
    seconds: Times = []
    began = _now()
    original = monitor.Monitor.on_train_batch_end

    def timed(self: monitor.Monitor, *args: object, **kwargs: object) -> None:
        nonlocal began
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        seconds.append(_now() - began)
        began = _now()

    monitor.Monitor.on_train_batch_end = timed  # type: ignore[method-assign]
    try:
        values = config.to_dict()
        values.pop("init")
        pretrain(stores, out=out, init="random", overwrite=True, **values)
    finally:
        monitor.Monitor.on_train_batch_end = original  # type: ignore[method-assign]
    return seconds


def compare(config: PretrainConfig, *, each: int, size: int, rounds: int) -> tuple[Pair, Pair, int]:
    """Median seconds (wall, CPU) per step of the bare loop and of the engine, and the steps of each."""
    with tempfile.TemporaryDirectory() as folder:
        stores = patch_folder(Path(folder, "stores"), each=each, size=size)
        bare: Times = []
        engine: Times = []
        for _ in range(
            rounds
        ):  # in turns, and the epochs' first steps (start-up) and last (checkpoint) aside
            per_epoch = 2 * each // config.batch_size
            keep = [i for i in range(per_epoch * config.epochs) if i % per_epoch not in (0, per_epoch - 1)]
            one, two = bare_steps(stores, config), engine_steps(stores, config, Path(folder, "run"))
            bare += [one[i] for i in keep]
            engine += [two[i] for i in keep]
    return np.median(bare, axis=0), np.median(engine, axis=0), len(bare)


def _config(**options: object) -> PretrainConfig:
    values = {"backbone": "resnet18", "init": "random", "accelerator": "cpu", "epochs": 2, **options}
    return PretrainConfig(**values)  # type: ignore[arg-type]


@pytest.mark.benchmark
def test_smoke(tmp_path: Path) -> None:
    bare, engine, steps = compare(_config(method="rotation", batch_size=4), each=8, size=32, rounds=1)
    assert steps == 4 and (bare > 0).all() and (engine > 0).all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(
        f"torch {torch.__version__}, pytorch-lightning {pytorch_lightning.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    print("method     batch   px  steps  bare ms engine ms    wall     CPU")
    for method, batch, size in (("simclr", 32, 64), ("rotation", 16, 64)):
        config = _config(method=method, batch_size=batch)
        bare, engine, steps = compare(config, each=batch * 4, size=size, rounds=rounds)
        wall, cpu = engine / bare - 1
        print(
            f"{method:<10} {batch:>5} {size:>4} {steps:>6} {bare[0] * 1e3:>8.1f} {engine[0] * 1e3:>9.1f} "
            f"{wall:>+7.1%} {cpu:>+7.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
