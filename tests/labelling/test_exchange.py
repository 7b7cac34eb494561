"""Labels go out to `classify` and QuPath and come back the same; outlines and predictions come in."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest
from classify_stores import labelled_store
from click.testing import CliRunner
from labelling.conftest import Bench, give
from patch_stores import small_store

from wsitool.cli import main
from wsitool.errors import UsageError
from wsitool.evaluation.labels import check_table, label_patches, read_label_table
from wsitool.labelling.exchange import (
    geojson_download,
    import_outlines,
    labels_csv,
    suggestions_of,
    write_geojson_of,
)
from wsitool.labelling.opening import opened
from wsitool.labelling.options import LabelOptions
from wsitool.store.collection import open_collection


def test_the_csv_is_read_as_it_was_labelled(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db")
    for number in range(50):
        give(session, note="=1+1" if number == 3 else "", kind="unsure" if number == 7 else "label")
    (tmp_path / "labels.csv").write_bytes(labels_csv(session))
    table = read_label_table(tmp_path / "labels.csv")
    collection = bench.patches.collection
    check_table(table, [collection])
    read = label_patches(collection, table=table, classes=("tumour", "stroma"))
    patches = [
        bench.patches.number(store, row)
        for store, row in zip(read.collection.store_index.tolist(), read.collection.row.tolist(), strict=True)
    ]
    assert dict(zip(patches, read.labels.tolist(), strict=True)) == session.labels() and len(read) == 49
    assert read.groups.tolist() == bench.patches.groups[patches].tolist()


def test_patches_of_loose_images_are_named_by_image(tmp_path: Path) -> None:
    (tmp_path / "stores").mkdir()
    for number in range(2):
        labelled_store(tmp_path / "stores" / f"p{number}.h5", per_class=2, seed=number)
    with opened(tmp_path / "stores", tmp_path / "a.db", LabelOptions(classes=("x", "y"))) as session:
        while give(session) is not None:
            pass
        (tmp_path / "labels.csv").write_bytes(labels_csv(session))
        labels = session.labels()
        with pytest.raises(UsageError, match="loose images"):
            write_geojson_of(session, tmp_path / "a.geojson")
    collection = open_collection(tmp_path / "stores")
    read = label_patches(collection, table=read_label_table(tmp_path / "labels.csv"))
    assert read.labels.tolist() == list(labels.values()) and len(labels) == 12
    assert read.images[0] == "p0_plain_0.png"


def test_outlines_go_round_by_the_command(bench: Bench, tmp_path: Path) -> None:
    """GeoJSON out, in again as the annotator "import": the same labels on the same patches."""
    with opened(bench.folder, tmp_path / "a.db", LabelOptions(classes=("tumour", "stroma"))) as session:
        for _ in range(60):
            give(session)
        before = labels_csv(session)
    stores, out = str(bench.folder), str(tmp_path / "outlines")
    run = CliRunner().invoke
    result = run(main, ["label", stores, "--out", str(tmp_path / "a.db"), "--geojson", out])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in Path(out).iterdir()) == [f"s{n}.geojson" for n in range(6)]
    words = ["label", stores, "--classes", "tumour,stroma", "--out", str(tmp_path / "b.db"), "--import", out]
    for _ in range(2):
        result = run(main, [*words, "--export", str(tmp_path / "b.csv")])
        assert result.exit_code == 0 and "60 patches have their centre in an outline" in result.output
    rows, again = (
        list(csv.DictReader(io.StringIO(data.decode())))
        for data in (before, (tmp_path / "b.csv").read_bytes())
    )
    assert {row["annotators"] for row in again} == {"import"}
    assert [row | {"annotators": ""} for row in rows] == [row | {"annotators": ""} for row in again]


def test_one_slide_is_one_file_and_several_are_a_folder_or_a_zip(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db", plan={"test": tuple(f"p{n}" for n in range(1, 6))})
    give(session)
    [path] = write_geojson_of(session, tmp_path / "one.geojson")
    name, data = geojson_download(session)
    assert path.read_bytes() == data and name == "s0.geojson"
    [feature] = json.loads(data)["features"]
    assert feature["properties"]["classification"]["name"] in ("tumour", "stroma")
    several = bench.session(tmp_path / "b.db")
    for _ in range(6):
        give(several)
    with pytest.raises(UsageError, match="give a folder, such as --geojson"):
        write_geojson_of(several, tmp_path / "all.geojson")
    name, data = geojson_download(several)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert name == "labels.zip" and len(archive.namelist()) == 6


def _outline(name: str, x0: float, y0: float, x1: float, y1: float) -> dict[str, object]:
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}}}


def test_a_patch_is_of_an_outline_by_its_centre(bench: Bench, tmp_path: Path) -> None:
    # Patches of 16 px: the outline's corner lies just beyond the centre of the second in the second row.
    features = [_outline("stroma", 0, 0, 24.5, 24.5), _outline("other", 60, 0, 128, 48)]
    (tmp_path / "s3.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    session = bench.session(tmp_path / "a.db")
    assert import_outlines(session, tmp_path) == 4
    first = bench.patches.number(3, 0)
    assert first is not None and session.labels() == dict.fromkeys(
        [first, first + 1, first + 8, first + 9], 1
    )
    assert import_outlines(bench.session(tmp_path / "b.db"), tmp_path / "s3.geojson") == 4
    (tmp_path / "s3.geojson").rename(tmp_path / "x.geojson")
    with pytest.raises(UsageError, match="no outlines of any slide given"):
        import_outlines(session, tmp_path / "x.geojson")
    (tmp_path / "s1.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features[1:]}))
    with pytest.raises(UsageError, match=r"outline of tumour, stroma in .* \(they are other\)"):
        import_outlines(session, tmp_path / "s1.geojson")


def test_predictions_are_shown_where_they_fit(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "summary.csv").write_text("slide,status,files\ns0,done,s0\ngone,done,gone\n")
    (tmp_path / "s0.csv").write_text(
        "x,y,size,predicted,p_tumour,p_stroma,p_else\n0,0,16,stroma,0.1,0.8,0.1\n16,0,16,else,0,0,1\n7,7,16,tumour,1,0,0\n"
    )
    assert suggestions_of(bench.patches, tmp_path, ("tumour", "stroma")) == {0: (1, 0.8)}
    with pytest.raises(UsageError, match="of other classes than a, b"):
        suggestions_of(bench.patches, tmp_path, ("a", "b"))
    (tmp_path / "s0.csv").write_text("x,y,predicted,p_tumour\n0,zero,tumour,1\n")
    with pytest.raises(UsageError, match="no table of `wsitool predict`"):
        suggestions_of(bench.patches, tmp_path, ("tumour", "stroma"))


def test_whatever_a_slide_is_called_its_labels_stay_where_they_are_asked_for(tmp_path: Path) -> None:
    for number, name in enumerate(("../../evil", "/abs/evil", "=cmd")):
        file = small_store(tmp_path / "stores" / f"{number}.zarr", (None, None)) / "zarr.json"
        values = json.loads(file.read_text())
        values["attributes"] |= {"name": name, "group": name}
        file.write_text(json.dumps(values))
    with opened(tmp_path / "stores", tmp_path / "db" / "a.db", LabelOptions(classes=("x", "y"))) as session:
        while give(session) is not None:
            pass
        written = write_geojson_of(session, tmp_path / "out")
        (tmp_path / "labels.csv").write_bytes(labels_csv(session))
    assert len(written) == 3 and all(path.parent == tmp_path / "out" for path in written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db", "labels.csv", "out", "stores"]
    collection = open_collection(tmp_path / "stores")
    read = label_patches(collection, table=read_label_table(tmp_path / "labels.csv"))
    assert len(read) == 6 and set(read.groups) == {"../../evil", "/abs/evil", "=cmd"}
