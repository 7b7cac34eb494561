"""Which images are imported, with which label and group."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsitool.errors import LabelError, UsageError
from wsitool.image_table import read_image_table


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
