"""A classifier as one ONNX file: onnxruntime gives torch's probabilities, the file says what they are of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from wsitool.backbones.build import build_backbone
from wsitool.classify.head_registry import HEADS
from wsitool.classify.model import CLASSIFIER_FILE, Classifier, ClassifierCard, save_classifier
from wsitool.cli import main

pytest.importorskip("timm", reason="the extra [timm] is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    encoder = build_backbone("timm:test_vit", init="random", norm="0.7,0.5,0.6;0.2,0.3,0.1").eval()
    card = ClassifierCard(
        classes=("benign", "유방암"),
        head="linear",
        image_size=64,
        patch_size=80,
        mpp=0.5,
        temperature=1.7,
        groups=("p1",),
        encoder=encoder.card,
    )
    kind = HEADS["linear"]
    head = kind.function(kind.build)(encoder.feature_dim, 2, {"neighbours": None, "bank": None})
    (tmp_path / "run").mkdir()
    save_classifier(Classifier(encoder, head, card), tmp_path / "run" / CLASSIFIER_FILE)
    return tmp_path / "run"


@torch.no_grad()
def test_probabilities_are_torchs_at_two_sizes(run: Path, tmp_path: Path) -> None:
    from wsitool.classify.model import load_classifier

    out = tmp_path / "classifier.onnx"
    arguments = ["export-encoder", str(run), "--classifier", "--to", "onnx", "--out", str(out)]
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == 0 and "takes images of any size" in told.output, told.output
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    classifier = load_classifier(run)
    for size in ((64, 64), (96, 128)):
        images = torch.rand(3, 3, *size)
        probabilities, logits, features = session.run(None, {"images": images.numpy()})
        expected = classifier(images)
        assert np.allclose(probabilities, torch.softmax(expected / 1.7, 1).numpy(), atol=1e-5)
        assert np.allclose(logits, expected.numpy(), atol=1e-4)
        assert np.allclose(features, classifier.encoder(images).numpy(), atol=1e-4)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["benign", "유방암"] and json.loads(about["mpp"]) == 0.5
    assert json.loads(about["std"]) == [0.2, 0.3, 0.1] and about["image_size"] == "any"
    assert json.loads(about["trained_size"]) == 64


def test_it_is_an_onnx_file_only(run: Path, tmp_path: Path) -> None:
    for extra, said in ((["--to", "timm"], "--to timm"), (["--to", "onnx", "--snapshot", "2"], "--snapshot")):
        arguments = ["export-encoder", str(run), "--classifier", "--out", str(tmp_path / "x.onnx"), *extra]
        told = CliRunner().invoke(main, arguments)
        assert told.exit_code == 2 and said in told.stderr, told.output
    assert not (tmp_path / "x.onnx").exists()
