"""Every built-in method trains through the engine; teachers and queues come back from a checkpoint."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from patch_stores import patch_folder, small_store
from safetensors.torch import load_file

from wsitool.backbones.source import make_network
from wsitool.curate.importing import import_images
from wsitool.store.collection import open_collection
from wsitool.training.run import pretrain

SMALL: dict[str, dict[str, Any]] = {
    "byol": {"hidden_dim": 64, "projection_dim": 32},
    "simsiam": {"projection_dim": 64, "predictor_dim": 16},
    "vicreg": {"projection_dim": 64},
    "barlow-twins": {"projection_dim": 64},
    "moco": {"queue": 30},
    "context-encoder": {"width": 16},
    "supcon": {},
    "neighbours": {},
    "dino": {"outputs": 64, "hidden_dim": 32, "local_crops": 2},
    "mae": {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2},
    "ibot": {"outputs": 32, "hidden_dim": 32, "local_crops": 2},
}
QUICK: dict[str, Any] = {"backbone": "resnet18", "init": "random", "batch_size": 8, "seed": 5, "lr": 1e-3}


@pytest.fixture(scope="module")
def kidney(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patch_folder(tmp_path_factory.mktemp("data") / "kidney")


def _quick(method: str) -> dict[str, Any]:
    transformer = {"backbone": "timm:test_vit", "image_size": 32}
    return QUICK | (transformer if method in ("dino", "mae", "ibot") else {})


def _column(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("method", SMALL)
@pytest.mark.parametrize("preset", ["paper", "histology"])
def test_a_method_trains_and_gives_an_encoder(kidney: Path, tmp_path: Path, method: str, preset: str) -> None:
    out, options = tmp_path / "run", _quick(method)
    if method == "supcon":
        kidney = small_store(tmp_path / "labelled.h5", ("x", "y", None) * 8)
    result = pretrain(
        kidney, method=method, preset=preset, params=SMALL[method], out=out, epochs=1, **options
    )
    losses = _column(out, "loss")
    assert len(losses) == result.steps == 3 and len(set(losses)) == 3
    # The network's own keys, and no teacher's tensor.
    assert load_file(result.encoder).keys() == make_network(options["backbone"]).trunk.state_dict().keys()


SLOW = ("byol", "ibot", "mae", "supcon", "neighbours")


# A checkpoint of the first epoch is what a run killed in the second one leaves behind.
@pytest.mark.parametrize(
    "method",
    [
        "moco",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("dino", "byol", "ibot", "mae", "supcon", "neighbours")
        ),
    ],
)
def test_a_resumed_teacher_and_queue_are_the_uninterrupted_ones(
    kidney: Path, tmp_path: Path, method: str
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    if method == "supcon":
        kidney = small_store(tmp_path / "labelled.h5", ("x", "y", None) * 8)
    settings = {"method": method, "params": SMALL[method], "epochs": 2, "accumulate": 2, **_quick(method)}
    code = f"""
from wsitool.training import monitor
from wsitool.curate.importing import import_images
from wsitool.store.collection import open_collection
from wsitool.training.run import pretrain
real = monitor.save_checkpoint
def save(*args, **kwargs):
    real(*args, **kwargs)
    import os
    os._exit(9)  # no handler runs, as with kill -9
monitor.save_checkpoint = save
pretrain({str(kidney)!r}, out={str(parted)!r}, **{settings!r})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (parted / "last.ckpt").is_file() and not (parted / "encoder.safetensors").exists()
    for out, resume in ((whole, False), (parted, True)):
        code = f"""
from wsitool.curate.importing import import_images
from wsitool.store.collection import open_collection
from wsitool.training.run import pretrain
pretrain({str(kidney)!r}, out={str(out)!r}, resume={resume}, **{settings!r})
"""
        # In processes of their own, as a user's runs are: what other tests loaded changes the last bits.
        subprocess.run([sys.executable, "-c", code], check=True)
    assert _column(parted, "loss") == _column(whole, "loss")
    left, right = (torch.load(run / "last.ckpt", weights_only=True) for run in (parted, whole))
    tensors = _tensors(left)
    if method not in ("mae", "supcon", "neighbours"):
        assert any("teacher" in name or "negatives" in name for name in tensors)
    assert all(torch.equal(value, _tensors(right)[name]) for name, value in tensors.items())


def _tensors(state: dict[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if isinstance(value, torch.Tensor):
            found[f"{prefix}{key}"] = value
        elif isinstance(value, dict):
            found |= _tensors(value, f"{prefix}{key}.")
    return found


# Settings by which a tiny network learns something in some 50 steps; a teacher that stands still is a task
# whose loss can only fall.
LEARNING: dict[str, dict[str, Any]] = {
    "neighbours": {"strength": 0.2, "min_scale": 0.5},
    "supcon": {"strength": 0.2, "min_scale": 0.5, "temperature": 0.5},
    "dino": {"outputs": 64, "hidden_dim": 64, "local_crops": 2, "frozen_share": 0.0},
    "mae": {"decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 4},
    "ibot": {"outputs": 64, "hidden_dim": 64, "local_crops": 2, "momentum": 1.0, "frozen_share": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", LEARNING)
def test_the_loss_falls_on_real_kidney_patches(real_data: Path, tmp_path: Path, method: str) -> None:
    import_images(real_data / "kidney_monuseg", tmp_path / "k", patch_size=64, codec="raw")
    patches = open_collection(tmp_path / "k")
    patches = patches.subset(range(0, len(patches), 12))
    # The slide a patch is of, as a label.
    patches = patches.with_labels(patches.store_index, [store.meta.name for store in patches.stores])
    out, backbone = tmp_path / "r", "timm:test_vit"
    options: dict[str, Any] = {"epochs": 12, "batch_size": 32, "lr": 1e-3, "optimizer": "adamw", "seed": 0}
    pretrain(
        patches, method=method, params=LEARNING[method], out=out, backbone=backbone, init="random", **options
    )
    losses = _column(out, "loss")
    if method == "dino":
        # A cross-entropy: what the teacher itself leaves open changes while it is centred, and is no error.
        losses = [a - b for a, b in zip(losses, _column(out, "teacher_entropy"), strict=True)]
        assert 0.1 < _column(out, "teacher_entropy")[-1] < 0.999 * math.log(64)
    print(method, [round(sum(losses[at : at + 5]) / 5, 3) for at in range(0, len(losses), 5)])
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    assert last < first - 0.1
    with (out / "metrics.csv").open(newline="") as file:
        assert float(list(csv.DictReader(file))[-1]["feature_std"]) > 0.02  # not collapsed
