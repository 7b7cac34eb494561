"""Every built-in method trains through the engine; teachers and queues come back from a checkpoint."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from patch_stores import patch_folder
from safetensors.torch import load_file

from wsitool.training.run import pretrain

SMALL: dict[str, dict[str, Any]] = {
    "byol": {"hidden_dim": 64, "projection_dim": 32},
    "simsiam": {"projection_dim": 64, "predictor_dim": 16},
    "vicreg": {"projection_dim": 64},
    "barlow-twins": {"projection_dim": 64},
    "moco": {"queue": 30},
    "context-encoder": {"width": 16},
}
QUICK: dict[str, Any] = {"backbone": "resnet18", "init": "random", "batch_size": 8, "seed": 5, "lr": 1e-3}


@pytest.fixture(scope="module")
def kidney(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patch_folder(tmp_path_factory.mktemp("data") / "kidney")


def _column(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("method", SMALL)
@pytest.mark.parametrize("preset", ["paper", "histology"])
def test_a_method_trains_and_gives_an_encoder(kidney: Path, tmp_path: Path, method: str, preset: str) -> None:
    out = tmp_path / "run"
    result = pretrain(kidney, method=method, preset=preset, params=SMALL[method], out=out, epochs=1, **QUICK)
    losses = _column(out, "loss")
    assert len(losses) == result.steps == 3 and len(set(losses)) == 3
    assert len(load_file(result.encoder)) == 120  # ResNet-18 without fc, and no teacher's tensor


# A checkpoint of the first epoch is what a run killed in the second one leaves behind.
@pytest.mark.parametrize("method", ["byol", "moco"])
def test_a_resumed_teacher_and_queue_are_the_uninterrupted_ones(
    kidney: Path, tmp_path: Path, method: str
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    settings = {"method": method, "params": SMALL[method], "epochs": 2, "accumulate": 2, **QUICK}
    code = f"""
from wsitool.training import monitor
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
from wsitool.training.run import pretrain
pretrain({str(kidney)!r}, out={str(out)!r}, resume={resume}, **{settings!r})
"""
        # In processes of their own, as a user's runs are: what other tests loaded changes the last bits.
        subprocess.run([sys.executable, "-c", code], check=True)
    assert _column(parted, "loss") == _column(whole, "loss")
    left, right = (torch.load(run / "last.ckpt", weights_only=True) for run in (parted, whole))
    tensors = _tensors(left)
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
