"""A classifier remembers how the patches of its stores were chosen, and `predict` chooses alike."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from wsitool.classify.model import ClassifierCard, load_classifier
from wsitool.classify.run import classify
from wsitool.classify.settings import Settings
from wsitool.predict.options import PredictOptions
from wsitool.predict.run import predict
from wsitool.slides.slide_list import SlideInput
from wsitool.slides.spec import CandidateRule, Limit, QualityThresholds, TileSpec
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import draw_tissue
from wsitool.tiling.run import tile_slides

_SPEC = {"patch_size": 64, "mpp": 0.5}
_STRICT = QualityThresholds(max_black=None, max_pen=0.02, max_white=0.4).limits


def _slides(folder: Path) -> list[SlideInput]:
    """Four patients, two of each class; each has a black bar, a pen stroke and a wide white margin."""
    slides = []
    for number in range(4):
        kind = ("benign", "dcis")[number % 2]
        pixels = draw_tissue(640, 640, kind=kind, mpp=0.5, seed=number, glass=0.0)
        pixels[128:256, 128:384] = (8, 8, 8)
        pixels[448:480, 320:384] = (20, 40, 190)
        pixels[:, 480:] = 250
        Image.fromarray(pixels).save(folder / f"s{number}.png")
        slides.append(SlideInput(path=str(folder / f"s{number}.png"), label=kind, group=f"p{number}"))
    return slides


def _train(stores: Path, out: Path) -> ClassifierCard:
    settings = Settings(head="linear", c=0.1, device="cpu")
    classify(stores, out=out, encoder="random", backbone="resnet18", image_size=32, settings=settings)
    return load_classifier(out).card


def _corners(table: Path) -> set[tuple[int, int]]:
    with table.open() as file:
        return {(int(row["x"]), int(row["y"])) for row in csv.DictReader(file)}


@pytest.mark.parametrize(("least", "tissue"), [(0.1, "chroma"), (0.6, "chroma"), (0.3, "otsu")])
def test_a_slide_is_judged_by_the_patches_that_tile_would_store(
    tmp_path: Path, least: float, tissue: str
) -> None:
    slides = _slides(tmp_path)
    spec = TileSpec(**_SPEC, min_tissue=least, tissue=tissue, limits=_STRICT)
    tile_slides(slides, tmp_path / "t", spec, default_mpp=0.5, workers=1)
    card = _train(tmp_path / "t", tmp_path / "run")
    assert card.candidates == CandidateRule(min_tissue=least, limits=_STRICT, tissue=tissue)
    predict(tmp_path / "run", slides[0].path, tmp_path / "p", options=PredictOptions(default_mpp=0.5))
    with open_store(tmp_path / "t" / "s0.h5") as store:
        expected = {(x, y) for x, y in store.coords.tolist()}
    assert _corners(tmp_path / "p" / "s0.csv") == expected
    usual = TileSpec(**_SPEC, limits=QualityThresholds().limits)
    tile_slides(slides[0].path, tmp_path / "u", usual, default_mpp=0.5)
    with open_store(tmp_path / "u" / "s0.h5") as store:
        assert {(x, y) for x, y in store.coords.tolist()} != expected


def test_stores_tiled_by_different_rules_leave_the_defaults(tmp_path: Path) -> None:
    slides = _slides(tmp_path)
    for part, limits in ((slides[:2], ()), (slides[2:], _STRICT)):
        tile_slides(part, tmp_path / "t", TileSpec(**_SPEC, limits=limits), default_mpp=0.5, workers=1)
    assert _train(tmp_path / "t", tmp_path / "run").candidates is None
    options = PredictOptions(default_mpp=0.5)
    predict(tmp_path / "run", slides[0].path, tmp_path / "p", options=options)
    usual = TileSpec(**_SPEC, limits=QualityThresholds().limits)
    tile_slides(slides[0].path, tmp_path / "u", usual, default_mpp=0.5)
    with open_store(tmp_path / "u" / "s0.h5") as store:
        assert _corners(tmp_path / "p" / "s0.csv") == {(x, y) for x, y in store.coords.tolist()}


@pytest.mark.parametrize(
    "rule",
    [{"min_tissue": 2.0, "limits": []}, {"min_tissue": 0.5, "limits": [{"score": "luck", "reason": "x"}]}],
)
def test_a_card_with_a_rule_that_cannot_be_is_refused(rule: dict[str, object]) -> None:
    assert CandidateRule.common([rule]) is None
    with pytest.raises(ValueError, match=r"min_tissue|luck"):
        CandidateRule(
            min_tissue=float(rule["min_tissue"]),  # type: ignore[arg-type]
            limits=tuple(Limit(**limit) for limit in rule["limits"]),  # type: ignore[attr-defined]
        )
