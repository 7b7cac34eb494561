"""Regions drawn by hand: one file for each slide, whole at any moment, of which nothing else is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from viewer.conftest import TOKEN, Server

from wsitool.errors import UsageError, WsitoolError
from wsitool.slides.annotations import find_annotations, read_annotations
from wsitool.viewer.regions import Regions

SQUARE = [[0, 0], [100, 0], [100, 50.4], [0, 50]]
_OTHER = {
    "type": "FeatureCollection",
    "of": "somebody",
    "features": [
        {
            "type": "Feature",
            "id": "q",
            "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]},
            "properties": {"classification": {"name": "stroma", "color": [1, 2, 3]}, "isLocked": True},
        },
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": None},
    ],
}


def test_what_is_drawn_is_read_as_outlines_of_the_slide(tmp_path: Path) -> None:
    regions = Regions(tmp_path / "new" / "folder")
    for _ in range(2):  # an answer that was lost on the way is sent again
        regions.add("s 1.x", "tumour", SQUARE)
    regions.add("s 1.x", "stroma", [[0, 0], [40, 40], [40, 0], [0, 40]])  # crosses itself
    path = find_annotations(tmp_path / "new" / "folder", "s 1.x")
    assert path is not None and path.name == "s 1.x.geojson"
    read = read_annotations(path)
    assert [(region.names[0], region.area.area) for region in read.regions] == [
        ("tumour", 5000),
        ("stroma", 800),
    ]
    told = regions.of("s 1.x")
    assert [(one["name"], one["own"], len(one["rings"][0])) for one in told] == [
        ("tumour", True, 5),
        ("stroma", True, 5),
    ]
    assert told[0]["color"] != told[1]["color"]
    regions.remove("s 1.x", told[0]["id"])
    assert [one["name"] for one in regions.of("s 1.x")] == ["stroma"] and regions.of("s") == []
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_of_qupath_goes_on_and_nothing_in_it_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "s.geojson"
    path.write_text(json.dumps(_OTHER))
    regions = Regions(tmp_path)
    regions.add("s", "stroma", SQUARE)
    document = json.loads(path.read_text())
    assert document["features"][:2] == _OTHER["features"] and document["of"] == "somebody"
    assert [(one["id"], one["own"]) for one in regions.of("s")] == [
        ("q", False),
        (document["features"][2]["id"], True),
    ]
    with pytest.raises(UsageError, match="QuPath"):
        regions.remove("s", "q")
    assert json.loads(path.read_text()) == document


@pytest.mark.parametrize(
    ("name", "ring", "sentence"),
    [
        ("", SQUARE, "class"),
        (7, SQUARE, "class"),
        ("wsitool: tissue", SQUARE, "layers"),
        ("a\nb", SQUARE, "class"),
        ("a", SQUARE[:2], "3 to 20,000"),
        ("a", [[0, 0], [1, 1], [2, 2]], "encloses nothing"),
        ("a", [[0, 0], [1, 0], [1, float("nan")]], "points"),
        ("a", [[0, 0], [1, 0], [1, True]], "points"),
        ("a", [[0, 0], [1, 0], [1e9, 1]], "points"),
        ("a", "points", "points"),
    ],
)
def test_what_is_no_region_is_a_sentence(tmp_path: Path, name: Any, ring: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Regions(tmp_path).add("s", name, ring)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "7",
        '{"type": "Topology"}',
        '{"features": [1]}',
        '{"features": [{"geometry": {"type": "Polygon"}}]}',
    ],
)
def test_a_damaged_file_is_said_and_left(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.geojson").write_text(text)
    for change in (lambda one: one.of("s"), lambda one: one.add("s", "a", SQUARE)):
        with pytest.raises(WsitoolError, match=r"s\.geojson"):
            change(Regions(tmp_path))
    assert (tmp_path / "s.geojson").read_text() == text


def test_outlines_of_another_form_would_hide_what_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "s.xml").write_text("<Annotations/>")
    with pytest.raises(UsageError, match=r"s\.xml"):
        Regions(tmp_path).add("s", "a", SQUARE)


def test_a_slide_is_called_anything(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for name in ("../../evil", "/abs/evil", "..", "x" * 300, "EVIL", "evil"):
        Regions(folder).add(name, "a", SQUARE)
        assert len(Regions(folder).of(name)) == 1
    assert len(list(folder.iterdir())) == 6 and [path.name for path in tmp_path.iterdir()] == ["a"]


_DRAWS = """
import sys
from pathlib import Path
from wsitool.viewer.regions import Regions
regions = Regions(Path(sys.argv[1]))
for number in range(len(regions.of("s")), 100_000):
    regions.add("s", "a", [[0, 0], [number + 1, 0], [0, 9]])
    print(number, flush=True)
"""


def test_kills_lose_the_region_in_hand_alone(tmp_path: Path) -> None:
    known = 0
    for number in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", _DRAWS, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(3 + 2 * number):
                process.stdout.readline()
            process.kill()
            rest = process.stdout.read()
        kept = len(Regions(tmp_path).of("s"))
        said = known + 3 + 2 * number + rest.count("\n")
        assert said <= kept <= said + 1
        known = kept


def test_only_with_a_folder_and_only_from_the_page(drawing: Server, server: Server, tmp_path: Path) -> None:
    slides = json.loads(server.get("/api/library")[2])["slides"]
    address = f"/api/slides/{next(slide['id'] for slide in slides if slide['name'] == 'one')}"

    def drawn(by: Server) -> Any:
        return json.loads(by.get(f"{address}/regions")[2])

    def post(to: Server, sent: Any, **headers: str) -> tuple[int, Any]:
        told = {"Content-Type": "application/json", **headers}
        status, _, answer = to.get(f"{address}/draw", method="POST", body=json.dumps(sent), **told)
        return status, json.loads(answer) if answer.startswith(b"{") else answer

    sent = {"name": "tumour", "ring": SQUARE}
    assert drawn(server) == {"may_draw": False, "regions": []}
    assert drawn(drawing) == {"may_draw": True, "regions": []}
    assert post(server, sent)[0] == 405
    assert post(drawing, sent, Origin="http://127.0.0.1:1")[0] == 403
    assert post(drawing, sent, **{"Content-Type": "text/plain"})[0] == 415
    assert post(drawing, {"ring": SQUARE})[0] == 400
    assert post(drawing, sent | {"name": "x" * (1 << 20)})[0] == 413
    status, answer = post(drawing, sent)
    assert status == 200 and [one["name"] for one in answer["regions"]] == ["tumour"]
    [path] = (tmp_path / "outlines").iterdir()
    assert path.name == "one.geojson"
    (tmp_path / "outlines" / "one.geojson").write_text("{")
    assert post(drawing, sent)[0] == 507
    assert TOKEN not in str(answer)
