"""What is not a number stops a run, and reaches no file."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from patch_stores import patch_folder
from torch import Tensor

from wsitool.api import Step
from wsitool.errors import TrainingError
from wsitool.training.checkpoint import load_checkpoint
from wsitool.training.monitor import Monitor, _stop_if_scale_is_lost
from wsitool.training.run import pretrain
from wsitool_plugins.rotation import Rotation

QUICK: dict[str, Any] = {
    "method": "rotation",
    "backbone": "squeezenet1_1",
    "init": "random",
    "epochs": 2,
    "batch_size": 4,
    "save_every": 1,
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patch_folder(tmp_path_factory.mktemp("data") / "kidney", each=8)


def _break(monkeypatch: pytest.MonkeyPatch, what: str, *, at: int) -> None:
    """From batch number `at` on the loss is finite as ever, and its gradient or the network is not."""
    real, calls = Rotation.loss, [0]

    def loss(self: Rotation, views: dict[str, Tensor]) -> Step:
        step = real(self, views)
        calls[0] += 1
        if calls[0] <= at:
            return step
        if what == "gradient":
            # 0 with the slope inf * 0
            return Step(loss=step.loss + (0 * next(self.parameters()).sum()).sqrt(), metrics=step.metrics)
        self.scale.fill_(float("inf"))
        return step

    monkeypatch.setattr(Rotation, "loss", loss)
    made = Rotation.__init__

    def init(self: Rotation, *given: Any) -> None:
        made(self, *given)
        self.register_buffer("scale", torch.ones(2))

    monkeypatch.setattr(Rotation, "__init__", init)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_that_is_not_a_number_stops_the_run(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    _break(monkeypatch, "gradient", at=5)
    monkeypatch.setattr("wsitool.training.monitor._FLUSH_SECONDS", 3600.0)  # looks are far between
    stopped = 5  # batches 4 and 5 are one step of two batches
    with pytest.raises(TrainingError, match=f"The gradient norm became nan at batch {stopped} "):
        pretrain(stores, out=tmp_path / "r", accumulate=accumulate, **QUICK)
    out = tmp_path / "r"
    state = load_checkpoint(out / "last.ckpt")  # refuses what is not finite
    assert state["batches"] == (5 if accumulate == 1 else 4)
    report = json.loads((out / "broken-batch.json").read_text())
    assert report["batch"] == stopped and len(report["indices"]) == 4
    assert report["gradient norm"] == "nan" and float(report["loss"]) > 0
    assert json.loads((out / "run.json").read_text())["status"] == "stopped"
    assert not (out / "encoder.safetensors").exists()


def test_a_state_that_is_not_a_number_is_never_saved(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(monkeypatch, "buffer", at=2)
    with pytest.raises(TrainingError, match="scale is no longer finite after batch 2: lower --lr"):
        pretrain(stores, out=tmp_path / "r", **QUICK)
    assert load_checkpoint(tmp_path / "r" / "last.ckpt")["batches"] == 2
    assert not (tmp_path / "r" / "encoder.safetensors").exists()


def test_a_good_run_has_no_column_for_it(stores: Path, tmp_path: Path) -> None:
    pretrain(stores, out=tmp_path / "r", **QUICK | {"epochs": 1})
    header = (tmp_path / "r" / "metrics.csv").read_text().splitlines()[0]
    assert "gradient" not in header


class _Scaler:
    def __init__(self, scale: float) -> None:
        self._scale = scale

    def get_scale(self) -> float:
        return self._scale


def test_float16_may_leave_out_steps_but_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    precision = SimpleNamespace(scaler=_Scaler(2.0**-10))
    _stop_if_scale_is_lost(precision)  # type: ignore[arg-type]
    precision.scaler = _Scaler(2.0**-20)
    with pytest.raises(TrainingError, match=r"overflow float16 at any scale .* --precision bf16 or 32"):
        _stop_if_scale_is_lost(precision)  # type: ignore[arg-type]
    monitor = Monitor.__new__(Monitor)
    monitor._module = torch.nn.Linear(1, 1)  # type: ignore[assignment]
    monitor._module.weight.grad = torch.full((1, 1), float("inf"))
    monitor._training, monitor._gradient = SimpleNamespace(precision=precision), None  # type: ignore[assignment]
    monitor.before_step()
    assert monitor._gradient is None  # the scaler sees to it
    precision.scaler = None
    monitor.before_step()
    assert monitor._gradient == float("inf")
