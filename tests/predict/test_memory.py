"""Memory that is short: `embed`, `predict`, `classify` name the batch that fits, or take it by themselves."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from classify_stores import labelled_store
from listener import Listener
from torch import Tensor, nn

from wsitool.backbones.build import build_backbone
from wsitool.backbones.features import as_images
from wsitool.classify.model import Classifier, ClassifierCard, save_classifier
from wsitool.classify.run import classify
from wsitool.classify.settings import Settings
from wsitool.errors import MemoryShortError
from wsitool.predict.embedding import embed
from wsitool.predict.options import PredictOptions
from wsitool.predict.run import predict

_NETWORK: dict[str, Any] = {"backbone": "squeezenet1_1"}
_FITS = "2.50 GiB more were asked for): pass --batch-size 4, which fits, or"


@pytest.fixture(autouse=True)
def room_for_four(monkeypatch: pytest.MonkeyPatch) -> None:
    def images(patches: Tensor, image_size: int) -> Tensor:
        if len(patches) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has")
        return as_images(patches, image_size)

    for module in ("backbones.features", "classify.model", "classify.finetune"):
        monkeypatch.setattr(importlib.import_module(f"wsitool.{module}"), "as_images", images)


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    for number in range(4):
        labelled_store(tmp_path / "stores" / f"p{number}.h5", per_class=3, seed=number)
    return tmp_path / "stores"


def test_embed(stores: Path, tmp_path: Path) -> None:
    failed = embed(stores, encoder="random", out=tmp_path / "o", batch_size=16, device="cpu", **_NETWORK)
    assert len(failed.failed) == 4 and all(_FITS in reason for _, reason in failed.failed), failed.failed
    told = Listener()
    done = embed(
        stores,
        encoder="random",
        out=tmp_path / "o",
        batch_size="auto",
        device="cpu",
        reporter=told,
        **_NETWORK,
    )
    assert not done.failed and done.patches == 36 and "--batch-size auto is 4." in told.said


def test_predict(stores: Path, tmp_path: Path) -> None:
    encoder = build_backbone("squeezenet1_1", init="random")
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
    classifier = Classifier(encoder, nn.Linear(encoder.feature_dim, 3), card)
    save_classifier(classifier, tmp_path / "classifier.safetensors")
    options = PredictOptions(batch_size=16, device="cpu")
    failed = predict(tmp_path, [stores], tmp_path / "o", options=options).failed
    assert len(failed) == 4 and all(_FITS in reason for _, reason in failed), failed
    told = Listener()
    options = PredictOptions(batch_size="auto", device="cpu")
    done = predict(tmp_path, [stores], tmp_path / "o", options=options, reporter=told)
    assert len(done.slides) == 36 and "--batch-size auto is 4." in told.said


@pytest.mark.parametrize("head", ["finetune", "knn"])
def test_classify(stores: Path, tmp_path: Path, head: str) -> None:
    out, told = tmp_path / "o", Listener()
    settings: dict[str, Any] = {"head": head, "epochs": 1, "device": "cpu", "validation": 0.3}
    with pytest.raises(MemoryShortError) as short:
        classify(stores, out=out, encoder="random", settings=Settings(batch_size=16, **settings), **_NETWORK)
    assert _FITS in str(short.value) and not list(out.iterdir())
    auto = Settings(batch_size="auto", **settings)
    classify(stores, out=out, encoder="random", settings=auto, reporter=told, **_NETWORK)
    record = json.loads((out / "run.json").read_text())
    assert record["batch_size"] == 4 and record["settings"]["batch_size"] == "auto"
    assert "--batch-size auto is 4." in told.said
    # Asked for again, it is the run that is there.
    classify(stores, out=out, encoder="random", settings=auto, resume="auto", reporter=told, **_NETWORK)
    assert "is left as it is" in told.said[-1]
