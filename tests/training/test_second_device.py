"""Whole runs on a device that is no CPU: two epochs, checkpoints, an encoder, and the losses of the CPU."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from patch_stores import patch_folder, small_store
from value_device import value_device

from wsitool.backbones.build import build_backbone
from wsitool.training.checkpoint import load_checkpoint
from wsitool.training.run import pretrain

SMALL: dict[str, dict[str, Any]] = {
    "rotation": {},
    "jitter-rotation": {},
    "simclr": {},
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
_QUICK = ("rotation", "mae")


def _losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "method", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]
)
def test_two_epochs_of_each_method(tmp_path: Path, method: str) -> None:
    stores = (
        small_store(tmp_path / "labelled.h5", ("x", "y", None) * 4)
        if method == "supcon"
        else patch_folder(tmp_path / "kidney", each=6)
    )
    backbone = "timm:test_vit" if method in ("dino", "mae", "ibot") else "squeezenet1_1"
    options: dict[str, Any] = {
        "method": method,
        "params": SMALL[method],
        "backbone": backbone,
        "init": "random",
        "epochs": 2,
        "batch_size": 6,
        "image_size": 32,
        "lr": 1e-4,
        "device": "cpu",
    }
    with value_device() as counted:
        pretrain(stores, out=tmp_path / "there", **options)
    pretrain(stores, out=tmp_path / "here", **options)
    assert counted.kernels.total() > 1000 and counted.uploads
    there, here = _losses(tmp_path / "there"), _losses(tmp_path / "here")
    # The first views are those of the CPU within a 255th.
    assert len(there) == len(here) == 4 and there[0] == pytest.approx(here[0], rel=0.05)
    assert load_checkpoint(tmp_path / "there" / "last.ckpt")["batches"] == 4
    assert build_backbone(init=tmp_path / "there").name == backbone
