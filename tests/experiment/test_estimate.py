"""What a dry run foresees: the counts of the work, and that times of parts are added up as the work is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from experiment_plans import small_data, small_plan

from wsitool.classify import speed
from wsitool.classify.speed import Speed, fastest
from wsitool.experiment import estimate as module
from wsitool.experiment.estimate import _work, estimate
from wsitool.experiment.evaluation_splits import all_cells, open_splits
from wsitool.experiment.plan import ExperimentPlan


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


def _counted(plan: ExperimentPlan) -> tuple[int, int, int]:
    work = _work(plan, open_splits(plan), all_cells(plan), "cpu")
    return work.trained, work.forward, work.searched


def test_images_and_labels_are_counted(data: Path) -> None:
    # 108 patches of six patients in two folds of 54; a random start is a network of its own for each seed.
    one = {"methods": ("supervised",), "fractions": (1.0,)}
    assert _counted(small_plan(data, **one)) == (0, 2 * 108, 0)
    assert _counted(small_plan(data, **one, c="auto")) == (0, 2 * 108, 4 * 54)
    assert _counted(small_plan(data, methods=("rotation",), fractions=(1.0,))) == (0, 2 * 108, 0)  # two folds
    # Three epochs of 43 patches; 11 are looked at after each of them and at the end.
    tuned = {"head": "finetune", "validation": 0.2, "epochs": 3}
    assert _counted(small_plan(data, **one, **tuned)) == (4 * 3 * 43, 4 * (4 * 11 + 54), 0)
    asked = small_plan(data, methods=("supervised",), fractions=(0.5,), select=("margin",), **tuned)
    trained, forward, _ = _counted(asked)
    assert (trained, forward) == (4 * 3 * 22, 4 * (4 * 5 + 54) + 2 * 108)  # and the features to ask by


def test_times_are_added_up(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_speed", lambda *_, **__: Speed(step=1.0, forward=0.1, view=0.01))
    monkeypatch.setattr(module, "_seconds_a_label", lambda *_: 10.0)
    monkeypatch.setattr(module, "_around", lambda *_: 0.5)
    plan = small_plan(data, methods=("supervised",), fractions=(1.0,), c="auto")
    assert estimate(plan, tmp_path).seconds == pytest.approx(0.1 * 216 + 10 * 216 + 0.5)
    both = small_plan(data, methods=("rotation",), fractions=(1.0,), pretrain_epochs=2)
    images = 2 * 2 * 4 * 54  # folds, epochs, rotations
    assert estimate(both, tmp_path).seconds == pytest.approx(1.01 * images + 0.1 * 216 + 0.5)
    # A fold each; a third worker would have nothing to do.
    for devices in (("cpu", "cpu"), ("cpu",) * 3):
        shared = estimate(both, tmp_path, devices=devices)
        assert shared.seconds == pytest.approx((1.01 * images + 0.1 * 216) / 2 + 0.5)


def test_the_fastest_call_counts_and_waiting_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    # When it is to end; then before, after and whether to go on, of each call.
    walls = iter([0.0, 0.0, 9.0, 10.0, 10.0, 14.0, 99.0])
    works = iter([0.0, 3.0, 3.0, 8.0])
    clocks = SimpleNamespace(perf_counter=lambda: next(walls), process_time=lambda: next(works))
    monkeypatch.setattr(speed, "time", clocks)
    # Two calls of 9 and 4 seconds, in which the processor worked for 3 and 5.
    assert fastest(lambda: None, 12) == 3.0
