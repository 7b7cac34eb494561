"""The choice among several pretraining lrs, on stores whose classes an untrained network tells apart."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from experiment_plans import run_and_die, small_data, small_plan
from safetensors import safe_open
from safetensors.torch import save_file
from torch import zeros_like

from wsitool.base.progress import SILENT
from wsitool.errors import UsageError
from wsitool.experiment import stages
from wsitool.experiment.estimate import estimate
from wsitool.experiment.evaluation_splits import all_cells, open_splits
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.plan_file import read_plan
from wsitool.experiment.run import experiment
from wsitool.experiment.stages import last_stages, pretrainings, start_keys
from wsitool.training.run import pretrain

BLIND, SEEING = 1e-3, 1e-8  # the first wipes an encoder out (see `planted`), the second leaves it as it is


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """`pretrain` that blinds every encoder made with the lr `BLIND`; what was pretrained, in order."""
    done: list[tuple[str, float]] = []

    def planted_pretrain(*stores: object, out: Path, lr: float, **options: object) -> object:
        done.append((out.name, lr))
        run = pretrain(*stores, out=out, lr=lr, **options)  # type: ignore[arg-type]
        if lr == BLIND:
            _blind(out / "encoder.safetensors")
        return run

    monkeypatch.setattr(stages, "pretrain", planted_pretrain)
    return done


def _blind(path: Path) -> None:
    with safe_open(path, "pt") as stored:
        facts, names = stored.metadata(), list(stored.keys())
        weights = {name: zeros_like(stored.get_tensor(name)) for name in names}
    save_file(weights, path, metadata=facts)


def _plan(data: Path, **changes: object) -> ExperimentPlan:
    values: dict[str, object] = {
        "methods": ("supervised", "rotation"),
        "fractions": (0.5, 1.0),
        "seeds": 1,
        "c": "auto",
        "validation": 0.0,
        "pretrain_lr": (BLIND, SEEING),
    }
    return small_plan(data, **values | changes)


def _facts(out: Path, name: str) -> dict[str, object]:
    with np.load(out / "cells" / f"{name}.npz") as cell:
        found: dict[str, object] = json.loads(str(cell["facts"]))
    return found


def test_lr_of_lowest_validation_loss_is_taken_and_told(
    data: Path, tmp_path: Path, planted: list[tuple[str, float]]
) -> None:
    result = experiment(_plan(data, folds=None), tmp_path)
    assert len(planted) == len(set(planted)) == 2  # the lrs; shared by the fractions
    facts = _facts(tmp_path, "rotation-50pct-seed0-heldout")
    search = facts["pretrain_lr_search"]
    assert facts["pretrain_lr"] == SEEING and isinstance(search, dict) and search["by"] == "group"
    assert search["losses"]["0.001"] > 1.0  # a blind encoder only guesses: ln 3 and a little
    assert search["losses"]["1e-08"] < 0.5
    assert _facts(tmp_path, "supervised-50pct-seed0-heldout")["pretrain_lr_search"] is None
    told = json.loads((tmp_path / "results.json").read_text())
    choices = [len(row["pretrain_lr_choices"]) for row in told["rows"]]
    assert choices == [0, 0, 1, 1] and told["rows"][2]["pretrain_lr_choices"][0]["lr"] == SEEING
    assert "test groups had no part in it" in told["choices"][0]
    assert "supervised arm has no pretraining and so no such choice" in told["choices"][1]
    page = (tmp_path / "report.html").read_text()
    assert "In how many cells each lr was taken" in page and "lr 1e-08" in page
    assert result.results.arms["rotation", 1.0].mean["accuracy"] == 1.0


@pytest.mark.slow
def test_fine_tuning_takes_the_lowest_validation_loss_and_the_auxiliary_stage_has_the_same_lr(
    data: Path, tmp_path: Path, planted: list[tuple[str, float]]
) -> None:
    changes = {"head": "finetune", "validation": 0.3, "epochs": 1, "lr": 1e-4, "folds": None}
    plan = _plan(data, methods=("rotation+auxiliary",), fractions=(1.0,), **changes)
    experiment(plan, tmp_path)
    assert planted == [
        (f"{stage}-seed0-lr{lr:g}", lr)
        for lr in (BLIND, SEEING)
        for stage in ("rotation-auxiliary", "rotation+auxiliary-heldout")
    ]
    facts = _facts(tmp_path, "rotation+auxiliary-100pct-seed0-heldout")
    search = facts["pretrain_lr_search"]
    assert isinstance(search, dict)
    losses = search["losses"]
    assert facts["pretrain_lr"] == min((BLIND, SEEING), key=lambda lr: losses[f"{lr:g}"])
    assert facts["validated_on"] and len(set(losses.values())) == 2


@pytest.mark.slow
def test_ties_go_to_the_first(data: Path, tmp_path: Path, planted: list[tuple[str, float]]) -> None:
    plan = _plan(data, methods=("rotation",), fractions=(1.0,), pretrain_lr=(2e-8, SEEING), folds=None)
    stages_of = last_stages(plan, all_cells(plan)[0], open_splits(plan)[0])
    for stage in stages_of:  # two encoders that are the same, as both are blind
        _blind(stages.ensure(plan, stage, tmp_path / "pretrain", SILENT) / "encoder.safetensors")
    experiment(plan, tmp_path)
    facts = _facts(tmp_path, "rotation-100pct-seed0-heldout")
    assert facts["pretrain_lr"] == 2e-8 and len(planted) == 2


def test_one_value_has_the_keys_it_always_had(data: Path) -> None:
    plan = _plan(data, pretrain_lr=3e-4)
    cell = next(cell for cell in all_cells(plan) if cell.arm.method)
    chosen = open_splits(plan)[cell.split]
    parts = ["rotation", chosen.unlabelled.fingerprint, 1, 0, "random", "resnet18", 18, 3e-4, "paper", None]
    assert start_keys(plan, cell, chosen) == hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    assert start_keys(_plan(data, pretrain_lr=(3e-4,)), cell, chosen) == start_keys(plan, cell, chosen)
    assert list(pretrainings(plan)) == ["rotation-fold1-seed0", "rotation-fold2-seed0"]


def test_more_values_reuse_the_encoder_and_a_run_goes_on(
    data: Path, tmp_path: Path, planted: list[tuple[str, float]]
) -> None:
    experiment(_plan(data, pretrain_lr=SEEING, folds=None), tmp_path)
    both = _plan(data, folds=None)
    foreseen = estimate(both, tmp_path, devices=("cpu",))
    assert [stage.finished for stage in foreseen.pretrainings.values()] == [False, True]
    assert (foreseen.cells, foreseen.finished) == (4, 2)  # the supervised ones
    assert foreseen.pretrained_images == 4 * 72  # rotations, patches; of the new lr only
    run_and_die(both, tmp_path, cells=3)
    again = experiment(both, tmp_path)
    assert (again.cells, again.reused) == (4, 3)
    assert [lr for _, lr in planted] == [SEEING, BLIND]
    assert experiment(both, tmp_path).reused == 4


def test_several_values_need_something_to_choose_by(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"need validation groups to be chosen by: use --validation above 0"):
        _plan(data, c=0.1)
    with pytest.raises(UsageError, match="each value once"):
        _plan(data, pretrain_lr=(1e-4, 1e-4))
    path = tmp_path / "plan.toml"
    path.write_text('train = "a"\nmethods = ["supervised"]\npretrain_lr = [1e-5, 3e-5]\n')
    assert read_plan(path).pretrain_lrs == (1e-5, 3e-5)
    path.write_text('train = "a"\nmethods = ["supervised"]\npretrain_lr = "1e-5,3e-5"\n')
    with pytest.raises(UsageError, match="pretrain_lr must be a finite number or a list"):
        read_plan(path)
