"""Fine-tuning by the one engine: in which precision, and how often a device is waited for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
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
    tuning._classifier = _classifier()  # whose weights can be read
    for loss, count in ((1.0, 9), (4.0, 3)):
        tuning._pending.append((count, torch.tensor(loss), torch.tensor(1.0)))
    assert tuning.end_epoch() == 1.75
    tuning._pending.append((9, torch.tensor(1.0), torch.tensor(float("inf"))))
    with pytest.raises(TrainingError, match="The gradient norm became inf: use a lower --lr"):
        tuning.end_epoch()


def test_weighted_classes_get_their_share_back_in_the_probabilities(patches: LabelledPatches) -> None:
    few = patches.subset(np.flatnonzero((patches.labels == 0) | (np.arange(27) % 9 < 4)))
    counts = np.bincount(few.labels, minlength=3)
    assert counts.tolist() == [9, 3, 0] or len(set(counts.tolist())) > 1
    settings = Settings(epochs=1, batch_size=len(few), lr=1e-30, augment=False, device="cpu")
    for balance in ("weighted", "subset"):
        classifier = _classifier()
        nn.init.zeros_(classifier.head.weight)  # type: ignore[arg-type]
        nn.init.zeros_(classifier.head.bias)  # type: ignore[arg-type]
        first, *_ = finetune(classifier, few, few, replace(settings, balance=balance), seed=0)
        # A network that sees nothing: equal classes cost log 3 each, and it says the shares.
        assert first.train_loss == pytest.approx(np.log(3), abs=1e-4)
        shares = (
            np.maximum(counts, 1) / np.maximum(counts, 1).sum() if balance == "weighted" else np.ones(3) / 3
        )
        assert torch.softmax(classifier.head.bias, 0).tolist() == pytest.approx(shares, abs=1e-4)


def test_few_labels_have_more_epochs_and_not_fewer_steps(patches: LabelledPatches) -> None:
    few = patches.subset(np.arange(0, 27, 2))
    settings = Settings(epochs=2, min_steps=7, batch_size=5, lr=1e-5, device="cpu")
    assert len(finetune(_classifier(), few, few, settings, seed=0)) == 3  # of three steps each
    assert [settings.epochs_of(count) for count in (1, 5, 14, 100)] == [7, 7, 3, 2]
    assert replace(settings, min_steps=None).epochs_of(5) == 2
