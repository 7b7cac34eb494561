"""Tissue is found and ink left out on every drawn row; the table beside other rules is `bench_tissue.py`."""

from __future__ import annotations

from pathlib import Path

import bench_tissue
import numpy as np
import pytest
from bench_tissue import ROWS, RULES

from wsitool.slides.readers import open_slide
from wsitool.slides.spec import QualityThresholds, TileSpec
from wsitool.tiling.source import PatchSource, patch_source

# Fat is stained in its walls only; `--tissue filled` is for it.
_QUICK = (
    "H&E, pale",
    "Sirius red",
    "GMS",
    "Jones silver",
    "gray scan",
    "brown glass",
    "warm gradient",
    "blank glass",
)
_QUICK += ("black surround", "glue", "pens of 50 um", "pens of 250 um, red and purple")
_ROWS = [row if row in _QUICK else pytest.param(row, marks=pytest.mark.slow) for row in ROWS if row != "fat"]


@pytest.mark.benchmark
@pytest.mark.parametrize("row", _ROWS)
def test_every_stain_is_tissue_and_no_artefact_is(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_tissue, "RULES", {"wsitool": RULES["wsitool"]})
    recall, false = bench_tissue.measure(row)["wsitool"]
    assert recall >= 0.95 and false <= 0.03


@pytest.mark.benchmark
def test_the_table_names_every_rule_and_marks_what_is_missed() -> None:
    printed = bench_tissue.table(["fat", "H&E, pale"]).splitlines()
    assert all(name in printed[0] for name in RULES)
    assert printed[1].endswith("  *") and not printed[2].endswith("*")
    assert bench_tissue.measure("fat")["filled"][0] >= 0.95


def _source(folder: Path, name: str, **options: object) -> tuple[PatchSource, float, float]:
    """The patches of a case, their recall, and false ones as a share of the true."""
    truth = np.load(folder / f"{name}_truth.npz")["mask"]
    height, width = (side // 16 * 16 for side in truth.shape)
    share = truth[:height, :width].reshape(height // 16, 16, width // 16, 16).mean(axis=(1, 3))
    spec = TileSpec(patch_size=16, mpp=8.0, limits=QualityThresholds().limits, **options)  # type: ignore[arg-type]
    with open_slide(folder / f"{name}.jpg", default_mpp=8.0) as slide:
        source = patch_source(slide, spec)
    kept = np.zeros(share.shape, bool)
    x, y = source.candidates.coords[source.kept].T // 16
    kept[y, x] = True
    true = share >= 0.5
    return source, float((kept & true).sum() / true.sum()), float((kept & ~true).sum() / true.sum())


@pytest.mark.parametrize(
    ("name", "tissue"),
    [
        ("05_fatty_breast", "filled"),
        ("12_sirius_red", "chroma"),
        ("14_jones_silver", "chroma"),
        ("25_yellow_bg", "chroma"),
    ],
)
def test_stains_that_were_missed_are_found(real_data: Path, name: str, tissue: str) -> None:
    _, recall, false = _source(real_data / "cases" / "stains", name, tissue=tissue)
    assert recall >= 0.95 and false <= 0.03


def test_pens_are_left_out_on_tissue_and_on_glass(real_data: Path) -> None:
    """Of the true patches those with more ink than --max-pen go, too; with all of it allowed none does."""
    source, _, false = _source(real_data / "cases" / "stains", "16_pens")
    assert false <= 0.03 and source.candidates.scores["pen"].max() > 0.3
    rejected = source.candidates.reason[source.candidates.tissue >= 0.5] != 0
    inked = source.candidates.scores["pen"][source.candidates.tissue >= 0.5] > 0.1
    black = source.candidates.scores["near_black"][source.candidates.tissue >= 0.5] > 0
    assert (rejected == (inked | (rejected & black))).all()
