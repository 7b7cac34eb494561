"""Annotation formats, and labels against a slow count of pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from skimage.draw import polygon2mask

from wsitool.errors import LabelError, UsageError
from wsitool.slides.annotations import (
    LabelMap,
    Region,
    find_annotations,
    label_patches,
    map_of_names,
    read_annotations,
    read_label_map,
)

CASES = "cases/annotations"
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


def _geometry(rings: object) -> str:
    return json.dumps([{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}}])


def _billion_laughs() -> str:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    return f'<!DOCTYPE a [<!ENTITY e0 "x">{entities}]><Annotations>&e9;</Annotations>'


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
        ("a.geojson", '[{"a":' * 100_000, "damaged"),
        ("a.geojson", "9" * 5000, "structure|damaged"),
        ("a.geojson", _geometry([[[1, 10**400], [2, 3], [3, 4]]]), "structure"),
        ("a.geojson", _geometry([[[1, 1e10], [2, 3], [3, 4]]]), "beyond any slide"),
        ("a.geojson", _geometry([[[1, 1e999], [2, 3], [3, 4]]]), "finite"),
        ("a.geojson", _geometry([[[0, 0], [9, 0], [9, 9]], [[1, 1], [2, 1], [2, None]]]), "structure|finite"),
        ("a.geojson", _geometry({"a": 1}), "structure"),
        ("a.geojson", '{"type": "FeatureCollection", "features": {"a": 1}}', "structure"),
        ("a.geojson", "", "damaged"),
        ("a.xml", "<" + "a>" * 3, "damaged"),
        ("a.xml", "<a>" * 50_000, "damaged"),
        ("a.xml", '<?xml version="1.0" encoding="UTF-16"?><Annotations/>', "damaged"),
        ("a.xml", '<?xml version="1.0" encoding="none-such"?><Annotations/>', "damaged"),
        ("a.xml", _billion_laughs(), "damaged"),
        (
            "a.xml",
            _imagescope(_region(SQUARE).replace('"100.0"', '"12,345"')),
            "'12,345' may be 12.345 or 12345",
        ),
        ("a.xml", _imagescope(_region(SQUARE).replace('"100.0"', '"1OO"')), "coordinate '1OO' is no number"),
        ("a.xml", _imagescope(_region(SQUARE).replace('"100.0"', '"nan"')), "finite"),
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
    center = label_patches(regions, label_map, label_map.classes, coords - [[0, 5]], 20.0, rule="centre")
    assert center.tolist() == [-1, 1, 0, 0, -1]


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


def test_halo_outlines_and_rectangles(real_data: Path) -> None:
    found = read_annotations(real_data / CASES / "halo.xml")
    assert (found.format, found.skipped) == ("HALO XML", 0)
    assert [(region.names, region.area.bounds) for region in found.regions] == [
        (("Tumor",), (100, 100, 1000, 900)),
        (("Tumor",), (1100, 100, 1400, 800)),
    ]
    assert [region.area.area for region in found.regions] == [900 * 800, 300 * 700]


def test_halo_ellipses_and_holes(tmp_path: Path) -> None:
    box, hole = '<V X="0" Y="0"/><V X="200" Y="100"/>', '<V X="90" Y="40"/><V X="110" Y="60"/>'
    text = f"""<Annotations><Annotation Name="T"><Regions>
      <Region Type="Ellipse" NegativeROA="0"><Vertices>{box}</Vertices></Region>
      <Region Type="Rectangle" NegativeROA="1"><Vertices>{hole}</Vertices></Region>
      <Region Type="Ruler" NegativeROA="0"><Vertices>{hole}</Vertices></Region>
    </Regions></Annotation></Annotations>"""
    found = read_annotations(_write(tmp_path / "a.annotations", text))
    assert found.skipped == 1
    assert found.regions[0].area.area == pytest.approx(np.pi * 100 * 50 - 20 * 20, rel=2e-3)


def test_a_decimal_comma_is_read(real_data: Path) -> None:
    found = read_annotations(real_data / CASES / "asap_dot.xml")
    assert (len(found.regions), found.skipped) == (1, 1)
    assert found.regions[0].area.bounds == (100, 100, 1000, 900)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("anno-asapinf.xml", "the Order 'inf', which is no finite number"),
        ("anno-selfcross1500.geojson", "outline of 'tumour' crosses itself more than 1000 times"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(real_data: Path, name: str, message: str) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        read_annotations(real_data / CASES / name)
    assert "\n" not in str(caught.value)


def test_outlines_that_cross_themselves_are_filled_by_even_and_odd(tmp_path: Path) -> None:
    angle = np.arange(25) * 2 * np.pi * 12 / 25  # a star of 25 points
    ring = np.stack([1000 + 900 * np.cos(angle), 1000 + 900 * np.sin(angle)], axis=1)
    found = read_annotations(_write(tmp_path / "a.geojson", _geometry([ring.tolist()])))
    grid = np.array([(x + 0.5, y + 0.5) for x in range(50, 2000, 97) for y in range(50, 2000, 89)])
    (x, y), start, end = grid.T[:, :, None], ring, np.roll(ring, -1, axis=0)
    left = start[:, 0] + (y - start[:, 1]) * (end - start)[:, 0] / ((end - start)[:, 1])
    crossed = (((start[:, 1] > y) != (end[:, 1] > y)) & (x < left)).sum(axis=1)
    inside = shapely.contains_xy(found.regions[0].area, grid)
    np.testing.assert_array_equal(inside, crossed % 2 == 1)


def test_outlines_that_touch_themselves_often_are_no_error(tmp_path: Path) -> None:
    def pinched(parts: int) -> str:
        above = [[x, x % 2] for x in range(2 * parts + 1)]
        return _geometry([above + [[x, -(x % 2)] for x in range(2 * parts - 1, 0, -1)]])

    found = read_annotations(_write(tmp_path / "a.geojson", pinched(600)))
    assert found.regions[0].area.area == pytest.approx(1200) and found.regions[0].area.is_valid
    with pytest.raises(LabelError, match="touches itself at more than 3000"):
        read_annotations(_write(tmp_path / "a.geojson", pinched(20_000)))


def test_many_vertices(tmp_path: Path) -> None:
    angle = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    ring = np.round(np.stack([5000 + 4000 * np.cos(angle), 5000 + 4000 * np.sin(angle)], axis=1), 4)
    found = read_annotations(_write(tmp_path / "a.geojson", _geometry([ring.tolist()])))
    assert found.regions[0].area.area == pytest.approx(np.pi * 4000**2, rel=1e-4)


def test_rings_without_an_area_are_counted(tmp_path: Path) -> None:
    rings: list[list[list[list[int]]]] = [
        [],
        [[]],
        [[], SQUARE],
        [[[1, 1], [2, 2]]],
        [[[1, 1], [2, 2], [3, 3]]],
    ]
    features = [json.loads(_geometry(ring))[0] for ring in rings]
    found = read_annotations(_write(tmp_path / "a.geojson", features))
    assert (found.regions, found.skipped) == ((), 5)
    holes = _imagescope(_region(SQUARE, negative=1))
    assert read_annotations(_write(tmp_path / "a.xml", holes)).regions == ()


@pytest.mark.parametrize("codec", ["utf-16", "utf-8-sig", "cp949", "euc-kr", "utf-16-le"])
def test_files_in_other_encodings(tmp_path: Path, codec: str) -> None:
    stated = codec.removesuffix("-sig").removesuffix("-le")
    xml = f'<?xml version="1.0" encoding="{stated}"?>' + _imagescope(_region(SQUARE), name="종양")
    (tmp_path / "a.xml").write_bytes((b"\xff\xfe" if codec == "utf-16-le" else b"") + xml.encode(codec))
    (tmp_path / "a.json").write_bytes(json.dumps([_feature("종양")], ensure_ascii=False).encode(codec))
    names = ("a.xml",) if codec == "utf-16-le" else ("a.xml", "a.json")
    for name in names:
        assert read_annotations(tmp_path / name).regions[0].names[0] == "종양"


def test_the_several_names_of_a_class_in_qupath(tmp_path: Path) -> None:
    feature = _feature() | {"properties": {"classification": {"names": ["Tumor", "Positive"]}}}
    found = read_annotations(_write(tmp_path / "a.geojson", feature))
    assert found.regions[0].names == ("Tumor: Positive", "Tumor")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.json", '{"a": "x", "a": "y"}', "'a' more than once"),
        ("m.json", '{" a": "x", "a ": "x"}', "'a' more than once"),
        ("m.json", '{"a": 1}', "gives 'a' 1"),
        ("m.json", '{"a": ["x"]}', "gives 'a' "),
        ("m.json", '{"a": {"b": "c"}}', "gives 'a' "),
        ("m.json", '{"": "x"}', "entry without a name"),
        ("m.json", '["a"]', "must be a JSON object"),
        ("m.json", '{"a": " "}', "gives no name a class"),
        ("m.json", "[" * 100_000, "is no JSON"),
        ("m.json", '{"a": ' + "9" * 5000 + "}", "is no JSON"),
        ("m.csv", "name,label\na,x\na,y\n", "'a' more than once"),
        ("m.csv", "name,label\n,x\n", "entry without a name"),
        ("m.csv", "name,label\na,x,y\n", "Line 2 of the label map"),
        ("m.csv", "name;class\na;x\n", "lacks label, and has name, class"),
    ],
)
def test_label_maps_that_cannot_be_meant(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        read_label_map(_write(tmp_path / name, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "cp949"])
def test_label_maps_as_excel_saves_them(tmp_path: Path, codec: str) -> None:
    wanted = LabelMap(entries=(("종양", "tumour"), ("2", None)))
    (tmp_path / "m.csv").write_bytes(" Name;Label\r\n종양;tumour\r\n2;\r\n".encode(codec))
    (tmp_path / "m.json").write_bytes('{"종양": "tumour", "2": null}'.encode(codec))
    assert read_label_map(tmp_path / "m.csv") == read_label_map(tmp_path / "m.json") == wanted
