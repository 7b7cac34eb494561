from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from patch_stores import damaged_folder, patch_folder
from torch import nn

from wsitool.base.progress import SILENT
from wsitool.training.diagnostics import Diagnostics, FeatureWatch, feature_spread, rank_me
from wsitool.training.run import pretrain


def _rows(**values: float) -> list[Mapping[str, float]]:
    return [{"step": 50, "loss": 1.0, "wait_share": 0.0, **values}] * 3


def _said(*, epoch: int = 2, **values: float) -> str:
    diagnostics = Diagnostics(SILENT, shortcut_metric="rotation_accuracy")
    diagnostics.after_epoch(_rows(**values), epoch=epoch)
    diagnostics.after_epoch(_rows(**values), epoch=epoch + 1)  # each is said once
    assert len(diagnostics.said) <= 1
    return " ".join(diagnostics.said)


def test_each_trouble_is_a_sentence_and_health_is_silence() -> None:
    chance = math.log(15)
    assert _said(loss=2.0, chance_loss=chance, feature_std=0.4, rank_me=9, rotation_accuracy=0.6) == ""
    assert "still that of guessing (2.708)" in _said(loss=chance, chance_loss=chance)
    first = Diagnostics(SILENT)
    first.after_epoch(_rows(loss=chance, chance_loss=chance), epoch=1)
    first.after_epoch(_rows(step=49, loss=chance, chance_loss=chance), epoch=2)
    assert first.said == []  # the first epoch and the first steps may well know nothing yet
    assert "spread 0.0010, effective rank 1.1" in _said(feature_std=0.001, rank_me=1.1)
    assert "rotation accuracy 100.0%" in _said(rotation_accuracy=1.0)
    assert "35% of the time was spent waiting" in _said(wait_share=0.35)


def test_small_batches_matter_only_to_methods_that_contrast() -> None:
    diagnostics = Diagnostics(SILENT)
    diagnostics.before(uses_batch_negatives=False, batch=8, accumulate=1)
    diagnostics.before(uses_batch_negatives=True, batch=64, accumulate=1)
    assert diagnostics.said == []
    diagnostics.before(uses_batch_negatives=True, batch=8, accumulate=4)
    assert "only 14 negatives (--accumulate adds none)" in diagnostics.said[0]


def test_spread_and_rank_of_known_features() -> None:
    same = torch.ones(16, 8)
    assert feature_spread(same).item() == pytest.approx(0, abs=1e-6)
    assert rank_me(same).item() == pytest.approx(1, abs=1e-3)
    round_ = torch.cat([torch.eye(8), -torch.eye(8)])
    assert feature_spread(round_).item() == pytest.approx(1, abs=1e-5)
    assert rank_me(round_).item() == pytest.approx(8, abs=1e-3)


def test_the_watch_sees_training_batches_only() -> None:
    network = nn.Linear(4, 4)
    watch = FeatureWatch(network)
    assert watch.measure() == {}
    network(torch.rand(8, 4))
    seen = watch.measure()
    network.eval()(torch.zeros(8, 4))
    assert watch.measure() == seen
    watch.close()


def test_warnings_reach_the_result_and_the_reporter(tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "kidney", each=4)
    result = pretrain(
        stores,
        method="simclr",
        out=tmp_path / "r",
        backbone="resnet18",
        init="random",
        epochs=1,
        batch_size=4,
    )
    assert len(result.warnings) == 1 and "only 6 negatives" in result.warnings[0]
    assert "only 6 negatives" in (tmp_path / "r" / "run.json").read_text()


def test_a_patch_that_cannot_be_read_is_skipped_and_named(tmp_path: Path) -> None:
    path = damaged_folder(tmp_path / "kidney")
    damaged = path / "a.h5"
    result = pretrain(
        path,
        method="simclr",
        out=tmp_path / "r",
        backbone="resnet18",
        init="random",
        epochs=1,
        batch_size=20,
    )
    sentence = f"1 patch(es) could not be read and were skipped, the first is patch 3 of {damaged}"
    assert any(sentence in warning for warning in result.warnings)
    skipped = json.loads((tmp_path / "r" / "run.json").read_text())["skipped"]
    assert len(skipped) == 1 and str(damaged) in skipped[0]
