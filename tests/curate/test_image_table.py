"""Which images are imported, with which label and group."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from listener import Listener

from wsitool.curate.image_table import read_image_table
from wsitool.errors import LabelError, UsageError


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_flat_folder_is_unlabelled_and_grouped_by_name(tmp_path: Path) -> None:
    table = read_image_table(_touch(tmp_path, "b.png", "a.JPG", "a.xml", ".hidden.png", "sub/c.png"))
    assert [(e.name, e.label, e.group) for e in table.entries] == [("a.JPG", None, "a"), ("b.png", None, "b")]
    assert (table.classes, table.ignored, table.unlisted) == ((), 1, 1)


def test_class_folders_label_and_keep_equal_names_apart(tmp_path: Path) -> None:
    table = read_image_table(_touch(tmp_path, "dcis/1.png", "adh/1.png", "adh/p2/1.png"))
    assert [(e.name, e.label, e.group) for e in table.entries] == [
        ("adh/1.png", "adh", "adh_1"),
        ("adh/p2/1.png", "adh", "adh_p2_1"),
        ("dcis/1.png", "dcis", "dcis_1"),
    ]
    assert table.classes == ("adh", "dcis")


def test_group_regex_takes_its_group_or_the_match(tmp_path: Path) -> None:
    folder = _touch(tmp_path, "adh/p1-a.png", "adh/p2-b.png")
    assert [e.group for e in read_image_table(folder, group_regex=r"(p\d)-").entries] == ["p1", "p2"]
    assert [e.group for e in read_image_table(folder, group_regex=r"p\d").entries] == ["p1", "p2"]


@pytest.mark.parametrize("regex", ["q", "("])
def test_a_regex_that_cannot_work_is_wrong_usage(tmp_path: Path, regex: str) -> None:
    with pytest.raises(UsageError, match="--group-regex"):
        read_image_table(_touch(tmp_path, "p1.png"), group_regex=regex)


def test_csv_gives_labels_and_groups(tmp_path: Path) -> None:
    folder = _touch(tmp_path, "1.png", "2.png", "3.png", "4.png")
    csv = folder / "labels.csv"
    csv.write_text("\ufeffFile,label,group\n1.png,b,p1\n2.png,a,\n3.png,,p1\n", encoding="utf-8")
    table = read_image_table(folder, labels_csv=csv)
    assert [(e.name, e.label, e.group) for e in table.entries] == [
        ("1.png", "b", "p1"),
        ("2.png", "a", "2"),
        ("3.png", None, "p1"),
    ]
    assert (table.classes, table.ignored, table.unlisted) == (("a", "b"), 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\nmissing.png,b\n", "Line 2 .*missing.png, not found"),
        ("name,label\n1.png,a\n", "lacks file"),
        ("file,label\n", "no rows"),
        ("", "lacks file and label"),
        ("file,label\n1.png,a\n1.png,b\n", "1.png more than once"),
    ],
)
def test_a_csv_that_does_not_fit_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    folder = _touch(tmp_path, "1.png")
    csv = tmp_path / "labels.csv"
    csv.write_text(text)
    with pytest.raises(LabelError, match=message) as caught:
        read_image_table(folder, labels_csv=csv)
    assert "\n" not in str(caught.value)


def test_unreadable_csv_empty_folder_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="cannot be read"):
        read_image_table(_touch(tmp_path, "1.png"), labels_csv=tmp_path / "no.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(LabelError, match="UTF-8"):
        read_image_table(tmp_path, labels_csv=tmp_path / "binary.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="No image"):
        read_image_table(tmp_path / "empty")
    with pytest.raises(UsageError, match="no folder"):
        read_image_table(tmp_path / "absent")


def test_bad_rows_are_told_apart_from_the_others(tmp_path: Path) -> None:
    folder = _touch(tmp_path, "1.png", "2.png", "é.png", "sub/4.png")
    csv = tmp_path / "labels.csv"
    text = (
        " File ;LABEL;Group\n1.png;a;p1\n1.png;a;p1\n2.png;a;p1\n2.png;b;p1\ne\u0301.png;b;001\n"
        "sub\\4.png;b;\nnone.png;a;\n;a;\n=A1;a;\n1.png;a;b;c;d\n"
    )
    csv.write_bytes(text.encode("utf-16"))
    table = read_image_table(folder, labels_csv=csv)
    found = [(entry.name, entry.label, entry.group) for entry in table.entries]
    assert found == [("sub/4.png", "b", "sub_4"), ("é.png", "b", "001")]
    problems = [entry.problem for entry in table.unusable]
    for wanted in (
        "Line 11 of",
        "Lines 4 and 5 of",
        "Line 8 of .*none.png, not found in",
        "Line 9 of .*names no file",
        "Line 10 of .*formula",
    ):
        assert any(re.search(wanted, problem) for problem in problems), (wanted, problems)
    assert len(problems) == 5


def test_a_label_table_that_is_there_and_not_read_is_said(tmp_path: Path) -> None:
    folder = _touch(tmp_path, "1.png")
    (folder / "Labels.CSV").write_bytes("file;label\n1.png;a\n".encode("utf-16"))
    (folder / "notes.csv").write_text("file,text\n1.png,a\n")
    listener = Listener()
    read_image_table(folder, reporter=listener)  # type: ignore[arg-type]
    assert listener.warned == [
        f"'{folder / 'Labels.CSV'}' is there and not read: pass --labels '{folder / 'Labels.CSV'}' to take "
        "the labels from it."
    ]
    listener = Listener()
    read_image_table(folder, labels_csv=folder / "Labels.CSV", reporter=listener)  # type: ignore[arg-type]
    assert not listener.warned


def test_a_name_too_long_for_a_file_costs_its_row_only(tmp_path: Path) -> None:
    table = _touch(tmp_path, "a.png") / "labels.csv"
    table.write_text(f"file,label\na.png,x\n{'n' * 300}.png,y\n")
    found = read_image_table(tmp_path, labels_csv=table)
    assert [entry.name for entry in found.entries] == ["a.png"]
    assert ["not found" in entry.problem for entry in found.unusable] == [True]


def test_groups_are_stripped_and_clashes_said(tmp_path: Path) -> None:
    folder = _touch(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "t.csv").write_text("file,label,group\na.png,x,\u00a0p1 \nb.png,x,P1\nc.png,y,p  2\n")
    heard = Listener()
    table = read_image_table(folder, labels_csv=tmp_path / "t.csv", reporter=heard)
    assert [entry.group for entry in table.entries] == ["p1", "P1", "p 2"]
    assert [line for line in heard.warned if "'P1' and 'p1'" in line]
