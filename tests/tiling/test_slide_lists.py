"""Slide lists and slides.csv as Excel saves them: a bad row costs one slide, and no other row is lost."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner
from listener import Listener

from wsitool.base.tables import read_table
from wsitool.cli import main
from wsitool.curate.audit import audit_slides
from wsitool.errors import UsageError
from wsitool.slides.slide_list import find_slides
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide
from wsitool.tiling.results import SLIDES_CSV, SlideResult, merge_slides_csv, update_slides_csv
from wsitool.tiling.run import tile_slides


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a.svs,x,", "Line 2 .*: its mpp 'x' is no number"),
        ("a.svs,nan,", "is no number"),
        ("a.svs,inf,", "is no number"),
        ("a.svs,1e999,", "mpp must be above 0, got 1e999"),
        ("a.svs,0,", "mpp must be above 0"),
        ("a.svs,-0.5,", "mpp must be above 0"),
        ('a.svs,"1,234",', "1.234 or 1234"),
        ("a.svs,1,p,x", "4 cells and the header 3"),
        (",1,p", "names no path"),
        ("=A1,1,p", "path is a formula"),
        ("a\0.svs,1,p", "NUL"),
        ('"a".svs,1,p', "no row of a CSV"),
    ],
)
def test_a_bad_row_is_a_slide_with_a_problem(tmp_path: Path, row: str, problem: str) -> None:
    table = tmp_path / "list.csv"
    table.write_text(f'path,mpp,group\n{row}\nb.svs,"0,499",p2\n')
    bad, good = find_slides(table, group_regex="b")
    assert (good.mpp, good.group, good.problem) == (0.499, "p2", "")
    assert re.search(problem, bad.problem) and "Line 2 of" in bad.problem and bad.name


def test_rows_of_one_slide(tmp_path: Path) -> None:
    table = tmp_path / "list.tsv"
    table.write_text("path\tgroup\na.svs\tp1\nb.svs\tp2\na.svs\tp1\nb.svs\tp3\n./b.svs\tp2\n")
    first, second = find_slides([table])
    assert first.problem == ""
    assert second.problem.startswith("Lines 3 and 5 of") and "different things" in second.problem


def test_a_list_without_rows_and_a_workbook_are_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("path,mpp\n")
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04")
    for name, message in (("empty.csv", "no rows"), ("book.xlsx", "workbook"), ("none.csv", "no file")):
        with pytest.raises(UsageError, match=message):
            find_slides([tmp_path / "other.svs", tmp_path / name])


def test_one_bad_mpp_costs_one_slide(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for seed, name in enumerate(("é", "b", "c")):
        path = tmp_path / "s" / f"{unicodedata.normalize('NFD', name)}.svs"
        synthetic_slide(path, size=(300, 300), glass=0.05, seed=seed, mpp=None)
    table = tmp_path / "list.csv"
    lines = " Path ;MPP;Label\ns\\é.svs;0,5;양성\ns/b.svs;x;음성\n s/c.svs;0.5;\n"
    table.write_bytes(lines.encode("utf-16"))
    args = ["tile", str(table), "--out", str(tmp_path / "o"), "--patch-size", "100", "--mpp", "0.5"]
    run = CliRunner().invoke(main, args)
    assert run.exit_code == 1 and "read as UTF-16 with semicolons" in run.output
    assert f"b: Line 3 of '{table}': its mpp 'x' is no number" in run.output
    rows = {row["name"]: row for row in read_table(tmp_path / "o" / SLIDES_CSV, needs=("name",)).rows}
    assert [rows[name]["status"] for name in sorted(rows)] == ["failed", "done", "done"]
    assert "Line 3" in rows["b"]["reason"] and rows["b"]["label"] == "음성"
    with open_store(tmp_path / "o" / f"{unicodedata.normalize('NFD', 'é')}.h5") as store:
        assert store.meta.classes == ("양성", "음성") and store.meta.mpp_level0 == 0.5
    audits = {audit.name: audit for audit in audit_slides(table, TileSpec(patch_size=100, mpp=0.5))}
    assert "Line 3" in audits["b"].error and not audits["c"].error


def _result(name: str, **more: object) -> SlideResult:
    return SlideResult(name=name, path=f"/slides/{name}.svs", status="done", kept=5, **more)  # type: ignore[arg-type]


def _saved_by_excel(text: str) -> dict[str, bytes]:
    semicolons = text.replace(",", ";")
    return {
        "plain": text.encode(),
        "mark": text.encode("utf-8-sig"),
        "semicolons and mark": semicolons.replace("\n", "\r\n").encode("utf-8-sig"),
        "cp949": semicolons.encode("cp949"),
        "utf-16": text.replace(",", "\t").encode("utf-16"),
        "headers": text.replace("name", " Name", 1).encode(),
    }


@pytest.mark.parametrize("way", list(_saved_by_excel("")))
def test_no_row_is_lost_where_excel_saved_the_file(tmp_path: Path, way: str) -> None:
    text = (
        "name,path,status,kept,Befund\n001,/slides/1.svs,done,7,gut\n가나,/slides/가나.svs,done,8,\n"
        "1,/slides/0001.svs,done,9,schlecht\n"
    )
    (tmp_path / SLIDES_CSV).write_bytes(_saved_by_excel(text)[way])
    listener = Listener()
    merge_slides_csv(tmp_path, [_result("new"), _result("가나"), _result("0001")], listener)  # type: ignore[arg-type]
    table = read_table(tmp_path / SLIDES_CSV, needs=("name",))
    assert table.plain and not listener.warned
    kept = {row["name"]: (row["kept"], row["befund"]) for row in table.rows}
    # Excel had made 1 of the name 0001
    assert kept == {"001": ("7", "gut"), "가나": ("5", ""), "0001": ("5", "schlecht"), "new": ("5", "")}
    assert table.headers["befund"] == "Befund"
    assert update_slides_csv(tmp_path, "001", {"kept": 6}) and not update_slides_csv(tmp_path, "x", {})
    assert [
        row["kept"] for row in read_table(tmp_path / SLIDES_CSV, needs=("name",)).rows if row["name"] == "001"
    ] == ["6"]


@pytest.mark.parametrize(
    "data",
    [b"PK\x03\x04", b"\xff\xfe\x00\xd8", b"file,kept\na,1\n", b"name,kept\na,1,2\n", b'name\n"a\n', b""],
)
def test_a_file_that_cannot_be_read_is_kept_aside(tmp_path: Path, data: bytes) -> None:
    (tmp_path / SLIDES_CSV).write_bytes(data)
    assert not update_slides_csv(tmp_path, "a", {"kept": 6})
    assert (tmp_path / SLIDES_CSV).read_bytes() == data
    for number in (1, 2):
        listener = Listener()
        merge_slides_csv(tmp_path, [_result("new")], listener)  # type: ignore[arg-type]
        aside = tmp_path / f"slides.unread{number}.csv"
        assert aside.read_bytes() == data and f"kept as '{aside}'" in listener.warned[0]
        (tmp_path / SLIDES_CSV).write_bytes(data)


def test_names_that_a_spreadsheet_would_run(tmp_path: Path) -> None:
    for _ in range(2):
        merge_slides_csv(tmp_path, [_result("=1+1"), _result("-a"), _result("@b")])
    table = read_table(tmp_path / SLIDES_CSV, needs=("name",), exact=True)
    assert [row.cells["name"] for row in table.rows] == ["-a", "=1+1", "@b"]
    assert "\n'=1+1," in (tmp_path / SLIDES_CSV).read_text()


def test_patients_are_told_of_before_tiling(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    for name in ("a", "b"):
        synthetic_slide(tmp_path / "slides" / f"{name}.tif", size=(256, 256), levels=(1,))
    heard = Listener()
    tile_slides(tmp_path / "slides", tmp_path / "o", TileSpec(patch_size=64), dry_run=True, reporter=heard)
    assert [line for line in heard.warned if line.startswith("Every slide is a group (patient) of its own")]
    table = tmp_path / "slides.csv"
    table.write_text("path,group\nslides/a.tif,\u00a0P1 \nslides/b.tif,p1\n")
    assert [slide.group for slide in find_slides(table)] == ["P1", "p1"]
    heard = Listener()
    tile_slides(table, tmp_path / "o", TileSpec(patch_size=64), dry_run=True, reporter=heard)
    (clash,) = [line for line in heard.warned if "patients" in line]
    assert "'P1' and 'p1'" in clash
