"""The running server: what it answers, and to whom."""

from __future__ import annotations

import io
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity
from starlette.exceptions import HTTPException
from starlette.requests import Request
from viewer.conftest import TOKEN, Lab, Server

from wsitool.cli import main
from wsitool.errors import UsageError, WsitoolError
from wsitool.slides.masks import find_tissue
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.slides.tissue_registry import DEFAULT_TISSUE
from wsitool.store.opening import open_store
from wsitool.tiling.run import tile_slides
from wsitool.viewer import serving
from wsitool.viewer.app import make_app
from wsitool.viewer.feature_map import feature_map
from wsitool.viewer.library import Library
from wsitool.viewer.mistakes import mistakes


def _json(server: Server, path: str) -> Any:
    status, _, body = server.get(path)
    assert status == 200, body
    return json.loads(body)


def _slide(server: Server, name: str) -> dict[str, Any]:
    return next(slide for slide in _json(server, "/api/library")["slides"] if slide["name"] == name)


def _columns(body: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    line, _, _ = body.partition(b"\n")
    about, offset, columns = json.loads(line), len(line) + 1, {}
    for name, (kind, length) in about["columns"].items():
        columns[name] = np.frombuffer(body, kind, length, offset)
        offset += -(-columns[name].nbytes // 8) * 8
    return about, columns


def test_the_library_lists_what_there_is(server: Server) -> None:
    found = _json(server, "/api/library")
    assert sorted(group["kind"] for group in found["groups"]) == [
        "collection",
        "experiment",
        "features",
        "predictions",
        "run",
    ]
    assert sorted(slide["name"] for slide in found["slides"]) == ["broken", "one", "two <b>"]
    broken = _slide(server, "broken")
    assert broken["status"] == "failed" and broken["problem"] and not broken["has_store"]


def test_cells_are_the_stores_candidates(server: Server, lab: Lab) -> None:
    slide = _slide(server, "one")
    about, columns = _columns(server.get(f"/api/slides/{slide['id']}/cells")[2])
    with open_store(lab.stores / "one.h5") as store:
        candidates = store.candidates
        assert np.array_equal(np.stack([columns["x"], columns["y"]], axis=1), candidates.coords)
        assert about["reasons"] == list(candidates.reasons) and about["size"] == 64
        assert np.array_equal(columns["reason"], candidates.reason)
        rows = columns["row"]
        assert sorted(rows[rows >= 0].tolist()) == list(range(len(store)))
        assert np.array_equal(store.coords[rows[rows >= 0]], candidates.coords[rows >= 0])
        status, headers, body = server.get(f"/api/slides/{slide['id']}/patches/3")
        assert (status, headers["content-type"]) == (200, "image/png")
        (lab.folder / "patch.png").write_bytes(body)
        with Image.open(lab.folder / "patch.png") as picture:
            assert np.array_equal(np.asarray(picture), store.read([3])[0])


def test_thumbnails_are_what_tiling_left(server: Server, lab: Lab, tmp_path: Path) -> None:
    slide = _slide(server, "one")
    status, headers, body = server.get(f"/api/slides/{slide['id']}/thumbnail")
    assert (status, headers["content-type"]) == (200, "image/jpeg") and slide["has_preview"]
    with Image.open(io.BytesIO(body)) as small, Image.open(lab.stores / "previews" / "one.jpg") as whole:
        assert max(small.size) == 144 and small.width / small.height == pytest.approx(
            whole.width / whole.height, rel=0.02
        )
    broken = _slide(server, "broken")
    assert not broken["has_preview"] and server.get(f"/api/slides/{broken['id']}/thumbnail")[0] == 404
    # A link to elsewhere, and what is no picture.
    shutil.copytree(lab.stores, tmp_path / "patches")
    preview = tmp_path / "patches" / "previews" / "one.jpg"
    preview.write_bytes(b"no picture")
    library = Library([tmp_path / "patches"])
    [one] = [slide for slide in library.slides.values() if slide.name == "one"]
    with pytest.raises(HTTPException, match=r"one\.jpg' cannot be read"):
        _answer(library, "/api/slides/{slide:str}/thumbnail", slide=one.id)
    preview.unlink()
    preview.symlink_to(lab.stores / "previews" / "one.jpg")
    with pytest.raises(HTTPException, match="no picture"):
        _answer(library, "/api/slides/{slide:str}/thumbnail", slide=one.id)


def test_the_outline_of_the_tissue_is_that_of_tiling(server: Server, lab: Lab) -> None:
    slide = _slide(server, "one")
    _, columns = _columns(server.get(f"/api/slides/{slide['id']}/tissue")[2])
    ends = np.cumsum(columns["length"])
    rings = [
        np.stack([columns["x"], columns["y"]], 1)[end - n : end]
        for end, n in zip(ends, columns["length"], strict=True)
    ]
    with open_slide(lab.slides / "one.svs") as opened:
        tissue = find_tissue(opened, DEFAULT_TISSUE)
    # Even-odd: the area within the rings is that of the mask.
    area = shapely.build_area(shapely.GeometryCollection([shapely.LinearRing(ring) for ring in rings])).area
    assert len(rings) > 0 and area == pytest.approx(tissue.mask.sum() * np.prod(tissue.downsample), rel=0.02)


def test_tissue_found_by_a_file_elsewhere_is_not_read(lab: Lab, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (256, 192), 255).save(mask)
    folder = tmp_path / "here"
    spec = TileSpec(patch_size=64, level=0, tissue=f"mask:{mask}")
    tile_slides(lab.slides / "one.svs", folder, spec, workers=1)
    library = Library([folder, lab.slides])
    [slide] = [one for one in library.slides.values() if one.store and one.name == "one"]
    with pytest.raises(WsitoolError, match="outside the folders given"):
        _answer(library, "/api/slides/{slide:str}/tissue", slide=slide.id)
    both = Library([tmp_path, lab.slides])
    assert _answer(both, "/api/slides/{slide:str}/tissue", slide=slide.id)


def test_predictions_have_their_classes_even_with_commas(server: Server) -> None:
    slide = _slide(server, "one")
    told = _json(server, f"/api/slides/{slide['id']}")
    [prediction] = told["predictions"]
    about, columns = _columns(server.get(f"/api/slides/{slide['id']}/predictions/{prediction['id']}")[2])
    assert about["classes"] == ["a, b", "c"] and about["size"] == 64
    assert columns["probability"].tolist() == pytest.approx([0.75, 0.25, 0.1, 0.9])


def test_mistakes_are_of_the_test_patches_worst_first(server: Server) -> None:
    run = next(group for group in _json(server, "/api/library")["groups"] if group["kind"] == "run")
    told = _json(server, f"/api/runs/{run['id']}")
    assert (told["patches"], told["wrong"], told["part"]) == (3, 2, "test")
    assert [(one["name"], one["probability"]) for one in told["most_confident"]] == [
        ("away", 0.9),
        ("one", 0.8),
    ]
    assert told["most_confident"][0]["slide"] is None and told["most_confident"][1]["slide"]
    assert told["least_sure"][0]["probability"] == 0.6
    assert told["reliability"] == [
        {"patches": 1, "probability": 0.6, "right": 1},
        {"patches": 1, "probability": 0.8, "right": 0},
        {"patches": 1, "probability": 0.9, "right": 0},
    ]
    assert told["confusion"] == {"a": {"c": 1, "a": 1}, "c": {"a": 1}}


def test_mistakes_of_one_cell_of_an_experiment(server: Server) -> None:
    group = next(one for one in _json(server, "/api/library")["groups"] if one["kind"] == "experiment")
    address = f"/api/experiments/{group['id']}"
    about = _json(server, address)
    assert (about["rows"], about["amounts"], about["seeds"]) == (["supervised"], ["50 %", "100 %"], [2, 2])
    told = _json(server, f"{address}/0/1/0")
    assert (told["patches"], told["wrong"]) == (3, 2)
    first, second = told["most_confident"]
    assert (first["slide"], first["row"], first["label"], first["predicted"]) == (
        _slide(server, "one")["id"], 1, "a", "c",
    )  # fmt: skip
    assert first["probability"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert (second["name"], second["slide"]) == ("away", None)
    assert told["groups"] == [
        {"name": "p1", "patches": 2, "wrong": 1},
        {"name": "p2", "patches": 1, "wrong": 1},
    ]
    assert "not finished" in told["notes"][0]
    assert _json(server, f"{address}/0/1/1")["wrong"] == 0
    status, _, answer = server.get(f"{address}/0/0/0")
    assert status == 404 and "is not computed yet" in json.loads(answer)["problem"]
    assert server.get(f"{address}/1/0/0")[0] == server.get(f"{address}/0/2/0")[0] == 404


def test_the_map_shows_what_the_features_differ_in(server: Server) -> None:
    group = next(one for one in _json(server, "/api/library")["groups"] if one["kind"] == "features")
    about, columns = _columns(server.get(f"/api/features/{group['id']}")[2])
    assert [one["name"] for one in about["files"]] == ["gone", "one"] and about["classes"] == ["a", "c"]
    assert about["files"][0]["slide"] is None and about["files"][1]["slide"] == _slide(server, "one")["id"]
    gone = columns["file"] == 0
    # What `predict` judged are no patches of the store; the run was tested on its rows 1 and 2.
    called = columns["predicted"][~gone]
    assert (columns["predicted"][gone] == -1).all() and called[:4].tolist() == [-1, 1, 0, -1]
    # Two clusters nine standard deviations apart in every feature: the first axis is between them.
    assert abs(columns["x"][gone].mean() - columns["x"][~gone].mean()) > 1.9
    assert columns["row"].max() == gone.sum() - 1
    assert [about["classes"][label] for label in np.unique(columns["label"][gone])] == ["c"]


def test_a_classifier_of_slides_has_no_patches_to_show(lab: Lab, tmp_path: Path) -> None:
    head, row = "part,slide,group,patches,label,predicted,p_a,p_b", "test,s,g,9,a,b,.4,.6"
    (tmp_path / "predictions.csv").write_text(f"{head}\n{row}\n")
    with pytest.raises(UsageError, match="judges whole slides"):
        mistakes(tmp_path, Library([lab.folder]))


def test_rows_of_a_store_that_was_cut_anew_are_not_shown_as_the_old_ones(lab: Lab, tmp_path: Path) -> None:
    for name in ("patches", "run", "features"):
        shutil.copytree(lab.folder / name, tmp_path / name)
    tile_slides(lab.slides / "one.svs", tmp_path / "patches", TileSpec(patch_size=96), overwrite=True)
    library = Library([tmp_path])
    assert all(one["slide"] is None for one in mistakes(tmp_path / "run", library)["most_confident"])
    about, _ = _columns(feature_map(tmp_path / "features", library))
    assert [one["slide"] for one in about["files"]] == [None, None]


def test_neighbours_are_the_most_alike_patches_of_other_slides(server: Server, lab: Lab) -> None:
    slide = _slide(server, "one")
    [features] = _json(server, f"/api/slides/{slide['id']}")["features"]
    told = _json(server, f"/api/slides/{slide['id']}/patches/2/neighbours/{features['id']}")
    with (
        h5py.File(lab.folder / "features" / "one.h5") as own,
        h5py.File(lab.folder / "features" / "gone.h5") as gone,
    ):
        similarity = cosine_similarity(own["features"][2:3], gone["features"][:])[0]
    assert [one["row"] for one in told] == np.argsort(-similarity)[:12].tolist()
    assert [one["similarity"] for one in told] == pytest.approx(np.sort(similarity)[::-1][:12])
    assert told[0]["slide"] is None and told[0]["name"] == "gone"
    assert server.get(f"/api/slides/{slide['id']}/patches/2/neighbours/none")[0] == 404


def test_views_of_a_patch_begin_with_the_patch(server: Server, lab: Lab) -> None:
    assert "simclr" in _json(server, "/api/methods")
    slide = _slide(server, "one")
    status, headers, body = server.get(f"/api/slides/{slide['id']}/patches/3/views/simclr")
    assert (status, headers["content-type"]) == (200, "image/png")
    with Image.open(io.BytesIO(body)) as picture, open_store(lab.stores / "one.h5") as store:
        pixels = np.asarray(picture)
        assert pixels.shape == (3 * 64, 3 * 64, 3)
        patch = store.read([3])[0]
    assert all(np.array_equal(pixels[at : at + 64, :64], patch) for at in (0, 64, 128))
    assert not np.array_equal(pixels[:64, 64:128], pixels[64:128, 64:128])
    assert server.get(f"/api/slides/{slide['id']}/patches/99999/views/simclr")[0] == 404
    status, _, body = server.get(f"/api/slides/{slide['id']}/patches/3/views/simclar")
    assert status == 404 and b"simclr" in body


def test_predictions_are_of_the_slide_whose_positions_they_have(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.stores, tmp_path / "here" / "patches")
    shutil.copytree(lab.folder / "predictions", tmp_path / "here" / "predictions")
    # Another slide of that name, cut at other places.
    shutil.copy(lab.slides / "two <b>.svs", tmp_path / "one.svs")
    spec = TileSpec(patch_size=64, level=0, stride=50, tissue="none")
    tile_slides(tmp_path / "one.svs", tmp_path / "other", spec, workers=1)
    library = Library([tmp_path])
    slides = [slide for slide in library.slides.values() if slide.name == "one"]
    tables = {slide.store.parent.name: library.predictions_of(slide) for slide in slides if slide.store}
    assert len(tables["patches"]) == 1 and tables["other"] == []


@pytest.mark.parametrize(
    "path",
    [
        "/api/slides/nothing",
        "/api/slides/../../etc/passwd",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/api/runs/nothing",
        "/nothing",
    ],
)
def test_what_is_not_there_is_said(server: Server, path: str) -> None:
    status, _, body = server.get(path)
    assert status == 404 and b"Traceback" not in body


@pytest.mark.parametrize("place", ["tiles/9/0/0", "tiles/0/99/0", "patches/100000", "predictions/x"])
def test_places_that_are_not_there_are_said(server: Server, place: str) -> None:
    status, _, body = server.get(f"/api/slides/{_slide(server, 'one')['id']}/{place}")
    assert status == 404 and json.loads(body)["problem"].startswith(
        "There is no" if "patch" not in place else "The store"
    )


def test_a_damaged_slide_has_a_sentence_and_no_tiles(server: Server) -> None:
    told = _json(server, f"/api/slides/{_slide(server, 'broken')['id']}")
    assert told["levels"] == [] and "broken.svs" in told["why"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Cookie": ""}, 403),
        ({"Cookie": "wsitool-view=0123456789abcdeg"}, 403),
        ({"Cookie": "wsitool-view="}, 403),
        ({"Host": "evil.example:80"}, 421),
        ({"Host": "127.0.0.1"}, 421),
        ({}, 200),
    ],
)
def test_strangers_get_nothing(server: Server, headers: dict[str, str], status: int) -> None:
    assert server.get("/api/library", **headers)[0] == status


def test_the_token_leaves_the_address_at_once(server: Server) -> None:
    status, headers, _ = server.get(f"/?token={TOKEN}", Cookie="")
    assert (status, headers["location"]) == (303, "/")
    assert headers["set-cookie"] == f"wsitool-view={TOKEN}; HttpOnly; SameSite=Strict; Path=/"
    assert server.get("/?token=0123456789abcdeg", Cookie="")[0] == 403


def test_pages_run_no_foreign_script(server: Server) -> None:
    _, headers, body = server.get("/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert b"<script>" not in body and b"http" not in body


def test_nothing_can_be_changed(server: Server) -> None:
    assert server.get("/api/library", method="POST")[0] == 405


def test_slides_outside_the_folders_given_are_not_read(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.stores, tmp_path / "patches")
    away = Library([tmp_path / "patches"])
    [slide] = [slide for slide in away.slides.values() if slide.name == "one"]
    assert away.readable_source(slide) is None and slide.store is not None
    assert slide.store.is_relative_to(tmp_path)  # and its store is the one here, not the one the table names
    both = Library([tmp_path / "patches", lab.slides])
    assert both.readable_source(both.slides[slide.id]) == lab.slides / "one.svs"


def test_slides_that_were_moved_are_found_by_name_and_known_by_their_pixels(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.stores, tmp_path / "patches")
    (tmp_path / "elsewhere" / "slides").mkdir(parents=True)
    shutil.copy(lab.slides / "one.svs", tmp_path / "elsewhere" / "slides")
    shutil.copy(lab.slides / "one.svs", tmp_path / "elsewhere" / "two <b>.svs")
    library = Library([tmp_path])
    told = {
        slide.name: json.loads(_answer(library, "/api/slides/{slide:str}", slide=slide.id))
        for slide in library.slides.values()
    }
    assert told["one"]["levels"] and not told["one"]["why"]
    assert not told["two <b>"]["levels"] and "is not the file that was tiled" in told["two <b>"]["why"]


def _answer(library: Library, route: str, **place: Any) -> bytes:
    """What the application answers, without a server."""
    endpoint = next(one.endpoint for one in make_app(library).routes if one.path == route)  # type: ignore[attr-defined]
    return bytes(endpoint(Request({"path_params": place, "type": "http"})).body)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "'nowhere' is no folder"),
        ([".", "--host", "0.0.0.0"], "lets other machines ask"),
        ([".", "--token", "short"], "--token needs at least 16"),
        ([".", "--token", "a; Path=/x aaaaaaaaaaaaaaaa"], "letters and digits"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(main, ["view", "--no-browser", *arguments])
    assert result.exit_code == 2 and sentence in result.output


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with serving._listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(main, ["view", str(tmp_path), "--no-browser", "--port", port])
    assert result.exit_code == 2 and "choose another --port" in result.output


def test_a_slide_that_is_another_file_now_is_not_shown_under_the_old_patches(
    lab: Lab, tmp_path: Path
) -> None:
    shutil.copytree(lab.slides, tmp_path / "slides")
    tile_slides(tmp_path / "slides" / "one.svs", tmp_path / "patches", TileSpec(patch_size=64, level=0))
    shutil.copy(lab.slides / "two <b>.svs", tmp_path / "slides" / "one.svs")
    library = Library([tmp_path])
    [slide] = [one for one in library.slides.values() if one.name == "one"]
    told = json.loads(_answer(library, "/api/slides/{slide:str}", slide=slide.id))
    assert told["levels"] == [] and "is not the file that was tiled" in told["why"]
