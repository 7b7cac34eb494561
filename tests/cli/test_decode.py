"""`--decode gpu` where there is no such device: one sentence, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from classify_stores import labelled_store
from click.testing import CliRunner

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.classify.model import CLASSIFIER_FILE, Classifier, ClassifierCard, save_classifier
from wsitool.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, an encoder and a classifier."""
    folder = tmp_path_factory.mktemp("decode")
    labelled_store(folder / "store.h5", per_class=2)
    encoder = build_backbone("squeezenet1_1", init="random")
    save_encoder(encoder, folder / "encoder.safetensors", encoder.card)
    card = ClassifierCard(
        classes=("a", "b"),
        head="finetune",
        image_size=32,
        patch_size=32,
        mpp=0.5,
        temperature=1.0,
        groups=(),
        encoder=encoder.card,
    )
    head = torch.nn.Linear(encoder.feature_dim, 2)
    save_classifier(Classifier(encoder, head, card), folder / "run" / CLASSIFIER_FILE)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "store.h5", "--method", "rotation", "--batch-size", "2", "--device", "cpu"],
        ["classify", "store.h5", "--encoder", "encoder.safetensors", "--device", "cpu"],
        ["classify", "store.h5", "--encoder", "encoder.safetensors", "--device", "cpu", "--head", "linear"],
        ["embed", "store.h5", "--encoder", "encoder.safetensors", "--device", "cpu"],
        ["predict", "run", "store.h5", "--device", "cpu"],
        ["bench", "store.h5", "--batch-size", "2", "--device", "cpu"],
    ],
    ids=lambda words: words[0],
)
def test_a_gpu_that_is_not_there_cannot_decode(
    folder: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    out = [] if words[0] == "bench" else ["--out", "out"]
    done = CliRunner().invoke(main, [*words, *out, "--decode", "gpu"])
    assert done.exit_code == 2, done.output
    sentence = "Error: --decode gpu needs a CUDA device, and this runs on cpu: pass --decode cpu or auto."
    assert done.stderr.splitlines()[-1] == sentence
    assert not (folder / "out").exists()
