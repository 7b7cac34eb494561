"""Going on from any checkpoint is the uninterrupted run, also for methods with teachers and queues."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from patch_stores import damaged_folder, patch_folder
from safetensors.torch import load_file

from wsitool.errors import TrainingError
from wsitool.training import monitor
from wsitool.training.checkpoint import load_checkpoint
from wsitool.training.diagnostics import Diagnostics
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


def test_what_was_said_before_the_checkpoint_is_said_of_the_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = damaged_folder(tmp_path / "kidney")
    options: dict[str, Any] = QUICK | {"method": "simclr", "save_every": 1, "batch_size": 8}
    real = monitor.save_checkpoint

    def keep_a_copy(path: Path, *args: Any, batches: int, **more: Any) -> None:
        real(path, *args, batches=batches, **more)
        shutil.copytree(path.parent, tmp_path / f"at-{batches}")

    monkeypatch.setattr(monitor, "save_checkpoint", keep_a_copy)
    pretrain(path, out=tmp_path / "whole", **options)
    monkeypatch.undo()
    whole = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert len(whole["skipped"]) == 1 and len(whole["warnings"]) == 2
    for batches in (4, 8, 10):  # inside an epoch, in the last one, and after all of them
        result = pretrain(path, out=tmp_path / f"at-{batches}", resume=True, **options)
        again = json.loads((result.out / "run.json").read_text())
        assert again["skipped"] == whole["skipped"] and again["warnings"] == whole["warnings"]
        assert list(result.warnings) == whole["warnings"]


def test_an_epoch_is_looked_at_as_a_whole(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = QUICK | {"method": "rotation", "save_every": 1, "epochs": 1}
    seen: list[list[int]] = []
    real_look, real_save = Diagnostics.after_epoch, monitor.save_checkpoint

    def look(self: Diagnostics, rows: Any, *, epoch: int) -> None:
        seen.append([row["step"] for row in rows])
        real_look(self, rows, epoch=epoch)

    def keep_a_copy(path: Path, *args: Any, batches: int, **more: Any) -> None:
        real_save(path, *args, batches=batches, **more)
        if batches == 3:
            shutil.copytree(path.parent, tmp_path / "at-3")

    monkeypatch.setattr(Diagnostics, "after_epoch", look)
    monkeypatch.setattr(monitor, "save_checkpoint", keep_a_copy)
    pretrain(stores, out=tmp_path / "whole", **options)
    pretrain(stores, out=tmp_path / "at-3", resume=True, **options)
    assert seen[0] == seen[1] == list(range(1, 6))


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


class _Logger:
    """As those of Lightning, Weights & Biases and others are called."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.rows.append((step, metrics["loss"]))


def test_loggers_get_every_row(stores: Path, tmp_path: Path) -> None:
    logger = _Logger()
    pretrain(stores, method="rotation", out=tmp_path / "r", loggers=[logger], **QUICK)
    steps, losses = (_column(tmp_path / "r", name) for name in ("step", "loss"))
    assert logger.rows == [(int(step), float(loss)) for step, loss in zip(steps, losses, strict=True)]
