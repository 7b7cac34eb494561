"""`wsitool tile --annotations`: patches carry the class of the outline they lie in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsitool.base.tables import read_table
from wsitool.cli import main
from wsitool.store.collection import open_collection
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide


def _geojson(path: Path, name: str, x0: int, x1: int) -> None:
    ring = [[x0, 0], [x1, 0], [x1, 5000], [x0, 5000], [x0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": name}},
    }
    path.write_text(json.dumps(feature))


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    for seed, name in enumerate(("a", "b", "c")):
        synthetic_slide(folder / f"{name}.svs", size=(800, 600), glass=0.05, seed=seed)
    (tmp_path / "outlines").mkdir()
    _geojson(tmp_path / "outlines" / "a.geojson", "Tumor", 0, 400)
    _geojson(tmp_path / "outlines" / "b.geojson", "Stroma", 300, 5000)
    return folder


def _tile(slides: Path, out: Path, *options: str) -> tuple[int, str]:
    args = ["tile", str(slides), "--out", str(out), "--level", "0", "--patch-size", "100"]
    run = CliRunner().invoke(main, [*args, "--annotations", str(slides.parent / "outlines"), *options])
    return run.exit_code, run.output


def test_labels_follow_the_outlines_in_all_stores(slides: Path, tmp_path: Path) -> None:
    code, output = _tile(slides, tmp_path / "out")
    assert code == 0, output
    for name, start, end, label in (("a", 0, 400, 1), ("b", 300, 800, 0), ("c", 0, 0, -1)):
        with open_store(tmp_path / "out" / f"{name}.h5") as store:
            assert store.meta.classes == ("Stroma", "Tumor")
            x = store.coords[:, 0]
            assert store.labels is not None
            inside = (x >= start) & (x + 100 <= end)
            assert (store.labels[inside] == label).all() and (store.labels[~inside] == -1).all()
    assert open_collection(tmp_path / "out").classes == ("Stroma", "Tumor")
    labels = [store.labels for store in map(open_store, sorted((tmp_path / "out").glob("*.h5")))]
    counts = [sum(int((one == value).sum()) for one in labels if one is not None) for value in (0, 1, -1)]
    said = "Labels: Stroma {}, Tumor {}, unlabelled {}.".format(*counts)
    assert said in output and min(counts) > 0
    again = _tile(slides, tmp_path / "out")
    assert said in again[1] and again[1].count("skipped") == 3
    note = "no outlines of it in"
    assert f"Note on c: {note}" in output and f"Note on c: {note}" in again[1]
    rows = {row["name"]: row for row in read_table(tmp_path / "out" / "slides.csv", needs=("name",)).rows}
    assert note in rows["c"]["reason"] and not rows["a"]["reason"]


def test_a_label_map_renames_and_a_changed_outline_is_noticed(slides: Path, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps({"Tumor": "dcis", "Stroma": None}))
    options = ("--label-map", str(tmp_path / "map.json"), "--label-rule", "centre")
    assert _tile(slides, tmp_path / "out", *options)[0] == 0
    with open_store(tmp_path / "out" / "a.h5") as store:
        assert store.meta.classes == ("dcis",) and store.labels is not None and (store.labels == 0).any()
    code, output = _tile(slides, tmp_path / "out", *options)
    assert code == 0 and output.count("skipped") == 3
    _geojson(slides.parent / "outlines" / "a.geojson", "Tumor", 0, 200)
    code, output = _tile(slides, tmp_path / "out", *options)
    assert code == 1 and "annotations" in output and output.count("skipped") == 2


def test_a_damaged_file_costs_its_slide_only(slides: Path, tmp_path: Path) -> None:
    """Also without a label map, where the names in the files are the classes."""
    (tmp_path / "outlines" / "a.geojson").write_text("{")
    code, output = _tile(slides, tmp_path / "out")
    assert code == 1 and "a.geojson" in output and not (tmp_path / "out" / "a.h5").exists()
    for name in ("b", "c"):
        with open_store(tmp_path / "out" / f"{name}.h5") as store:
            assert store.labels is not None and (store.labels >= 0).any() == (name == "b")


@pytest.mark.parametrize("case", ["no file fits", "absent", "all damaged", "map alone", "one file for many"])
def test_what_cannot_be_is_one_sentence(slides: Path, tmp_path: Path, case: str) -> None:
    base = ["tile", str(slides), "--out", str(tmp_path / "out"), "--level", "0"]
    outlines = tmp_path / "outlines"
    options = ["--annotations", str(outlines)]
    if case == "no file fits":
        for path in outlines.iterdir():
            path.unlink()
    elif case == "absent":
        options[1] += "x"
    elif case == "all damaged":
        for path in outlines.iterdir():
            path.write_text("{")
    elif case == "map alone":
        options = ["--label-map", str(outlines / "a.geojson")]
    else:
        options[1] = str(outlines / "a.geojson")
    run = CliRunner().invoke(main, [*base, *options])
    assert run.exit_code == (1 if case == "all damaged" else 2), run.output
    assert len(run.output.strip().splitlines()) == 1 and not list((tmp_path / "out").glob("*.h5"))


def _cut(slides: Path, tmp_path: Path, case: str) -> tuple[int, str]:
    """Tile with the annotations of `case` for slide a, and a label map that knows Tumor and Stroma."""
    outlines = tmp_path / "outlines"
    options: tuple[str, ...] = ("--workers", "1")
    if case == "elsewhere":
        _geojson(outlines / "a.geojson", "Tumor", 5000, 9000)
    elif case == "tiny":
        _geojson(outlines / "a.geojson", "Tumor", 10, 12)
    elif case == "no area":
        (outlines / "a.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    elif case == "other name":
        _geojson(outlines / "a.geojson", "Other", 0, 400)
    elif case == "damaged":
        (outlines / "a.geojson").write_text("{")
    if case in ("other name", "damaged"):
        (tmp_path / "map.csv").write_text("name;label\nTumor;t\nStroma;s\n")
        options += ("--label-map", str(tmp_path / "map.csv"))
    return _tile(slides, tmp_path / "out", *options)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("elsewhere", "All outlines in '.*' lie outside the slide of 800 x 600 px"),
        ("tiny", r"None of the \d+ patches kept is at least half covered by an outline"),
        ("no area", r"\(GeoJSON\) holds no outline with an area"),
        ("other name", r"No outline in .* has a name of the label map: they are called Other \(1\)"),
        ("damaged", "annotations .* are damaged"),
    ],
)
def test_a_slide_that_gets_no_label_is_an_error(
    slides: Path, tmp_path: Path, case: str, message: str
) -> None:
    code, output = _cut(slides, tmp_path, case)
    assert code == 1 and re.search(f"  a: .*{message}", output), output
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.h5")) == ["b", "c"]
    rows = {row["name"]: row for row in read_table(tmp_path / "out" / "slides.csv", needs=("name",)).rows}
    assert rows["a"]["status"] == "failed" and re.search(message, rows["a"]["reason"])
    assert rows["b"]["status"] == "done"


def test_outlines_outside_beside_others_are_told(slides: Path, tmp_path: Path) -> None:
    inside = json.loads((tmp_path / "outlines" / "a.geojson").read_text())
    far = [[x + 90_000, y] for x, y in inside["geometry"]["coordinates"][0]]
    outside = inside | {"geometry": {"type": "Polygon", "coordinates": [far]}}
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}
    (tmp_path / "outlines" / "a.geojson").write_text(json.dumps([inside, outside, point]))
    code, output = _tile(slides, tmp_path / "out")
    assert code == 0 and "Note on a: 1 of 2 outlines lie outside the slide" in output
    assert "Left out of the annotations of a: 1 x a point ('unnamed')." in output


@pytest.mark.parametrize("case", ["names nothing", "names one of two"])
def test_a_label_map_that_does_not_fit_is_said(slides: Path, tmp_path: Path, case: str) -> None:
    entries = {"tumor": "t", "7": None} | ({"Tumor": "t"} if case == "names one of two" else {})
    (tmp_path / "map.json").write_text(json.dumps(entries))
    code, output = _tile(slides, tmp_path / "out", "--label-map", str(tmp_path / "map.json"))
    assert code == 1
    if case == "names nothing":
        assert "names tumor, 7, and no outline is called so: they are called Tumor (1), Stroma (1)." in output
        assert len(output.strip().splitlines()) == 1 and not list((tmp_path / "out").glob("*.h5"))
    else:
        assert "Warning: No outline is called tumor, 7" in output
        assert "does not name are left out: Stroma (1)." in output
        assert re.search("  b: No outline in .* they are called Stroma", output)


def test_a_file_of_another_format_beside_them_is_listed(slides: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "outlines").iterdir():
        path.rename(path.with_suffix(".svg"))
    code, output = _tile(slides, tmp_path / "out")
    assert code == 2 and "it holds a.svg, b.svg" in output


def test_when_no_file_holds_a_region_the_run_stops(slides: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "outlines").iterdir():
        path.write_text("[]")
    code, output = _tile(slides, tmp_path / "out")
    assert code == 1 and "holds no outline with an area" in output and "1 more slides" in output
    assert len(output.strip().splitlines()) == 1


def test_halo_outlines_label_patches(real_data: Path, tmp_path: Path) -> None:
    slide = synthetic_slide(tmp_path / "s.svs", size=(1500, 1000), glass=0.0)
    args = ["tile", str(slide), "--out", str(tmp_path / "o"), "--level", "0", "--patch-size", "100"]
    run = CliRunner().invoke(main, [*args, "--annotations", str(real_data / "cases/annotations/halo.xml")])
    assert run.exit_code == 0, run.output
    with open_store(tmp_path / "o" / "s.h5") as store:
        assert store.meta.classes == ("Tumor",) and store.labels is not None
        (x, y), inside = store.coords.T, store.labels == 0
    expected = (x >= 100) & (y >= 100) & (((x < 1000) & (y < 900)) | ((x >= 1100) & (x < 1400) & (y < 800)))
    assert (inside == expected).all() and inside.any()
