"""Fine-tuning by the one engine: in which precision, and how often a device is waited for."""

from __future__ import annotations

import pytest
import torch
from classify_stores import labelled_store
from torch import nn

from wsitool.backbones.build import build_backbone
from wsitool.classify.finetune import Epoch, _Tuning, finetune
from wsitool.classify.model import Classifier, ClassifierCard
from wsitool.classify.settings import Settings
from wsitool.errors import TrainingError, UsageError
from wsitool.evaluation.labels import LabelledPatches, label_patches
from wsitool.store.collection import open_collection


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> LabelledPatches:
    folder = tmp_path_factory.mktemp("stores")
    for number in range(3):
        labelled_store(folder / f"p{number}.h5", per_class=3, seed=number)
    return label_patches(open_collection(folder))


def _classifier() -> Classifier:
    encoder = build_backbone("resnet18", init="random")
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
    torch.manual_seed(0)
    return Classifier(encoder, nn.Linear(encoder.feature_dim, 3), card)


def _tuned(patches: LabelledPatches, **options: object) -> tuple[list[Epoch], Classifier]:
    classifier = _classifier()
    settings = Settings(epochs=2, batch_size=9, lr=1e-4, device="cpu", **options)  # type: ignore[arg-type]
    return finetune(classifier, patches, patches, settings, seed=0), classifier


def test_bfloat16_trains_on_the_cpu_and_is_not_float32(patches: LabelledPatches) -> None:
    exact, rough = _tuned(patches)[0], _tuned(patches, precision="bf16")
    losses = [[epoch.train_loss for epoch in history] for history in (exact, rough[0])]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.1)
    assert all(weight.dtype == torch.float32 for weight in rough[1].parameters())
    with pytest.raises(UsageError, match="--precision must be one of 32, bf16, got '16'"):
        Settings(precision="16")


def test_a_device_is_looked_at_once_in_many_batches(patches: LabelledPatches) -> None:
    tuning = _Tuning(_classifier(), patches, Settings(), torch.device("meta"), 0)
    looks: list[int] = []
    tuning._look = lambda: (looks.append(len(tuning._pending)), tuning._pending.clear())  # type: ignore
    for weight in tuning._classifier.parameters():
        weight.grad = torch.zeros_like(weight)
    for _ in range(50):
        tuning._latest = (9, torch.zeros(()))
        tuning.before_step()
    assert looks == [20, 20] and len(tuning._pending) == 10


def test_what_was_not_looked_at_is_looked_at_in_the_end(patches: LabelledPatches) -> None:
    tuning = _Tuning(_classifier(), patches, Settings(), torch.device("meta"), 0)
    for loss, count in ((1.0, 9), (4.0, 3)):
        tuning._pending.append((count, torch.tensor(loss), torch.tensor(1.0)))
    assert tuning.end_epoch() == 1.75
    tuning._pending.append((9, torch.tensor(1.0), torch.tensor(float("inf"))))
    with pytest.raises(TrainingError, match="The largest gradient became inf: use a lower --lr"):
        tuning.end_epoch()
