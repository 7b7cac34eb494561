"""`wsitool annotations`: the table, its JSON and exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsitool.cli import main


def _run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["annotations", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def _square(path: Path, *names: str) -> Path:
    ring = [[0, 0], [1000, 0], [1000, 1000], [0, 1000]]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": name}},
        }
        for name in names
    ]
    point = {"type": "Feature", "geometry": {"type": "Point"}, "properties": {"name": "cell"}}
    path.write_text(json.dumps([*features, point]))
    return path


def test_counts_areas_and_what_was_dropped(tmp_path: Path, real_data: Path) -> None:
    path = _square(tmp_path / "a.geojson", "tumour", "tumour", "stroma")
    code, text, _ = _run(path)
    assert code == 0 and "tumour        2 outlines" in text and "1,000,000 px2" in text
    assert "left out: 1 of 'cell', a point" in text and "no resolution known" in text
    code, text, _ = _run(path, "--slides", real_data / "slides" / "CMU-1-Small-Region.svs", "--json")
    file = json.loads(text)[0]
    assert file["mpp"] == pytest.approx(0.499)
    # Two outlines of one place are one place.
    assert [(one["name"], one["area"]) for one in file["classes"]] == [("stroma", 1e6), ("tumour", 1e6)]
    assert file["classes"][0]["area_mm2"] == pytest.approx(0.499**2, rel=1e-6)


def test_every_case_is_read_or_named(real_data: Path) -> None:
    code, text, errors = _run(real_data / "cases" / "annotations", real_data / "annotations", "--json")
    files = {Path(one["path"]).name: one for one in json.loads(text)}
    bad = {"anno-asapinf.xml", "anno-selfcross1500.geojson"}
    assert code == 1 and errors.count("Error:") == 2 and len(files) == 9
    assert {name for name, one in files.items() if one["problem"]} == bad
    assert files["halo.xml"]["classes"][0]["area"] == 900 * 800 + 300 * 700
    assert files["asap_dot.xml"]["dropped"] == [{"name": "Tumor", "reason": "a point", "count": 1}]
    assert files["ndpa.xml"]["classes"][0]["area_mm2"] == pytest.approx(0.45 * 0.4)
    assert "was not found" in files["ndpa.xml"]["note"]
    # ImageScope's own figures, um2.
    prostate = real_data / "annotations" / "imagescope_prostate_outline.xml"
    areas = sorted(float(area) for area in re.findall('AreaMicrons="([^"]+)"', prostate.read_text()))
    stated = sum(areas[-2:]) / 1e6  # the smaller two lie within these
    assert files[prostate.name]["classes"][0]["area_mm2"] == pytest.approx(stated, rel=1e-3)


def test_no_file_and_a_slide_that_says_too_little(tmp_path: Path, real_data: Path) -> None:
    assert _run(tmp_path)[0] == 2 and _run(tmp_path / "none.xml")[0] == 2
    slide = real_data / "slides" / "CMU-1-Small-Region.svs"
    code, text, _ = _run(real_data / "cases" / "annotations" / "ndpa.xml", "--slides", slide)
    assert code == 0 and "does not say where that is" in text
