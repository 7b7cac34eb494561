"""LoRA: what is trained, what is left of it in the file, and what is said where it cannot be."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from classify_stores import labelled_store
from torch import nn

from wsitool.backbones.build import build_backbone
from wsitool.classify import head_registry, settings
from wsitool.classify.logits import predict_logits
from wsitool.classify.model import load_classifier
from wsitool.classify.run import classify
from wsitool.classify.settings import Settings
from wsitool.errors import UsageError
from wsitool.experiment.cells import _settings_key
from wsitool.experiment.plan import ExperimentPlan
from wsitool.store.collection import open_collection

# A transformer of two blocks, 16 px a token.
VIT: dict[str, Any] = {"encoder": "random", "backbone": "timm:test_vit", "image_size": 32}
FAST: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 1e-2, "device": "cpu"}


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--head lora needs peft: install wsitool\[lora\]"):
        Settings(head="lora")
    assert not Settings(head="finetune").frozen


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft", reason="the extra [lora] is not installed")
    folder = tmp_path_factory.mktemp("stores")
    for number in range(4):
        labelled_store(folder / f"p{number}.h5", per_class=4, seed=number)
    return folder


@pytest.fixture(scope="module")
def run(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lora") / "run"
    test = str(stores / "p3.h5")
    train = [stores / f"p{number}.h5" for number in range(3)]
    classify(train, test=test, out=out, settings=Settings(head="lora", lora_rank=2, **FAST), **VIT)
    return out


def test_the_file_holds_the_encoder_with_updates_of_the_rank_merged(run: Path) -> None:
    classifier = load_classifier(run)
    assert classifier.card.head == "lora" and classifier.card.lora_rank == 2
    assert json.loads((run / "run.json").read_text())["settings"]["lora_rank"] == 2
    before = build_backbone("timm:test_vit", init="random", seed=0).trunk
    linear = {f"{name}.weight" for name, part in before.named_modules() if type(part) is nn.Linear}
    after = classifier.encoder.trunk.state_dict()
    assert after.keys() == before.state_dict().keys() and len(linear) >= 8
    for key, value in before.state_dict().items():
        change = after[key] - value
        if key in linear:
            # of rank 2: all but two singular values are rounding
            values = torch.linalg.svdvals(change.double())
            assert values[0] > 1e-4 and values[2] < 1e-4 * values[0], key
        else:
            assert not change.any(), key


def test_a_reader_needs_no_peft_and_gives_the_same_predictions(run: Path, stores: Path) -> None:
    words = [str(run), str(stores / "p3.h5"), "--out", str(run.parent / "p"), "--device", "cpu"]
    code = f"""
import sys
sys.modules["peft"] = None
from wsitool.cli import main
main(["predict", *{words!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logits = predict_logits(load_classifier(run), open_collection(stores / "p3.h5"), device="cpu")
    with (run / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "test"]
    classes = load_classifier(run).card.classes
    assert [row["predicted"] for row in rows] == [classes[index] for index in logits.argmax(axis=1)]


def test_a_network_without_linear_layers_is_refused(stores: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--head lora updates linear layers, and resnet18 has none: use"):
        classify(
            stores,
            out=tmp_path / "r",
            folds=2,
            settings=Settings(head="lora", **FAST),
            **VIT | {"backbone": "resnet18"},
        )


def test_the_rank_decides_cells_of_lora_only(stores: Path) -> None:
    def key(head: str, rank: int) -> str:
        plan = ExperimentPlan(train=(str(stores),), methods=("supervised",), head=head, lora_rank=rank)
        return _settings_key(plan)

    assert key("finetune", 4) == key("finetune", 8) and "lora" not in key("linear", 8)
    assert key("lora", 4) != key("lora", 8)
    assert head_registry.HEADS["lora"].chooses == "epoch"
