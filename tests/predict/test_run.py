import csv
import json
from dataclasses import replace
from pathlib import Path

import geojson
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from wsitool.backbones.build import build_backbone
from wsitool.base.lock import locked
from wsitool.classify.model import Classifier, ClassifierCard, load_classifier, save_classifier
from wsitool.cli import main
from wsitool.curate.importing import import_images
from wsitool.errors import EncoderError, StoreError, UsageError
from wsitool.predict import judging
from wsitool.predict.embedding import embed
from wsitool.predict.options import PredictOptions
from wsitool.predict.prediction import Picture, mosaic
from wsitool.predict.run import predict
from wsitool.slides.annotation_files import read_annotations
from wsitool.slides.spec import QualityThresholds, TileSpec
from wsitool.store.opening import open_store
from wsitool.testing import draw_tissue, synthetic_slide
from wsitool.tiling.run import tile_slide

CLASSES = ("benign", "dcis")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    encoder = build_backbone("resnet18", init="random", seed=1)
    card = ClassifierCard(
        classes=CLASSES,
        head="finetune",
        image_size=32,
        patch_size=64,
        mpp=0.5,
        temperature=1.5,
        groups=("p1",),
        encoder=encoder.card,
    )
    torch.manual_seed(0)
    save_classifier(Classifier(encoder, torch.nn.Linear(512, 2), card), folder / "classifier.safetensors")
    return folder


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "s.svs"
    return synthetic_slide(path, organ="breast", kind="dcis", size=(700, 600), mpp=0.5, compression="none")


def _table(path: Path) -> dict[tuple[int, int], float]:
    with path.open() as file:
        return {(int(row["x"]), int(row["y"])): float(row["p_dcis"]) for row in csv.DictReader(file)}


def test_slide_and_its_store_give_the_same(run: Path, slide: Path, tmp_path: Path) -> None:
    limits = QualityThresholds().limits  # as the command has them
    tile_slide(slide, tmp_path / "stores", TileSpec(patch_size=64, mpp=0.5, codec="raw", limits=limits))
    streamed = predict(run, [slide], tmp_path / "a", options=PredictOptions(batch_size=16))
    stored = predict(run, [tmp_path / "stores"], tmp_path / "b", options=PredictOptions(batch_size=16))
    assert not streamed.failed and not stored.failed
    first, second = _table(tmp_path / "a" / "s.csv"), _table(tmp_path / "b" / "s.csv")
    assert len(first) > 20 and first.keys() == second.keys()
    assert max(abs(first[place] - second[place]) for place in first) < 1e-4


def test_sixteen_bits_when_asked_for(run: Path, slide: Path, tmp_path: Path) -> None:
    """Nearly the same probabilities, and none of the one is taken for the other on a second run."""
    tile_slide(slide, tmp_path / "stores", TileSpec(patch_size=64, mpp=0.5, codec="raw"))
    exact = predict(run, [slide], tmp_path / "a")
    auto = predict(run, [slide], tmp_path / "a", options=PredictOptions(precision="auto"))
    assert (exact.kept, auto.kept) == (0, 1)  # auto is 32 on a CPU
    rounded = predict(run, [slide], tmp_path / "b", options=PredictOptions(precision="bf16"))
    tables = [_table(tmp_path / name / "s.csv") for name in ("a", "b")]
    gaps = [abs(tables[0][corner] - tables[1][corner]) for corner in tables[0]]
    assert 0 < max(gaps) < 0.02 and not rounded.failed
    stored = predict(run, [tmp_path / "stores"], tmp_path / "c", options=PredictOptions(precision="bf16"))
    assert not stored.failed and stored.slides[0].mean != exact.slides[0].mean
    again = predict(run, [slide], tmp_path / "b", options=PredictOptions(overwrite=True))
    assert (again.kept, _table(tmp_path / "b" / "s.csv")) == (0, tables[0])
    with pytest.raises(UsageError, match="float16 is for GPUs"):
        predict(run, [slide], tmp_path / "d", options=PredictOptions(precision="16"))
    assert not (tmp_path / "d").exists()


def test_probabilities_are_the_calibrated_ones_of_the_bare_model(
    run: Path, slide: Path, tmp_path: Path
) -> None:
    tile_slide(slide, tmp_path / "stores", TileSpec(patch_size=64, mpp=0.5, codec="raw"))
    predict(run, [slide], tmp_path / "a")
    classifier = load_classifier(run)
    with open_store(tmp_path / "stores" / "s.h5") as store, torch.no_grad():
        patches = torch.from_numpy(store.read(np.arange(len(store)))).permute(0, 3, 1, 2).float() / 255
        small = torch.nn.functional.interpolate(patches, (32, 32), mode="bilinear", antialias=True)
        expected = torch.softmax(classifier(small) / 1.5, 1)[:, 1].tolist()
        places = [(int(x), int(y)) for x, y in store.coords]
    found = _table(tmp_path / "a" / "s.csv")
    assert [found[place] for place in places] == pytest.approx(expected, abs=0.01)  # bytes are resized here


def test_geojson_is_valid_and_laid_out_as_qupath_has_it(run: Path, slide: Path, tmp_path: Path) -> None:
    predict(run, [slide], tmp_path)
    text = (tmp_path / "s.geojson").read_text()
    collection = geojson.loads(text)
    tiles = [one for one in collection.features if one["properties"]["objectType"] == "tile"]
    assert collection.is_valid and len(tiles) == len(_table(tmp_path / "s.csv"))
    tissue = collection.features[: -len(tiles)]
    assert tissue and all(one["properties"]["classification"]["name"] == "wsitool: tissue" for one in tissue)
    feature = tiles[0]
    assert feature["properties"]["classification"]["name"].removesuffix(": uncertain") in CLASSES
    assert len(feature["properties"]["classification"]["color"]) == 3
    measured = {entry["name"]: entry["value"] for entry in feature["properties"]["measurements"]}
    assert measured.keys() == {"p benign", "p dcis"} and sum(measured.values()) == pytest.approx(1, abs=1e-5)
    (x0, y0), _, (x1, y1) = feature["geometry"]["coordinates"][0][:3]
    assert (x1 - x0, y1 - y0) == (64, 64)
    outlines = read_annotations(tmp_path / "s.geojson")  # as an export of QuPath is read
    assert len(outlines.regions) == len(collection.features) and not outlines.skipped
    assert outlines.regions[-1].area.area == 64 * 64 and outlines.regions[-1].tile
    ids = [feature["id"] for feature in collection.features]
    predict(run, [slide], tmp_path)
    again = geojson.loads((tmp_path / "s.geojson").read_text())
    assert [feature["id"] for feature in again.features] == ids and len(set(ids)) == len(ids)


def test_one_bad_slide_does_not_stop_the_others(run: Path, slide: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"nothing")
    result = CliRunner().invoke(
        main, ["predict", str(run), str(bad), str(slide), "--out", str(tmp_path / "o")]
    )
    assert result.exit_code == 1 and "Error: bad:" in result.stderr
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "s.csv",
        "s.geojson",
        "s-benign.jpg",
        "s-called.jpg",
        "s-dcis.jpg",
        "report.html",
        "summary.csv",
    }
    result = CliRunner().invoke(
        main, ["predict", str(run), str(slide), "--out", str(tmp_path / "o"), "--json"]
    )
    found = json.loads(result.stdout)["slides"][0]
    assert result.exit_code == 0 and sum(found["shares_of_patches"].values()) == pytest.approx(1)


def test_another_resolution_is_refused_unless_told(
    run: Path, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:  # before tissue is looked for, which may take minutes
        patched.delattr(judging, "open_stream")
        refused = predict(run, [slide], tmp_path / "a", options=PredictOptions(mpp=1.0))
    assert "more than 10 % off" in refused.failed[0][1]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["summary.csv"]
    told = predict(run, [slide], tmp_path / "a", options=PredictOptions(mpp=1.0, accept_mpp=True))
    assert len(told.slides) == 1
    with (tmp_path / "a" / "s.csv").open() as file:
        assert {row["size"] for row in csv.DictReader(file)} == {"128"}


def test_images_of_an_imported_store_are_judged_each_on_its_own(run: Path, tmp_path: Path) -> None:
    for name, width in (("p1/a.png", 200), ("p2/a.png", 140)):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = draw_tissue(width, 130, kind="benign", mpp=0.5, seed=width, glass=0.0)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    import_images(
        tmp_path / "in", tmp_path / "s", patch_size=64, min_tissue=0, mpp=0.5, codec="raw", group_regex="a"
    )
    words = ["predict", str(run), str(tmp_path / "s"), "--out", str(tmp_path / "o")]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 0 and "labelled p1, p2 and the classifier knows benign, dcis" in told.stderr
    page = (tmp_path / "o" / "report.html").read_text()
    # Two maps and the patches of each image, from the one store.
    assert page.count("data:image/jpeg") == 2 * 2 + 6 + 4 and "neither the slide" not in page
    found = predict(run, [tmp_path / "s"], tmp_path / "o")
    assert [(part.name, part.patches) for part in found.slides] == [("p1_a", 6), ("p2_a", 4)]
    assert found.kept == 2  # the same as before
    assert {path.name for path in (tmp_path / "o").glob("p1_a*")} == {
        "p1_a.csv",
        "p1_a.geojson",
        "p1_a-benign.jpg",
        "p1_a-called.jpg",
        "p1_a-dcis.jpg",
    }
    with open_store(tmp_path / "s" / "a.h5") as store:
        shrunk = mosaic(store, np.flatnonzero(store.sources == store.sources[0]))
    pixels = np.asarray(Image.open(tmp_path / "in" / "p1" / "a.png").convert("RGB"))
    assert np.array_equal(shrunk.pixels[:128, :192], pixels[:128, :192])  # the image's patches, in place
    ids = [
        feature["id"]
        for name in ("p1_a", "p2_a")
        for feature in geojson.loads((tmp_path / "o" / f"{name}.geojson").read_text()).features
    ]
    assert len(set(ids)) == 10


def test_large_thumbnail_is_shrunk_for_drawing_in_place() -> None:
    pixels = np.zeros((400, 1000, 3), np.uint8)
    pixels[200:, 500:] = 250
    small = Picture(pixels=pixels, downsample=(32.0, 16.0)).at_most(250)
    assert small.pixels.shape == (100, 250, 3) and small.downsample == (128.0, 64.0)
    assert (small.pixels[50:, 125:] == 250).all() and not small.pixels[:50].any()
    assert small.at_most(250) is small


def test_unknown_training_resolution_is_told(run: Path, slide: Path, tmp_path: Path) -> None:
    classifier = load_classifier(run)
    classifier.card = replace(classifier.card, mpp=None)
    save_classifier(classifier, tmp_path / "run" / "classifier.safetensors")
    words = ["predict", str(tmp_path / "run"), str(slide), "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0 and "read as they are (level 0): give --mpp" in result.stderr
    result = CliRunner().invoke(main, [*words, "--mpp", "0.5", "--overwrite"])
    assert result.exit_code == 0 and "level 0" not in result.stderr


def test_what_is_no_classifier_is_refused(tmp_path: Path, slide: Path) -> None:
    with pytest.raises(
        EncoderError, match=r"There is no classifier .*: pass a folder that 'wsitool classify'"
    ):
        predict(tmp_path, [slide], tmp_path / "o")
    (tmp_path / "classifier.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(EncoderError, match="cannot be read as a classifier"):
        predict(tmp_path, [slide], tmp_path / "o")


def test_two_predictions_or_embeddings_into_one_folder_are_kept_apart(
    run: Path, slide: Path, tmp_path: Path
) -> None:
    tile_slide(slide, tmp_path / "stores", TileSpec(patch_size=64, mpp=0.5))
    for name, go in (
        ("summary.csv", lambda out: predict(run, [slide], out)),
        ("map.png", lambda out: embed(tmp_path / "stores", encoder="random", backbone="resnet18", out=out)),
    ):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        with locked(out / name, what="it"), pytest.raises(StoreError, match="is being written by process"):
            go(out)
        assert not [path for path in out.iterdir() if not path.name.startswith(".")]
