"""A large export is written feature by feature: memory does not grow with the patches."""

import json
import tracemalloc
from pathlib import Path

import geojson
import numpy as np
import pytest

from wsitool.base.files import replace_file_in_parts
from wsitool.report.geojson import write_geojson
from wsitool.slides.annotations import map_of_names, read_annotations
from wsitool.slides.masks import read_mask
from wsitool.slides.slide import Level, SlideInfo


def _write(path: Path, count: int) -> int:
    """The most bytes Python held while `count` patches were written."""
    coords = np.stack([np.arange(count) % 100, np.arange(count) // 100], axis=1) * 448
    probabilities = np.full((count, 2), 0.5)
    tracemalloc.start()
    write_geojson(
        path, slide="s", coords=coords, size_level0=448, probabilities=probabilities, classes=("a", "b")
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_patches(tmp_path: Path) -> None:
    _write(tmp_path / "warm.geojson", 10)
    few, many = _write(tmp_path / "few.geojson", 500), _write(tmp_path / "many.geojson", 10_000)
    assert many < few + 400_000 < (tmp_path / "many.geojson").stat().st_size
    collection = geojson.loads((tmp_path / "many.geojson").read_text())
    assert collection.is_valid and len(collection.features) == 10_000
    assert collection.features[101].geometry.coordinates[0][0] == [448, 448]


@pytest.mark.parametrize("name", ["polygon_with_hole", "qupath_polygon_bare_feature"])
def test_layout_is_that_of_real_exports(real_data: Path, tmp_path: Path, name: str) -> None:
    real = geojson.loads((real_data / "annotations" / f"{name}.geojson").read_text())
    _write(tmp_path / "own.geojson", 3)
    own = geojson.loads((tmp_path / "own.geojson").read_text()).features[0]
    assert list(own) == list(real) == ["type", "id", "geometry", "properties"]
    assert (own["type"], own["geometry"]["type"]) == (real["type"], real["geometry"]["type"])
    ring = np.array(own["geometry"]["coordinates"][0])
    assert ring.shape[1] == np.array(real["geometry"]["coordinates"][0]).shape[1] == 2
    assert (ring[0] == ring[-1]).all()  # closed, as QuPath's own are
    for key in {"objectType", "measurements"} & set(real["properties"]):
        assert type(own["properties"][key]) is type(real["properties"][key])


def test_no_patches_are_an_empty_collection(tmp_path: Path) -> None:
    _write(tmp_path / "none.geojson", 0)
    assert geojson.loads((tmp_path / "none.geojson").read_text()).features == []


def test_an_error_on_the_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    def parts():  # type: ignore[no-untyped-def]
        yield b"new"
        raise ValueError("stop")

    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(ValueError, match="stop"):
        replace_file_in_parts(tmp_path / "f", parts())
    assert (tmp_path / "f").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def _features(path: Path, **more: object) -> list[dict[str, object]]:
    coords = np.array([[0, 0], [448, 0], [896, 0]])
    probabilities = np.array([[0.9, 0.1], [0.55, 0.45], [0.2, 0.8]])
    write_geojson(
        path,
        slide="s",
        coords=coords,
        size_level0=448,
        probabilities=probabilities,
        classes=("a", "b"),
        **more,  # type: ignore[arg-type]
    )
    return json.loads(path.read_text())["features"]  # type: ignore[no-any-return]


def test_uncertain_tiles_are_a_subclass_of_their_class(tmp_path: Path) -> None:
    classes = [one["properties"]["classification"] for one in _features(tmp_path / "f", least_lead=0.2)]  # type: ignore[index]
    assert [one["name"] for one in classes] == ["a", "a: uncertain", "b"]
    assert classes[1]["names"] == ["a", "uncertain"] and classes[0]["color"] != classes[1]["color"]
    # A label map that names the class finds it.
    assert "a" in read_annotations(tmp_path / "f").regions[1].names


def test_ids_are_of_the_place_alone_and_all_different(tmp_path: Path) -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:5, 2:5] = mask[8:15, 3:9] = True
    first = _features(tmp_path / "1", tissue=(mask, (16.0, 16.0)))
    again = _features(tmp_path / "2", least_lead=0.9, tissue=(mask, (16.0, 16.0)))
    ids = [one["id"] for one in first]
    assert ids == [one["id"] for one in again] and len(set(ids)) == len(ids) == 5


def test_the_outline_comes_back_as_the_same_mask_among_tiles(tmp_path: Path) -> None:
    """As QuPath exports all objects: tiles are nobody's drawing of tissue."""
    mask = np.random.default_rng(0).random((40, 50)) < 0.5
    _features(tmp_path / "s.geojson", tissue=(mask, (16.0, 16.0)))
    slide = SlideInfo(
        path="s.svs",
        name="s",
        reader="tiff",
        format="",
        levels=(Level(width=800, height=640, downsample=1.0),),
        mpp=0.5,
        mpp_source="file",
        objective_power=None,
        fingerprint="",
    )
    assert (read_mask(tmp_path / "s.geojson", slide, mask.shape, 16.0) == mask).all()
    # Without a label map no layer of ours becomes a class.
    assert map_of_names([read_annotations(tmp_path / "s.geojson")]).classes == ("a", "b")
