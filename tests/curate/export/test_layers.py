"""What `export --to geojson` gives QuPath, and what comes back: the same tissue, the same patches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsitool.curate.export.run import export_stores
from wsitool.report.geojson import write_geojson
from wsitool.slides.spec import QualityThresholds, TileSpec
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide
from wsitool.tiling.run import tile_slide

SPEC = TileSpec(level=0, patch_size=64, limits=QualityThresholds().limits)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layers")
    synthetic_slide(root / "s.svs", size=(900, 700), glass=0.35)
    tile_slide(root / "s.svs", root / "stores", SPEC)
    export_stores(root / "stores", root / "out", to="geojson")
    return root


def _features(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["features"]  # type: ignore[no-any-return]


def _names(features: list[dict[str, Any]]) -> list[str]:
    return [one["properties"].get("classification", {}).get("name", "") for one in features]


def test_tissue_kept_and_rejected_positions_are_layers(exported: Path) -> None:
    features = _features(exported / "out" / "s.geojson")
    with open_store(exported / "stores" / "s.h5") as store:
        candidates, kept = store.candidates, len(store)
    names = _names(features)
    assert names.count("") == kept and names.count("wsitool: tissue") >= 1
    for number, reason in enumerate(candidates.reasons[1:], start=1):
        assert names.count(f"wsitool: rejected: {reason}") == (candidates.reason == number).sum()
    assert sum(name.startswith("wsitool: rejected") for name in names) > 0
    assert len({one["id"] for one in features}) == len(features)


def test_the_outline_gives_the_same_patches_again(exported: Path, tmp_path: Path) -> None:
    mask = exported / "out" / "s.geojson"
    again = TileSpec(level=0, patch_size=64, limits=SPEC.limits, tissue=f"mask:{mask}")
    tile_slide(exported / "s.svs", tmp_path, again)
    with open_store(exported / "stores" / "s.h5") as first, open_store(tmp_path / "s.h5") as second:
        assert (first.candidates.reason == second.candidates.reason).all()
        assert np.allclose(first.tissue, second.tissue, atol=1e-6)
        assert (first.coords == second.coords).all()
        assert (first.read(range(len(first))) == second.read(range(len(second)))).all()


def test_an_outline_made_smaller_gives_fewer_patches(exported: Path, tmp_path: Path) -> None:
    """As a person does in QuPath, who exports without the tiles or with them."""
    features = [f for f in _features(exported / "out" / "s.geojson") if f["geometry"]["coordinates"]]
    for feature in features:
        if feature["properties"]["objectType"] == "annotation":
            rings = feature["geometry"]["coordinates"]
            feature["geometry"]["coordinates"] = [[[min(x, 400), y] for x, y in ring] for ring in rings[:1]]
    (tmp_path / "s.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    edited = TileSpec(level=0, patch_size=64, limits=SPEC.limits, tissue=f"mask:{tmp_path}")
    tile_slide(exported / "s.svs", tmp_path / "out", edited)
    with open_store(tmp_path / "out" / "s.h5") as store:
        assert store.coords[:, 0].max() < 400


def test_predict_and_export_write_measurements_in_one_shape(exported: Path, tmp_path: Path) -> None:
    write_geojson(
        tmp_path / "p.geojson",
        slide="s",
        coords=np.zeros((1, 2), np.int64),
        size_level0=64,
        probabilities=np.array([[0.123456789, 0.9]]),
        classes=("a", "b"),
    )
    tiles = [f for f in _features(exported / "out" / "s.geojson") if f["properties"]["objectType"] == "tile"]
    for feature in (tiles[0], tiles[-1], *_features(tmp_path / "p.geojson")):
        assert list(feature) == ["type", "id", "geometry", "properties"]
        measured = feature["properties"]["measurements"]
        assert measured and all(list(one) == ["name", "value"] for one in measured)
        assert all(
            isinstance(one["value"], float) and round(one["value"], 6) == one["value"] for one in measured
        )


def test_a_slide_that_is_away_leaves_the_outline_out_and_says_so(exported: Path, tmp_path: Path) -> None:
    (exported / "s.svs").rename(tmp_path / "s.svs")
    try:
        export_stores(exported / "stores", tmp_path / "out", to="geojson")
    finally:
        (tmp_path / "s.svs").rename(exported / "s.svs")
    collection = json.loads((tmp_path / "out" / "s.geojson").read_text())
    assert "away" in collection["wsitool"]["tissue"]
    assert "wsitool: tissue" not in _names(collection["features"])
