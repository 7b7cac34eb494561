"""A stain norm through the commands: recorded in every card, applied by what comes after, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from wsitool.classify.model import load_classifier
from wsitool.classify.run import classify
from wsitool.classify.settings import Settings
from wsitool.cli import main
from wsitool.curate.importing import import_images
from wsitool.errors import UsageError
from wsitool.predict.embedding import embed
from wsitool.predict.options import PredictOptions
from wsitool.predict.run import predict
from wsitool.slides.spec import TileSpec
from wsitool.testing import synthetic_slide
from wsitool.tiling.run import tile_slide
from wsitool.training.run import pretrain


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of three drawn slides, labelled by slide, and an encoder pretrained under a norm."""
    folder = tmp_path_factory.mktemp("work")
    labels = []
    for number in range(4):
        path = folder / "slides" / f"s{number}.svs"
        path.parent.mkdir(exist_ok=True)
        synthetic_slide(
            path, organ="breast", kind="dcis", size=(164, 132), mpp=0.5, compression="none", seed=number
        )
        tile_slide(path, folder / "stores", TileSpec(patch_size=32, mpp=0.5, codec="raw"))
        labels.append(f"s{number},{('benign', 'dcis')[number % 2]},p{number}")
    (folder / "labels.csv").write_text("\n".join(["file,label,group", *labels]))
    pretrain(
        folder / "stores",
        method="simclr",
        out=folder / "encoder",
        init="random",
        backbone="resnet18",
        epochs=1,
        batch_size=32,
        stain_norm="macenko",
    )
    return folder


def _features(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return np.asarray(file["features"])


def test_pretrain_records_the_norm_and_embed_applies_or_refuses(work: Path, tmp_path: Path) -> None:
    record = json.loads((work / "encoder" / "run.json").read_text())
    stain = record["card"]["stain"]
    assert (stain["method"], stain["source"]) == ("macenko", "published (Macenko et al. 2009)")
    assert record["stain_norm"] == "macenko" and (work / "stores" / "s0.stain.json").is_file()
    stores = [work / "stores" / "s0.h5", work / "stores" / "s1.h5"]
    embed(stores, encoder=work / "encoder", out=tmp_path / "a", image_size=32)
    embed(stores, encoder=work / "encoder", out=tmp_path / "a", image_size=32, stain_norm="macenko")
    with pytest.raises(UsageError, match="trained under the stain norm macenko"):
        embed(stores, encoder=work / "encoder", out=tmp_path / "b", stain_norm="none")
    plain = {"encoder": "random", "backbone": "resnet18", "image_size": 32}
    embed(stores, out=tmp_path / "c", **plain)
    embed(stores, out=tmp_path / "d", stain_norm="macenko", **plain)
    assert np.abs(_features(tmp_path / "c" / "s0.h5") - _features(tmp_path / "d" / "s0.h5")).max() > 0
    with pytest.raises(UsageError, match="was not made of these patches"):
        embed(stores, out=tmp_path / "c", stain_norm="macenko", **plain)


def test_a_classifier_carries_the_norm_to_slides_and_stores(work: Path, tmp_path: Path) -> None:
    settings = Settings(head="linear")
    data = {"labels": str(work / "labels.csv"), "encoder": str(work / "encoder"), "image_size": 32}
    with pytest.raises(UsageError, match="trained under the stain norm macenko"):
        classify(work / "stores", out=tmp_path / "x", settings=settings, stain_norm="none", **data)
    classify(work / "stores", out=tmp_path / "run", settings=settings, **data)
    stain = load_classifier(tmp_path / "run").card.encoder.stain
    assert stain is not None and stain.method == "macenko"
    with pytest.raises(UsageError, match="trained under the stain norm macenko"):
        predict(tmp_path / "run", work / "slides", tmp_path / "p", options=PredictOptions(stain_norm="none"))
    slides = predict(tmp_path / "run", work / "slides" / "s1.svs", tmp_path / "a")
    stores = predict(tmp_path / "run", work / "stores" / "s1.h5", tmp_path / "b")
    assert not slides.failed and not stores.failed
    tables = [np.genfromtxt(tmp_path / name / "s1.csv", delimiter=",", skip_header=1) for name in "ab"]
    np.testing.assert_allclose(tables[0][:, :4], tables[1][:, :4], atol=2e-3)


def test_views_show_patches_before_and_after(work: Path, tmp_path: Path) -> None:
    words = ["views", str(work / "stores"), "--method", "simclr", "--out", str(tmp_path / "v.png")]
    result = CliRunner().invoke(main, [*words, "--stain-norm", "macenko", "--number", "3"])
    assert result.exit_code == 0 and "(macenko, a, b)" in result.output, result.output
    with Image.open(tmp_path / "v.png") as sheet:
        assert sheet.width > 4 * 112


def test_images_too_few_to_fit_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((32, 32, 3), 100 + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    import_images(tmp_path / "images", tmp_path / "stores", patch_size=32)
    words = ["views", str(tmp_path / "stores"), "--method", "simclr", "--stain-norm", "macenko"]
    result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "v.png")])
    assert result.exit_code == 1 and "one stain only" in result.output and result.output.count("Error") == 1
