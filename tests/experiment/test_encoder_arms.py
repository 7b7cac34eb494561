"""Encoders from elsewhere as arms beside those of the study."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
import torchvision
from experiment_plans import small_data, small_plan
from safetensors.torch import save_file

from wsitool.backbones.build import build_backbone
from wsitool.backbones.card import LineageStep
from wsitool.backbones.files import save_encoder
from wsitool.base.progress import SILENT
from wsitool.errors import EncoderError, StoreError, UsageError
from wsitool.experiment import starts
from wsitool.experiment.cells import run_cell
from wsitool.experiment.evaluation_splits import all_cells
from wsitool.experiment.plan import Arm
from wsitool.experiment.run import experiment
from wsitool.predict.embedding import embed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = build_backbone("resnet18", init="random", seed=5)
    path = tmp_path_factory.mktemp("encoders") / "mine.safetensors"
    save_encoder(built, path, dataclasses.replace(built.card, mpp=0.25))
    return path


class Listener(type(SILENT)):  # type: ignore[misc]
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    warn = say


@pytest.mark.parametrize("head", [{"head": "linear"}, {"head": "finetune", "epochs": 1, "lr": 1e-3}])
def test_an_arm_of_an_encoder_is_what_the_same_start_of_all_arms_would_be(
    head: dict[str, object], data: Path, encoder: Path, tmp_path: Path
) -> None:
    same = {"fractions": (1.0,), "seeds": 1, **head}
    plan = small_plan(data, methods=("supervised", f"encoder:{encoder}"), **same)
    started = small_plan(data, methods=("supervised",), init=str(encoder), **same)
    by_arm = {
        cell: run_cell(plan, cell, tmp_path / "arms", device="cpu")
        for cell in all_cells(plan)
        if cell.split == 0
    }
    (supervised, mine), facts = [result.logits for result in by_arm.values()], list(by_arm.values())[1].facts
    (cell,) = [cell for cell in all_cells(started) if cell.split == 0]
    expected = run_cell(started, cell, tmp_path / "start", device="cpu").logits
    np.testing.assert_array_equal(mine, expected)
    assert np.abs(mine - supervised).max() > 1e-3
    assert facts["lineage"] == "random"
    # A path in the arm's name is no path of the files.
    assert {path.parent for path in (tmp_path / "arms").rglob("*.npz")} == {tmp_path / "arms" / "cells"}


def test_what_an_encoder_needs_known_is_said_before_the_first_cell(
    data: Path, encoder: Path, tmp_path: Path
) -> None:
    save_file(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "bare.safetensors")
    arms = ("supervised", f"encoder:{encoder}", f"encoder:{tmp_path / 'bare.safetensors'}")
    plan = small_plan(data, methods=arms, fractions=(1.0,), seeds=1)
    listener = Listener()
    result = experiment(plan, tmp_path / "out", reporter=listener)
    assert any("bare.safetensors states no normalisation" in line for line in listener.said)
    assert any("pretrained at 0.25 um/px and the patches are" in line for line in listener.said)
    assert [row for row in (tmp_path / "out" / "table2.md").read_text().splitlines() if "encoder:" in row]
    assert result.cells == 6
    # a changed file is another start; the others are kept
    save_file(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "bare.safetensors")
    starts.init_key.cache_clear()  # of a new process
    assert experiment(plan, tmp_path / "out").reused == 4


def test_an_encoder_that_saw_the_test_patients_is_refused(data: Path, tmp_path: Path) -> None:
    built = build_backbone("resnet18", init="random")
    step = LineageStep(kind="pretrain", name="leaky", groups=("p0", "p1", "p2", "p3", "p4", "p5"))
    save_encoder(built, tmp_path / "leaky.safetensors", dataclasses.replace(built.card, lineage=(step,)))
    plan = small_plan(data, methods=("supervised", f"encoder:{tmp_path / 'leaky.safetensors'}"))
    with pytest.raises(UsageError, match="pretrained"):
        experiment(plan, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.npz")) if (tmp_path / "out").exists() else True
    missing = small_plan(data, methods=("supervised", "encoder:nowhere.pth"))
    with pytest.raises(EncoderError, match=r"There are no weights 'nowhere.pth'"):
        experiment(missing, tmp_path / "out")


def test_an_arm_of_features_is_that_of_the_encoder_that_made_them(
    data: Path, encoder: Path, tmp_path: Path
) -> None:
    features = tmp_path / "f"
    embed(data / "train", encoder=str(encoder), out=features)
    plan = small_plan(data, methods=(f"encoder:{encoder}", f"features:{features}"), seeds=1)
    result = experiment(plan, tmp_path / "out")
    cells = [run_cell(plan, cell, tmp_path / "out", device="cpu") for cell in all_cells(plan)]
    half = len(cells) // 2
    for one, other in zip(cells[:half], cells[half:], strict=True):
        np.testing.assert_allclose(one.logits, other.logits, rtol=0, atol=1e-6)
        assert one.facts["subset"] == other.facts["subset"] and other.facts["lineage"] == "f"
    assert result.cells == 8 and f"features:{features}" in (tmp_path / "out" / "table2.md").read_text()
    # other features of the same name are another start
    with h5py.File(features / "p0.h5", "a") as file:
        file["features"][0] = file["features"][0] + 1
    starts._stand_in.cache_clear()  # of a new process
    assert experiment(plan, tmp_path / "out").reused == half


def test_an_arm_of_features_lacking_a_patient_is_refused_before_the_first_cell(
    data: Path, encoder: Path, tmp_path: Path
) -> None:
    features = tmp_path / "f"
    embed(data / "train", encoder=str(encoder), out=features)
    stores = sorted(map(str, (data / "train").iterdir()))
    sides = {"train": tuple(stores[:4]), "test": tuple(stores[4:]), "folds": None}
    plan = small_plan(data, methods=("supervised", f"features:{features}"), **sides)
    (features / "p5.h5").unlink()
    with pytest.raises(StoreError, match="There are no features of 'p5' in 'f'"):
        experiment(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match=r"The arm features:f has no network .*: use --head linear or knn"):
        small_plan(data, methods=("features:f",), head="finetune")
    with pytest.raises(UsageError, match="The arm features: needs a folder of CLAM's or TRIDENT's feature"):
        Arm.parse("features:")


def test_how_an_arm_is_read() -> None:
    assert Arm.parse("encoder:a+b/c.pth") == Arm(name="encoder:a+b/c.pth", method=None, start="a+b/c.pth")
    with pytest.raises(UsageError, match="The arm encoder: needs a name or a file"):
        Arm.parse("encoder:")
    with pytest.raises(UsageError, match=r"encoder:NAME_OR_FILE or features:DIR, .* got 'simclr\+'"):
        Arm.parse("simclr+")
