"""A network that gives no numbers gives no verdict, no features and no classifier."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classify_stores import labelled_store
from patch_stores import patch_folder
from torch import nn

from wsitool.backbones.build import build_backbone
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import encode
from wsitool.backbones.files import to_safetensors
from wsitool.base.interrupt import Interrupted
from wsitool.classify import cross_validation, outputs
from wsitool.classify.finetune import finetune
from wsitool.classify.heads import fit_neighbours, head_logits
from wsitool.classify.logits import predict_logits
from wsitool.classify.model import Classifier, ClassifierCard, load_classifier, save_classifier
from wsitool.classify.run import classify
from wsitool.classify.settings import Settings
from wsitool.errors import EncoderError, MemoryShortError, TrainingError, UsageError
from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.labels import label_patches
from wsitool.predict import embedding
from wsitool.predict import run as predicting
from wsitool.predict.embedding import embed
from wsitool.predict.run import predict
from wsitool.store.collection import open_collection

NAN = float("nan")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    for number in range(3):
        labelled_store(folder / f"p{number}.h5", per_class=3, seed=number)
    return folder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build_backbone("squeezenet1_1", init="random")


def _classifier(encoder: Encoder) -> Classifier:
    card = ClassifierCard(
        classes=("plain", "dotted", "striped"),
        head="linear",
        image_size=32,
        patch_size=32,
        mpp=0.5,
        temperature=1.5,
        groups=(),
        encoder=encoder.card,
    )
    return Classifier(encoder, nn.Linear(encoder.feature_dim, 3), card)


def _write(classifier: Classifier, path: Path, **changes: Any) -> None:
    """As `save_classifier`, which would refuse."""
    card = json.dumps(json.loads(classifier.card.to_json()) | changes)
    metadata = {"format": "pt", "wsitool_classifier": card}
    path.write_bytes(to_safetensors(classifier.state_dict(), metadata))


def test_a_nan_classifier_is_not_saved_and_not_loaded(encoder: Encoder, tmp_path: Path) -> None:
    classifier = _classifier(encoder)
    with torch.no_grad():
        classifier.head.weight[1, 2] = NAN
    with pytest.raises(
        EncoderError, match=r"was not written - head\.weight holds values that are not finite"
    ):
        save_classifier(classifier, tmp_path / "new.safetensors")
    _write(classifier, tmp_path / "old.safetensors")
    with pytest.raises(EncoderError, match=r"is not used - head\.weight holds .* Train the classifier again"):
        load_classifier(tmp_path / "old.safetensors")
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize(
    "changes",
    [{"temperature": NAN}, {"temperature": 0}, {"temperature": None}, {"mpp": NAN}, {"image_size": -3}],
)
def test_a_card_with_an_impossible_number_is_refused(
    encoder: Encoder, tmp_path: Path, changes: dict[str, Any]
) -> None:
    _write(_classifier(encoder), tmp_path / "c.safetensors", **changes)
    (name,) = changes
    with pytest.raises(EncoderError, match=rf"is damaged, or of a newer wsitool \(({name} must|NaN is not)"):
        load_classifier(tmp_path / "c.safetensors")


def test_a_truncated_classifier_is_one_sentence(encoder: Encoder, tmp_path: Path) -> None:
    _write(_classifier(encoder), tmp_path / "c.safetensors")
    data = (tmp_path / "c.safetensors").read_bytes()
    for size in (0, 7, 300, len(data) // 2):
        (tmp_path / "c.safetensors").write_bytes(data[:size])
        with pytest.raises(EncoderError, match="cannot be read as a classifier"):
            load_classifier(tmp_path / "c.safetensors")


def test_no_row_of_logits_that_is_no_number_becomes_a_class() -> None:
    logits = np.array([[1.0, 2.0], [np.nan, 3.0]])
    with pytest.raises(EncoderError, match="taken for no class"):
        softmax(logits)
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.bias[0] = NAN
    knn = fit_neighbours(np.ones((3, 2), np.float32), np.array([0, 1, 1]), 2, neighbours=2)
    for head in (layer, knn):
        with pytest.raises(EncoderError, match="taken for no class"):
            head_logits(head, np.array([[1.0, np.nan]], np.float32))


class _Overflows(nn.Module):
    """A trunk that overflows on the patches of the second store alone, as half precision may."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        features = images.mean(dim=(2, 3))
        return features / 0 if self.calls == 2 else features


def _overflowing(encoder: Encoder) -> Encoder:
    return Encoder(_Overflows(), replace(encoder.card, feature_dim=3))


def test_features_that_are_no_numbers_fail_their_store_alone(
    stores: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = _overflowing(encoder)
    broken.trunk.calls = -1  # one image goes through before the stores, to see that it takes the size
    monkeypatch.setattr(embedding, "build_encoder", lambda *_, **__: broken)
    result = embed(stores, encoder="random", out=tmp_path / "f")
    assert [path.name for path in result.files] == ["p0.h5", "p2.h5"]
    assert {path.name for path in (tmp_path / "f").iterdir()} == {"p0.h5", "p2.h5", "map.png"}
    ((name, reason),) = result.failed
    assert name == "p1" and f"patch 0 of {stores / 'p1.h5'} are not finite" in reason
    assert result.patches == 18


def test_the_cache_keeps_numbers_only(stores: Path, encoder: Encoder, tmp_path: Path) -> None:
    collection = open_collection(stores)
    with pytest.raises(EncoderError, match="are not finite"):
        network = _overflowing(encoder)
        network.trunk.calls = 1
        encode(network, collection, image_size=32, cache=tmp_path)
    assert not list(tmp_path.iterdir())
    good = encode(encoder, collection, image_size=32, cache=tmp_path)
    file = next(tmp_path.iterdir())  # that of a store
    whole = file.read_bytes()
    np.save(file, np.full_like(np.load(file), np.nan))
    for damaged in (file.read_bytes(), whole[:200], b""):
        file.write_bytes(damaged)
        assert np.array_equal(encode(encoder, collection, image_size=32, cache=tmp_path), good)
        assert file.read_bytes() == whole


def test_predict_fails_that_slide_and_writes_nothing_of_it(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = replace(_classifier(encoder).card, encoder=replace(encoder.card, feature_dim=3))
    broken = Classifier(_overflowing(encoder), nn.Linear(3, 3), card)
    monkeypatch.setattr(predicting, "load_judge", lambda _: broken.eval())
    slides = patch_folder(tmp_path / "p", stores=3, each=2)
    (tmp_path / "classifier.safetensors").write_bytes(b"its digest tells runs apart")
    result = predict(tmp_path, [slides], tmp_path / "out")
    assert [found.name for found in result.slides] == ["p-0", "p-2"]
    ((name, reason),) = result.failed
    assert name == "p-1" and "taken for no class" in reason
    assert not list((tmp_path / "out").glob("p-1*"))


def test_fine_tuning_stops_at_a_gradient_that_is_no_number(
    stores: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = label_patches(open_collection(stores))
    settings = Settings(epochs=1, batch_size=9, device="cpu")
    real = nn.functional.cross_entropy
    classifier = _classifier(build_backbone("squeezenet1_1", init="random"))

    def loss(logits: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        return real(logits, *given, **more) + (0 * logits.sum()).sqrt()

    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "cross_entropy", loss)
        with pytest.raises(TrainingError, match="The gradient norm became nan: use a lower --lr"):
            finetune(classifier, patches, patches, settings, seed=0)
    predict_logits(classifier, patches.collection)  # the step was not taken
    huge = Settings(epochs=1, batch_size=27, lr=1e30, augment=False, device="cpu")
    with pytest.raises((TrainingError, EncoderError), match=r"finite.* a lower --lr"):
        finetune(classifier, patches, patches, huge, seed=0)
    with pytest.raises(UsageError, match=r"--lr must be above 0 and at most 1e\+30, got 1e\+38"):
        Settings(lr=1e38)


def test_a_store_of_one_patch_is_embedded_and_judged(encoder: Encoder, tmp_path: Path) -> None:
    store = labelled_store(tmp_path / "one.h5", per_class=1, classes=("plain",))
    assert encode(encoder, open_collection(store), image_size=32).shape == (1, encoder.feature_dim)
    save_classifier(_classifier(encoder), tmp_path / "classifier.safetensors")
    assert len(predict(tmp_path, [store], tmp_path / "out").slides) == 1


@pytest.mark.parametrize("error", [MemoryError(), Interrupted(15)])
def test_what_ends_classify_is_told_and_leaves_no_run(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cross_validation, "fit_classifier", fails)
    settings = Settings(head="linear", c=1.0, validation=0.3, device="cpu")
    with pytest.raises((MemoryShortError, Interrupted)) as end:
        classify(stores, out=tmp_path / "r", encoder="random", backbone="squeezenet1_1", settings=settings)
    said = str(end.value)
    assert (
        "pass --batch-size 32, which fits, or lower --image-size" in said
        or f"nothing was written to '{tmp_path / 'r'}'" in said
    )
    assert not list((tmp_path / "r").iterdir())


def test_a_signal_while_results_are_written_waits_for_them(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = outputs.write_json

    def write(path: Path, value: Any) -> None:
        if path.name == "metrics.json":
            os.kill(os.getpid(), signal.SIGTERM)
        real(path, value)

    monkeypatch.setattr(outputs, "write_json", write)
    settings = Settings(head="linear", c=1.0, validation=0.3, device="cpu")
    with pytest.raises(Interrupted, match="all is done and written"):
        classify(stores, out=tmp_path / "r", encoder="random", backbone="squeezenet1_1", settings=settings)
    assert json.loads((tmp_path / "r" / "run.json").read_text())["command"] == "classify"
    load_classifier(tmp_path / "r")
