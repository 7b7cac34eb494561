"""Tissue is found and ink left out on every drawn row; the table beside other rules is `bench_tissue.py`."""

from __future__ import annotations

import re
from pathlib import Path

import bench_tissue
import numpy as np
import pytest
from bench_tissue import ROWS, RULES

from wsitool.slides.readers import open_slide
from wsitool.slides.spec import QualityThresholds, TileSpec
from wsitool.tiling.source import PatchSource, patch_source

_QUICK = (
    "H&E, pale",
    "Sirius red",
    "GMS",
    "Jones silver",
    "gray scan",
    "brown glass",
    "warm gradient",
    "blank glass",
    "fat",
)
_QUICK += ("black surround", "glue", "pens of 50 um", "pens of 250 um, red and purple")
_ROWS = [row if row in _QUICK else pytest.param(row, marks=pytest.mark.slow) for row in ROWS]


@pytest.mark.benchmark
@pytest.mark.parametrize("row", _ROWS)
def test_every_stain_is_tissue_and_no_artefact_is(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_tissue, "RULES", {"wsitool": RULES["wsitool"]})
    recall, false = bench_tissue.measure(row)["wsitool"]
    assert recall >= 0.95 and false <= 0.03


@pytest.mark.benchmark
def test_the_table_names_every_rule_and_marks_what_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = bench_tissue.table(["fat", "H&E, pale"]).splitlines()
    assert all(name in printed[0] for name in RULES)
    assert printed[1].startswith("fat (--tissue filled)")
    assert not any(line.endswith("*") for line in printed)
    monkeypatch.setattr(bench_tissue, "OPTIONS", {})
    assert bench_tissue.table(["fat"]).endswith("  *")


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
    source, recall, false = _source(real_data / "cases" / "stains", name, tissue=tissue)
    assert recall >= 0.95 and false <= 0.03
    assert source.doubts == []


def test_fat_is_told_and_the_option_for_it_named(real_data: Path) -> None:
    source, recall, _ = _source(real_data / "cases" / "stains", "05_fatty_breast")
    (doubt,) = source.doubts
    assert recall < 0.5 and re.match(r"only 4\d% of what lies .* pass --tissue filled$", doubt)


def test_pens_are_left_out_on_tissue_and_on_glass(real_data: Path) -> None:
    source, recall, _ = _source(real_data / "cases" / "stains", "16_pens")
    assert recall >= 0.95 and source.candidates.scores["ink"].max() > 0.9
    truth = np.load(real_data / "cases" / "stains" / "16_pens_truth.npz")["mask"]
    share = np.array([truth[y : y + 16, x : x + 16].mean() for x, y in source.candidates.coords.tolist()])
    # Those that are ink or glass: a patch at the border of the tissue is no false one.
    assert (share[source.kept] < 0.1).sum() <= 0.03 * (share >= 0.5).sum()
