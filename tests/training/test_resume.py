"""Going on from any checkpoint is the uninterrupted run, also for methods with teachers and queues."""

from __future__ import annotations

import csv
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from patch_stores import patch_folder
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file

from wsitool.errors import TrainingError, UsageError
from wsitool.training import monitor
from wsitool.training.checkpoint import load_checkpoint
from wsitool.training.run import pretrain

QUICK: dict[str, Any] = {"backbone": "squeezenet1_1", "init": "random", "epochs": 2, "batch_size": 4}
CASES = {
    "moco": {"params": {"queue": 24, "projection_dim": 8}},
    "byol": {"params": {"hidden_dim": 16, "projection_dim": 8}},
    "rotation": {"accumulate": 3, "optimizer": "lars", "warmup": 0.3},
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patch_folder(tmp_path_factory.mktemp("data") / "kidney", each=10)


def _column(run: Path, name: str) -> list[str]:
    with (run / "metrics.csv").open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


@pytest.mark.parametrize("method", CASES)
def test_every_checkpoint_leads_to_the_same_end(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    options = {**QUICK, **CASES[method], "method": method, "save_every": 1}
    real = monitor.save_checkpoint

    def keep_a_copy(path: Path, *args: Any, batches: int, **more: Any) -> None:
        real(path, *args, batches=batches, **more)
        if batches in (3, 6):
            shutil.copytree(path.parent, tmp_path / f"at-{batches}")

    monkeypatch.setattr(monitor, "save_checkpoint", keep_a_copy)
    pretrain(stores, out=tmp_path / "whole", **options)
    monkeypatch.undo()
    for batches in (3, 6):
        out = tmp_path / f"at-{batches}"
        pretrain(stores, out=out, resume=True, **options)
        for name in ("step", "loss", "lr"):
            assert _column(out, name) == _column(tmp_path / "whole", name)
        ends = [
            torch.load(run / "last.ckpt", weights_only=True)["method"] for run in (out, tmp_path / "whole")
        ]
        assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[1])
        one, two = (load_file(run / "encoder.safetensors") for run in (out, tmp_path / "whole"))
        assert all(torch.equal(one[key], two[key]) for key in two)


def test_resuming_a_finished_run_changes_nothing(stores: Path, tmp_path: Path) -> None:
    pretrain(stores, method="rotation", out=tmp_path / "r", **QUICK)
    before = (tmp_path / "r" / "metrics.csv").read_bytes()
    result = pretrain(stores, method="rotation", out=tmp_path / "r", resume=True, **QUICK)
    assert (tmp_path / "r" / "metrics.csv").read_bytes() == before and result.loss > 0


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"format": 99}, tmp_path / "other.ckpt")
    for name, message in (
        ("text.ckpt", "cannot be read"),
        ("other.ckpt", "is not a checkpoint of this wsitool"),
    ):
        with pytest.raises(TrainingError, match=message):
            load_checkpoint(tmp_path / name)


def test_lightnings_loggers_get_every_row(stores: Path, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="lightning", version="")
    pretrain(stores, method="rotation", out=tmp_path / "r", loggers=[logger], **QUICK)
    with (tmp_path / "lightning" / "metrics.csv").open(newline="") as file:
        logged = [float(row["loss"]) for row in csv.DictReader(file)]
    assert logged == [float(value) for value in _column(tmp_path / "r", "loss")]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_a_missing_logger_says_what_to_install(stores: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs tensorboard: install wsitool\[tensorboard\]"):
        pretrain(stores, method="rotation", out=tmp_path / "r", logger="tensorboard", **QUICK)
    assert not (tmp_path / "r").exists()
