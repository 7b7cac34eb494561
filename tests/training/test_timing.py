from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from patch_stores import patch_folder

from wsitool.training import timing
from wsitool.training.run import pretrain
from wsitool.training.timing import Stopwatch, TimeShares


def test_a_stopwatch_adds_up_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 12.0, 20.0, 20.5])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))
    watch = Stopwatch()
    for _ in range(2):
        with watch.running(torch.device("cpu")):
            pass
    assert watch.seconds() == 2.5


def test_shares_are_of_the_whole_time() -> None:
    shares = TimeShares.of(10.0, waiting=1.0, augmenting=2.5)
    assert shares == TimeShares(waiting=0.1, augmenting=0.25, stepping=0.65)
    assert str(shares) == "10% waiting for patches, 25% augmenting, 65% stepping"
    assert TimeShares.of(0.0, waiting=0.0, augmenting=0.0) is None


def test_a_run_says_where_its_time_went(tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "kidney", each=6)
    options = {"backbone": "resnet18", "init": "random", "epochs": 2, "batch_size": 4}
    result = pretrain(stores, method="simclr", out=tmp_path / "run", **options)
    assert result.time is not None
    written = json.loads((tmp_path / "run" / "run.json").read_text())["result"]["time_shares"]
    assert written == result.time.rounded()
    assert sum(written.values()) == pytest.approx(1, abs=0.002)
    assert 0 < written["augmenting"] < 1 and 0 < written["stepping"] < 1
    again = pretrain(stores, method="simclr", out=tmp_path / "run", resume=True, **options)
    assert again.time is None  # nothing was left to train
