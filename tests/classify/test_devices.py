"""Fine-tuning by two processes is fine-tuning by one with the batch of both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from classify_stores import labelled_store
from torch import nn

from wsitool.backbones.card import EncoderCard
from wsitool.backbones.encoder import Encoder
from wsitool.classify.finetune import _Tuning, finetune
from wsitool.classify.logits import predict_logits
from wsitool.classify.model import Classifier, ClassifierCard
from wsitool.classify.settings import Settings
from wsitool.errors import UsageError
from wsitool.evaluation.labels import LabelledPatches, label_patches
from wsitool.store.collection import open_collection

WORLD = 2
_WSITOOL = str(Path(sys.executable).with_name("wsitool"))


def _data(folder: str) -> LabelledPatches:
    return label_patches(open_collection(Path(folder, "stores")))


def _classifier() -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    encoder = Encoder(network, EncoderCard(backbone="small", feature_dim=8, mean=(0.5,) * 3, std=(0.2,) * 3))
    card = ClassifierCard(
        classes=("plain", "dotted", "striped"),
        head="finetune",
        image_size=32,
        patch_size=32,
        mpp=0.5,
        temperature=1.0,
        groups=(),
        encoder=encoder.card,
    )
    return Classifier(encoder, nn.Linear(8, 3), card)


def _result(folder: str) -> dict[str, Any]:
    """Of 27 patches in batches of 8: the last one is of 3."""
    patches = _data(folder)
    settings = Settings(epochs=2, batch_size=8, lr=1e-3, device="cpu")
    # the gradient of the very first step
    first = _classifier()
    tuning = _Tuning(first, patches, settings, torch.device("cpu"), 0)
    slopes: list[Any] = []
    tuning.before_step = lambda: slopes.append([p.grad.clone() for p in first.parameters()])  # type: ignore
    tuning.run(tuning.loader.batches(0, 1))
    classifier = _classifier()
    history = finetune(classifier, patches, patches, settings, seed=0)
    return {
        "slopes": slopes[0],
        "losses": [epoch.train_loss for epoch in history],
        "validation": [epoch.validation_loss for epoch in history],
        "state": classifier.state_dict(),
        "logits": torch.from_numpy(predict_logits(classifier, patches.collection, device="cpu")),
    }


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    torch.save(_result(folder), Path(folder, f"rank{rank}.pt"))
    dist.destroy_process_group()


def test_two_processes_have_the_gradient_losses_and_predictions_of_one(tmp_path: Path) -> None:
    for number in range(3):
        labelled_store(tmp_path / "stores" / f"p{number}.h5", per_class=3, seed=number)
    mp.spawn(_rank, (str(tmp_path),), nprocs=WORLD)
    both = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]
    one = _result(str(tmp_path))
    for two in both:
        for mine, theirs in zip(one["slopes"], two["slopes"], strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5) and mine.abs().max() > 1e-5
        assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)
        assert two["validation"] == pytest.approx(one["validation"], abs=1e-4)
        assert two["state"].keys() == one["state"].keys()
        for name, value in one["state"].items():
            assert torch.allclose(value.double(), two["state"][name].double(), atol=1e-4), name
        assert torch.allclose(one["logits"], two["logits"], atol=1e-3)
    assert torch.equal(both[0]["logits"], both[1]["logits"])  # gathered: all have all of them


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu,cpu", "head": "linear"}, "several are for fine-tuning, and --head linear trains no"),
        ({"device": "cpu,cuda:1"}, "are all of a kind, and these are cpu and cuda"),
        ({"device": "cpu,cpu", "batch_size": 7}, "a multiple of 2, got 7"),
        ({"device": "cpu,cpu", "batch_size": 2}, "two patches each at least"),
        ({"device": "cpu,cpu", "batch_size": "auto"}, "a multiple of 2, got auto"),
    ],
)
def test_what_cannot_be_divided(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings(**options)


@pytest.mark.slow
def test_two_devices_from_the_command_line_judge_as_one(tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    for number in range(6):
        labelled_store(stores / f"p{number}.h5", per_class=4, seed=number)
    probabilities = []
    for device in ("cpu", "cpu,cpu"):
        out = tmp_path / device
        done = subprocess.run(
            [
                *(_WSITOOL, "classify", str(stores), "--out", str(out), "--encoder", "random"),
                *("--backbone", "resnet18", "--epochs", "2", "--batch-size", "8", "--device", device),
                *("--lr", "1e-5"),
            ],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("judged on") == 1, done.stdout  # one process reports
        table = np.genfromtxt(out / "predictions.csv", delimiter=",", dtype=str)
        probabilities.append(table[1:, -3:].astype(float))
        assert json.loads((out / "run.json").read_text())["settings"]["device"] == device
    assert np.allclose(*probabilities, atol=2e-3)
