"""`embed`, `classify` and `predict` on a device that is no CPU, which also decodes: the CPU's files."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from accelerator import DEVICE
from classify_stores import labelled_store
from decoding_device import decoding_device

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.classify.result import ClassifyResult
from wsitool.classify.run import classify
from wsitool.classify.settings import Settings
from wsitool.predict.embedding import embed
from wsitool.predict.options import PredictOptions
from wsitool.predict.run import predict
from wsitool.store.opening import create_store, open_store
from wsitool.store.schema import Candidates, Codec, Rows
from wsitool.testing import synthetic_slide

_THERE = str(DEVICE)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    built = build_backbone("squeezenet1_1", init="random")
    save_encoder(built, folder / "encoder.safetensors", built.card)
    return folder


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG stores of three patients, and a raw one of a fourth."""
    folder, drawn = tmp_path_factory.mktemp("stores"), tmp_path_factory.mktemp("drawn")
    for number in range(4):
        raw = labelled_store(drawn / f"{number}.h5", per_class=3, seed=number, group=f"p{number}")
        _rewritten(raw, folder / f"{number}.h5", "jpeg" if number < 3 else "raw")
    return folder


def _rewritten(path: Path, out: Path, codec: Codec) -> None:
    """The patches of a store as those of one slide, of another codec."""
    with open_store(path) as store:
        meta = replace(store.meta, codec=codec, quality=90 if codec == "jpeg" else None)
        rows = Rows(
            patches=store.read(range(len(store))),
            coords=store.coords,
            tissue=store.tissue,
            labels=store.labels,
        )
        kept = Candidates(coords=store.coords, tissue=store.tissue, reason=np.zeros(len(store), np.uint8))
        with create_store(out, meta) as writer:
            writer.append(rows)
            writer.finish(kept, counts=store.counts)


def _features(folder: Path) -> np.ndarray[Any, Any]:
    files = sorted(folder.glob("*.h5"))
    return np.concatenate([h5py.File(path)["features"][:] for path in files])


def test_features_are_those_of_the_cpu(encoder: Path, stores: Path, tmp_path: Path) -> None:
    with decoding_device() as device:
        embed(stores, encoder=encoder, out=tmp_path / "there", device=_THERE, decode="gpu")
        # What the device decoded is told from what the CPU did, which may differ by how it rounds.
        other = embed(stores, encoder=encoder, out=tmp_path / "pixels", device=_THERE)
        assert device.streams == 27 + 1 and device.counted.waits == 0
    embed(stores, encoder=encoder, out=tmp_path / "here", device="cpu")
    assert np.allclose(_features(tmp_path / "there"), _features(tmp_path / "here"), atol=1e-4)
    made = [
        h5py.File(tmp_path / name / other.files[0].name)["features"].attrs["made_from"]
        for name in ("there", "pixels", "here")
    ]
    assert made[0] != made[1] == made[2]


def _classified(encoder: Path, stores: Path, out: Path, **settings: Any) -> ClassifyResult:
    how = Settings(epochs=2, batch_size=6, lr=1e-5, **settings)
    return classify(stores, out=out, encoder=str(encoder), settings=how)


def _probabilities(run: Path) -> np.ndarray[Any, Any]:
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[name]) for name in row if name.startswith("p_")] for row in rows])


@pytest.mark.parametrize("head", ["finetune", "linear", "knn"])
def test_a_classifier_is_that_of_the_cpu(encoder: Path, stores: Path, tmp_path: Path, head: str) -> None:
    with decoding_device() as device:
        there = _classified(encoder, stores, tmp_path / "there", head=head, device=_THERE, decode="gpu")
        assert device.streams > 27 and device.counted.waits == 0
    here = _classified(encoder, stores, tmp_path / "here", head=head, device="cpu")
    assert there.judged_on == here.judged_on and there.trained_on == here.trained_on
    assert np.allclose(_probabilities(tmp_path / "there"), _probabilities(tmp_path / "here"), atol=1e-3)


def test_verdicts_of_stores_and_slides_are_those_of_the_cpu(
    encoder: Path, stores: Path, tmp_path: Path
) -> None:
    _classified(encoder, stores, tmp_path / "run", head="linear", device="cpu")
    synthetic_slide(tmp_path / "slide.svs", size=(160, 128), glass=0.1)
    inputs = [tmp_path / "slide.svs", stores / "0.h5"]
    options = PredictOptions(device="cpu", level=0, accept_mpp=True)
    here = predict(tmp_path / "run", inputs, tmp_path / "here", options=options)
    with decoding_device() as device:
        options = replace(options, device=_THERE, decode="gpu")
        there = predict(tmp_path / "run", inputs, tmp_path / "there", options=options)
        assert device.streams == 9 + 1 and device.counted.waits == 0
    assert not there.failed and len(there.slides) == len(here.slides) == 2
    for one, other in zip(here.slides, there.slides, strict=True):
        assert one.name == other.name and one.verdict.verdict == other.verdict.verdict
        assert list(one.mean.values()) == pytest.approx(list(other.mean.values()), abs=1e-3)
