"""`wsitool tile --annotations`: patches carry the class of the outline they lie in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsitool.cli import main
from wsitool.store import open_collection, open_store
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


@pytest.mark.parametrize("case", ["no file fits", "absent", "damaged", "map alone", "one file for many"])
def test_what_cannot_be_is_one_sentence(slides: Path, tmp_path: Path, case: str) -> None:
    base = ["tile", str(slides), "--out", str(tmp_path / "out"), "--level", "0"]
    outlines = tmp_path / "outlines"
    options = ["--annotations", str(outlines)]
    if case == "no file fits":
        for path in outlines.iterdir():
            path.unlink()
    elif case == "absent":
        options[1] += "x"
    elif case == "damaged":
        (outlines / "a.geojson").write_text("{")
    elif case == "map alone":
        options = ["--label-map", str(outlines / "a.geojson")]
    else:
        options[1] = str(outlines / "a.geojson")
    run = CliRunner().invoke(main, [*base, *options])
    assert run.exit_code == (1 if case == "damaged" else 2), run.output
    assert len(run.output.strip().splitlines()) == 1 and not list((tmp_path / "out").glob("*.h5"))
