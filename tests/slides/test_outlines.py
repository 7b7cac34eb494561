"""What is in files of annotations has its right value, and what is dropped is said by name and count."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely

from wsitool.errors import LabelError
from wsitool.slides.annotation_files import Dropped, read_annotations
from wsitool.slides.slide import Level, SlideInfo

CASES = "cases/annotations"
SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]


def _box(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def _geojson(path: Path, *geometries: object, **properties: object) -> Path:
    found = [{"type": "Feature", "geometry": one, "properties": properties} for one in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
    return path


def _polygon(*rings: object) -> dict[str, object]:
    return {"type": "Polygon", "coordinates": rings}


def _imagescope(*regions: str) -> str:
    return (
        '<Annotations MicronsPerPixel="0.25"><Annotation Id="1" Name="T"><Regions>'
        + "".join(regions)
        + "</Regions></Annotation></Annotations>"
    )


def _region(points: list[list[float]], **attributes: object) -> str:
    words = "".join(f' {name}="{value}"' for name, value in attributes.items())
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in points)
    return f"<Region{words}><Vertices>{vertices}</Vertices></Region>"


def _slide(**properties: str) -> SlideInfo:
    return SlideInfo(
        path="s.ndpi",
        name="s",
        reader="openslide",
        format="hamamatsu",
        levels=(Level(width=4000, height=3000, downsample=1),),
        mpp=0.5,
        mpp_source="file",
        objective_power=20,
        fingerprint="",
        properties=properties,
    )


def _offsets(x: float, y: float) -> dict[str, str]:
    return {"hamamatsu.XOffsetFromSlideCentre": str(x), "hamamatsu.YOffsetFromSlideCentre": str(y)}


def test_ndpview_is_read_in_nanometres_from_the_slides_centre(real_data: Path) -> None:
    found = read_annotations(real_data / CASES / "ndpa.xml")
    assert (found.format, found.unit, found.regions[0].names) == ("NDP.view XML", "nm", ("Tumor",))
    # (nm - offset) / (nm per px) + half the slide
    on_slide = found.on(_slide(**_offsets(10_000, -20_000)))
    assert on_slide.unit == "px" and on_slide.mpp == 0.5
    assert on_slide.regions[0].area.bounds == (80 + 2000, 140 + 1500, 980 + 2000, 940 + 1500)
    oblong = found.on(_slide(**_offsets(0, 0), **{"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"}))
    assert oblong.regions[0].area.bounds == (200 + 2000, 100 + 1500, 2000 + 2000, 900 + 1500)
    for bad in ({}, {"hamamatsu.XOffsetFromSlideCentre": "0"}, _offsets(float("nan"), 0)):
        with pytest.raises(LabelError, match=r"'s' .* does not say where that is"):
            found.on(_slide(**bad))


def test_ndpview_circles_lines_pins_and_units(tmp_path: Path) -> None:
    circle = "<annotation type='circle'><x>1000</x><y>2000</y><radius>500</radius></annotation>"
    points = "<pointlist>" + "".join(
        f"<point><x>{x}</x><y>{y}</y></point>" for x, y in ((0, 0), (9, 0), (9, 9))
    )
    line = f"<annotation type='freehand'><closed>0</closed>{points}</pointlist></annotation>"
    rest = f"<annotation type='pin'><x>1</x><y>1</y></annotation>{line}"
    views = "".join(
        f"<ndpviewstate><title>{title}</title>{drawn}</ndpviewstate>"
        for title, drawn in (("A", circle), ("B", rest))
    )
    path = tmp_path / "s.ndpi.ndpa"
    path.write_text(f"<annotations>{views}</annotations>")
    found = read_annotations(path)
    assert found.regions[0].area.area == pytest.approx(np.pi * 500**2, rel=1e-3)
    assert set(found.dropped) == {
        Dropped(name="B", reason="a pin", count=1),
        Dropped(name="B", reason="a line", count=1),
    }
    path.write_text(
        f"<annotations>{views.replace('<title>A', '<coordformat>pixels</coordformat><title>A')}</annotations>"
    )
    with pytest.raises(LabelError, match="'A' are in pixels, where nanometers"):
        read_annotations(path)


def test_qupath_ellipses_are_the_ellipse_in_their_box(tmp_path: Path) -> None:
    extremes = [[200, 50], [100, 100], [0, 50], [100, 0], [200, 50]]
    found = read_annotations(
        _geojson(tmp_path / "a.geojson", {**_polygon(extremes), "isEllipse": True}, _polygon(extremes))
    )
    ellipse, plain = (region.area.area for region in found.regions)
    assert ellipse == pytest.approx(np.pi * 100 * 50, rel=1e-3) and plain == 10_000


@pytest.mark.parametrize(
    ("rings", "area", "reasons"),
    [
        ([SQUARE, _box(20, 20, 60, 60), _box(40, 40, 80, 80)], 10_000 - 2 * 1600 + 400, []),
        ([SQUARE, _box(80, 80, 120, 120)], 10_000 - 400, []),
        ([SQUARE, _box(200, 0, 300, 100)], 10_000, ["a hole outside of its outline"]),
        ([SQUARE, [[1, 1], [2, 2]]], 10_000, ["a hole without an area"]),
        ([SQUARE, [[1, 1], [2, 2], [3, 3]]], 10_000, ["a hole without an area"]),
        ([SQUARE, _box(-1, -1, 101, 101)], None, ["an outline that its holes cover"]),
        ([[[0, 0], [9, 9]]], None, ["an outline without an area"]),
        ([[[0, 0, 7], [10, 0, 7], [10, 10, 7], [0, 10, 7]]], 100, []),  # with a depth
    ],
)
def test_holes_and_bad_rings(
    tmp_path: Path, rings: list[object], area: float | None, reasons: list[str]
) -> None:
    found = read_annotations(_geojson(tmp_path / "a.geojson", _polygon(*rings)))
    assert [region.area.area for region in found.regions] == ([] if area is None else [area])
    assert [one.reason for one in found.dropped] == reasons and found.skipped == len(reasons)


def test_what_has_no_area_in_geojson_is_named_even_beside_what_has(tmp_path: Path) -> None:
    mixed = {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[0, 0], [1, 1]]]]}
    collection = {"type": "GeometryCollection", "geometries": [{"type": "Point"}, _polygon(SQUARE)]}
    path = _geojson(
        tmp_path / "a.geojson", mixed, collection, {"type": "LineString"}, None, {"type": "Arc"}, name="n"
    )
    found = read_annotations(path)
    assert [region.area.area for region in found.regions] == [10_000, 10_000]
    assert {(one.name, one.reason) for one in found.dropped} == {
        ("n", "an outline without an area"),
        ("n", "a point"),
        ("n", "a line"),
        ("n", "without a geometry"),
        ("n", "of the kind Arc"),
    }


def test_imagescope_kinds_holes_and_resolution(tmp_path: Path) -> None:
    text = _imagescope(
        _region(_box(0, 0, 100, 100), Type=0),
        _region(_box(200, 0, 400, 100), Type=2),
        _region(_box(20, 20, 60, 60), NegativeROA=1),
        _region(_box(900, 900, 950, 950), NegativeROA=1),
        _region(_box(0, 0, 50, 50), Type=4),
        _region([[5, 5]], Type=0),
    )
    (tmp_path / "a.xml").write_text(text)
    found = read_annotations(tmp_path / "a.xml")
    assert found.mpp == 0.25 and found.format == "ImageScope XML"
    assert [region.area.area for region in found.regions] == [
        10_000 - 1600,
        pytest.approx(np.pi * 100 * 50, rel=1e-3),
    ]
    assert [one.reason for one in found.dropped] == ["a ruler", "a point", "a hole outside of its outline"]


def _plain(text: str) -> str:
    """The same XML as no program writes it, so that no vertex is taken out before it is parsed."""
    return text.replace(' X="', ' W="0" X="')


@pytest.mark.parametrize("kind", ["imagescope", "halo", "asap"])
def test_runs_of_vertices_are_what_the_parser_reads(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 500))
    ring = np.stack([1e4 + 5e3 * np.cos(angle), 1e4 + 5e3 * np.sin(angle)], axis=1)
    texts = [[repr(float(v)) for v in point] for point in ring]
    texts[3][0], texts[4][1] = "1.25e4", "+9000."
    if kind == "asap":
        order = rng.permutation(500)
        listed = "".join(f'<Coordinate Order="{i}" X="{texts[i][0]}" Y="{texts[i][1]}"/>' for i in order)
        text = (
            f'<ASAP_Annotations><Annotations><Annotation Type="Spline"><Coordinates>{listed}</Coordinates>'
            "</Annotation></Annotations></ASAP_Annotations>"
        )
    else:
        tag, z = ("V", "") if kind == "halo" else ("Vertex", ' Z="0.0"')
        listed = "\n".join(f'<{tag} X="{x}" Y="{y}"{z} />' for x, y in texts)
        text = _imagescope(f"<Region><Vertices>{listed}</Vertices></Region>")
    (tmp_path / "a.xml").write_text(text)
    (tmp_path / "b.xml").write_text(_plain(text.replace('"1.25e4"', '"12500"').replace(' Z="0.0"', "")))
    one, other = (read_annotations(tmp_path / name) for name in ("a.xml", "b.xml"))
    assert one.format == other.format
    assert shapely.equals_exact(one.regions[0].area, other.regions[0].area, tolerance=0)


def test_lists_of_numbers_within_texts_are_texts(tmp_path: Path) -> None:
    text = json.dumps([[i, i] for i in range(50)])
    path = _geojson(tmp_path / "a.geojson", _polygon([[i, i**2] for i in range(50)]), name=text)
    assert read_annotations(path).regions[0].names == (text,)


@pytest.mark.parametrize("bad", ["nan", "inf", "1e999", "0x10"])
def test_one_bad_number_among_many_is_one_sentence(tmp_path: Path, bad: str) -> None:
    points = [[i, i**2] for i in range(50)]
    (tmp_path / "a.xml").write_text(_imagescope(_region(points).replace('"7"', f'"{bad}"')))
    with pytest.raises(LabelError, match=r"'T' is not a finite number|coordinate '0x10' is no number"):
        read_annotations(tmp_path / "a.xml")
