"""Annotation formats, and labels against a slow count of pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from skimage.draw import polygon2mask

from wsitool.annotations import (
    LabelMap,
    Region,
    find_annotations,
    label_patches,
    map_of_names,
    read_annotations,
    read_label_map,
)
from wsitool.errors import LabelError, UsageError

SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
HOLE = [[20, 20], [60, 20], [60, 60], [20, 60], [20, 20]]


def _feature(name: str | None = "Tumor", *, rings: list[list[list[int]]] | None = None) -> dict[str, object]:
    properties = {} if name is None else {"classification": {"name": name, "colorRGB": -1}}
    geometry = {"type": "Polygon", "coordinates": rings or [SQUARE, HOLE]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _write(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize("form", ["collection", "feature", "list"])
def test_three_forms_of_geojson(tmp_path: Path, form: str) -> None:
    forms = {
        "collection": {"type": "FeatureCollection", "features": [_feature()]},
        "feature": _feature(),
        "list": [_feature()],
    }
    found = read_annotations(_write(tmp_path / "a.geojson", forms[form]))
    assert [region.names for region in found.regions] == [("Tumor",)]
    assert found.regions[0].area.area == 100**2 - 40**2


def test_geojson_multipolygons_points_and_names(tmp_path: Path) -> None:
    far = [[[x + 500, y] for x, y in SQUARE]]
    features = [
        {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[SQUARE], far]}},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}},
        {**_feature(None), "properties": {"name": "by hand"}},
        {"type": "Feature", "geometry": None, "properties": {}},
    ]
    found = read_annotations(_write(tmp_path / "a.json", features))
    assert found.skipped == 2
    assert [region.names[0] for region in found.regions] == ["unnamed", "by hand"]
    assert found.regions[0].area.area == 2 * 100**2


def _imagescope(*regions: str, name: str = "", id: int = 2) -> str:
    return (
        f'<Annotations MicronsPerPixel="0.5"><Annotation Id="{id}" Name="{name}"><Regions>'
        + "".join(regions)
        + "</Regions></Annotation></Annotations>"
    )


def _region(points: list[list[int]], *, negative: int = 0, type: int = 0) -> str:
    vertices = "".join(f'<Vertex X="{x}.0" Y="{y}.0"/>' for x, y in points)
    return f'<Region Id="1" Type="{type}" NegativeROA="{negative}"><Vertices>{vertices}</Vertices></Region>'


def test_imagescope_holes_ellipses_lines_and_ids(tmp_path: Path) -> None:
    ellipse = _region([[200, 0], [400, 100]], type=2)
    text = _imagescope(_region(HOLE, negative=1), _region(SQUARE[:-1]), ellipse, _region(SQUARE[:2]))
    found = read_annotations(_write(tmp_path / "a.xml", text))
    assert (found.format, found.skipped) == ("ImageScope XML", 1)
    assert found.regions[0].names == ("2",)
    assert found.regions[0].area.area == 100**2 - 40**2
    assert found.regions[1].area.area == pytest.approx(np.pi * 100 * 50, rel=2e-3)


def test_asap_order_groups_and_dots(tmp_path: Path) -> None:
    order = [0, 2, 1, 3]  # as listed in the file: the ring is only a square once sorted
    corners = [(0, 0), (100, 0), (100, 100), (0, 100)]
    listed = "".join(f'<Coordinate Order="{i}" X="{corners[i][0]}" Y="{corners[i][1]}"/>' for i in order)
    text = (
        "<ASAP_Annotations><Annotations>"
        f'<Annotation Name="A 0" Type="Polygon" PartOfGroup="Tumor">'
        f"<Coordinates>{listed}</Coordinates></Annotation>"
        '<Annotation Name="d" Type="Dot" PartOfGroup="None"><Coordinates><Coordinate Order="0" X="1" Y="1"/>'
        "</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    found = read_annotations(_write(tmp_path / "a.xml", text))
    assert found.skipped == 1
    assert found.regions[0].names == ("Tumor", "A 0") and found.regions[0].area.area == 100**2


def test_real_files_of_all_formats(real_data: Path) -> None:
    folder = real_data / "annotations"
    wanted = {
        "asap_polygon.xml": ("ASAP XML", "Annotation 0", 0),
        "imagescope_prostate_outline.xml": ("ImageScope XML", "CaP", 0),
        "polygon_with_hole.geojson": ("GeoJSON", None, 1),
        "qupath_polygon_bare_feature.geojson": ("GeoJSON", "polygon", 0),
    }
    for file, (kind, name, holes) in wanted.items():
        found = read_annotations(folder / file)
        assert found.format == kind and len(found.regions) >= 1, file
        assert name is None or found.regions[0].names[0] == name
        polygons = [p for region in found.regions for p in shapely.get_parts(region.area)]
        assert sum(len(p.interiors) for p in polygons) >= holes, file
    outline = read_annotations(folder / "imagescope_prostate_outline.xml").regions[0].area
    assert outline.area == pytest.approx(29046449.6, rel=0.01)  # what ImageScope itself wrote as the area


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", "<Other/>", "root is Other"),
        ("a.xml", "<Annotations>", "damaged"),
        ("a.xml", '<!DOCTYPE x [<!ENTITY e "1">]><Annotations>&e;</Annotations>', "damaged"),
        ("a.xml", _imagescope('<Region><Vertices><Vertex X="1"/></Vertices></Region>'), "structure"),
        ("a.geojson", "{}", "no GeoJSON"),
        ("a.geojson", "[1]", "structure"),
        ("a.geojson", "{", "damaged"),
        ("a.geojson", "[" * 100_000, "damaged"),
        ("a.geojson", '[{"geometry": {"type": "Polygon", "coordinates": [[[1], [2], [3]]]}}]', "structure"),
        (
            "a.geojson",
            '[{"geometry": {"type": "Polygon", "coordinates": [[[1, NaN], [2, 3], [3, 4]]]}}]',
            "finite",
        ),
    ],
)
def test_bad_files_are_one_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_annotations(_write(tmp_path / name, text))
    with pytest.raises(LabelError, match="cannot be read"):
        read_annotations(tmp_path / "absent.xml")


def test_a_bow_tie_is_made_valid(tmp_path: Path) -> None:
    rings = [[[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]]
    found = read_annotations(_write(tmp_path / "a.geojson", _feature(rings=rings)))
    assert found.regions[0].area.is_valid and found.regions[0].area.area == 5000


def test_area_rule_counts_the_covered_pixels() -> None:
    outline = np.array([[13, 20], [180, 45], [150, 190], [60, 120]])  # x, y
    region = Region(names=("t",), area=shapely.Polygon(outline))
    label_map = LabelMap(entries=(("t", "tumour"),))
    coords = np.array([(x, y) for y in range(0, 200, 20) for x in range(0, 200, 20)])
    covered = polygon2mask((2000, 2000), outline[:, ::-1] * 10)
    for share in (0.3, 0.5, 0.9):
        labels = label_patches([region], label_map, ("tumour",), coords, 20.0, min_share=share)
        counted = [covered[y * 10 : y * 10 + 200, x * 10 : x * 10 + 200].mean() for x, y in coords]
        sure = np.abs(np.array(counted) - share) > 0.01
        np.testing.assert_array_equal((labels == 0)[sure], (np.array(counted) >= share)[sure])


def test_later_entries_are_painted_on_top_and_null_erases() -> None:
    regions = [
        Region(names=("whole",), area=shapely.box(0, 0, 100, 100)),
        Region(names=("viable", "2"), area=shapely.box(0, 0, 50, 100)),
        Region(names=("artefact",), area=shapely.box(0, 0, 100, 20)),
        Region(names=("other",), area=shapely.box(0, 0, 100, 100)),
    ]
    entries = (("whole", "necrosis"), ("2", "viable"), ("artefact", None))
    label_map = LabelMap(entries=entries)
    assert label_map.classes == ("necrosis", "viable")
    coords = np.array([[0, 0], [0, 40], [60, 40], [45, 40], [200, 200]])
    labels = label_patches(regions, label_map, label_map.classes, coords, 20.0)
    assert labels.tolist() == [-1, 1, 0, 0, -1]
    centre = label_patches(regions, label_map, label_map.classes, coords - [[0, 5]], 20.0, rule="centre")
    assert centre.tolist() == [-1, 1, 0, 0, -1]


def test_without_a_map_names_are_classes(tmp_path: Path) -> None:
    found = read_annotations(_write(tmp_path / "a.geojson", [_feature("b"), _feature("a")]))
    assert map_of_names([found]).entries == (("a", "a"), ("b", "b"))


def test_label_maps(tmp_path: Path) -> None:
    as_json = read_label_map(_write(tmp_path / "m.json", {"1": "tumour", "x": None}))
    as_csv = read_label_map(_write(tmp_path / "m.csv", "name,label\n1,tumour\nx,\n"))
    assert as_json == as_csv == LabelMap(entries=(("1", "tumour"), ("x", None)))
    for name, text in (("a.json", "["), ("b.json", "[1]"), ("c.csv", "a,b\n"), ("d.json", '{"x": null}')):
        with pytest.raises(LabelError, match="label map"):
            read_label_map(_write(tmp_path / name, text))


def test_the_file_of_a_slide_is_found(tmp_path: Path) -> None:
    one = _write(tmp_path / "s1.geojson", _feature())
    assert find_annotations(tmp_path, "s1") == one == find_annotations(one, "anything")
    assert find_annotations(tmp_path, "s2") is None
    with pytest.raises(UsageError, match="--annotations"):
        find_annotations(tmp_path / "absent", "s1")
