import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from classify_stores import labelled_store

from wsitool.classify.data import open_train_test
from wsitool.errors import LabelError
from wsitool.evaluation.labels import check_table, label_patches, read_label_table, shared_patches
from wsitool.store.collection import Collection, open_collection


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    for number in range(3):
        labelled_store(tmp_path / f"p{number}.h5", per_class=2, seed=number)
    return open_collection(tmp_path)


def _table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_of_the_stores(collection: Collection) -> None:
    found = label_patches(collection)
    assert found.classes == ("plain", "dotted", "striped")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2] * 3
    assert set(found.groups) == {"p0", "p1", "p2"} and len(set(found.identities())) == 18


def test_patches_are_hashed_as_their_sorted_names_are(tmp_path: Path) -> None:
    """Whatever the order of stores and rows; with a store and its copy, and rows of one and two digits."""
    paths = [labelled_store(tmp_path / f"p{number}.h5", per_class=5, seed=number % 2) for number in range(3)]
    shutil.copy(paths[0], tmp_path / "copy.h5")
    found = label_patches(open_collection(tmp_path))

    def naive(names: Iterable[str]) -> str:
        return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()

    rows = np.random.default_rng(0).permutation(len(found))
    for some in (found, found.subset(rows), found.subset(rows[:7]), found.subset(rows[:0])):
        assert some.identity_hash() == naive(some.identities())
        with_groups = (f"{name}@{group}" for name, group in zip(some.identities(), some.groups, strict=True))
        assert some.identity_hash("@") == naive(with_groups)
    one, other = found.subset(rows[:30]), found.subset(rows[25:])
    assert shared_patches(one, other) == len({*one.identities()} & {*other.identities()}) > 0
    mixed = found.subset(rows).collection
    for number, places in mixed.rows_by_store():
        assert places.tolist() == np.flatnonzero(mixed.store_index == number).tolist()
    assert [number for number, _ in mixed.rows_by_store()] == [0, 1, 2, 3]


def test_table_overrides_labels_and_groups(collection: Collection, tmp_path: Path) -> None:
    table = read_label_table(
        _table(tmp_path / "t.csv", "file,label,group\np0.svs,b,x\np1,a,\np1_dotted_0.png,b,y\n")
    )
    check_table(table, [collection])
    found = label_patches(collection, table=table)
    assert found.classes == ("a", "b") and len(found) == 12  # p2 is not named and left out
    assert found.labels.tolist() == [1] * 6 + [0, 0, 1, 0, 0, 0]
    assert found.groups.tolist() == ["x"] * 6 + ["p1", "p1", "y", "p1", "p1", "p1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\np0,a\n", "needs the columns file and label"),
        ("file,label\np0,\n", "line 2: p0 has no label"),
        ("file,label\np0,a\np0,b\n", "gives p0 two different labels"),
        ("file,label\n", "names no file"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_label_table(_table(tmp_path / "t.csv", text))


def test_unknown_files_are_named(collection: Collection, tmp_path: Path) -> None:
    table = read_label_table(_table(tmp_path / "t.csv", "file,label\np0,a\nghost.png,b\n"))
    with pytest.raises(LabelError, match=r"1 file\(s\) that no store holds, such as ghost\.png"):
        check_table(table, [collection])


def test_class_the_classifier_does_not_know(collection: Collection) -> None:
    with pytest.raises(LabelError, match="Unknown class dotted, striped: the classifier's classes are plain"):
        label_patches(collection, classes=["plain"])


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"label table .* cannot be read"):
        read_label_table(tmp_path / "none.csv")


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "cp949"])
def test_tables_as_excel_saves_them(collection: Collection, tmp_path: Path, codec: str) -> None:
    (tmp_path / "t.csv").write_bytes(
        ' File;Label;Group\r\np0.svs;양성;="001"\r\np1;음성;\r\n;;\r\n'.encode(codec)
    )
    table = read_label_table(tmp_path / "t.csv")
    check_table(table, [collection])
    found = label_patches(collection, table=table)
    assert found.classes == ("양성", "음성") and set(found.groups) == {"001", "p1"}


def test_bad_rows_are_named_by_their_line(tmp_path: Path) -> None:
    for row, message in (("p0,a,b,c,d", "5 cells"), (",a,", "names no file"), ("=A1,a,", "formula")):
        with pytest.raises(LabelError, match=f"line 3: .*{message}"):
            read_label_table(_table(tmp_path / "t.csv", f"file,label,group\np1,a,\n{row}\n"))


def test_classes_without_a_patch_are_said(tmp_path: Path) -> None:
    for number in range(4):
        folder = tmp_path / ("train" if number < 2 else "test")
        labelled_store(folder / f"p{number}.h5", per_class=2, seed=number)
    said: list[str] = []

    class Listener:
        def say(self, message: str) -> None:
            pass

        def warn(self, message: str) -> None:
            said.append(message)

    text = "file,label\np0,a\np1,b\np2,a\np3,a\n"
    open_train_test(
        tmp_path / "train",
        tmp_path / "test",
        labels=_table(tmp_path / "t.csv", text),
        split="group",
        reporter=Listener(),  # type: ignore[arg-type]
    )
    assert said == ["No test patch is labelled b: the figures say nothing of that class."]


def test_single_patches_by_place(collection: Collection, tmp_path: Path) -> None:
    """The patch's row wins over its image's and slide's; of images of one name the slide decides."""
    lines = [
        "file,slide,x,y,label,group",
        "p0,,,,b,",
        "p0,,64,0,a_longer_name,x",  # the third patch of slide p0, whatever its image is called
        "p1_plain_0.png,p1,0,0,b,",
        "p1_plain_1,p2,32,0,b,",
    ]
    table = read_label_table(_table(tmp_path / "t.csv", "\n".join(lines[:-1])))
    with pytest.raises(
        LabelError, match=r"1 row\(s\) with x and y where no store has a patch.*p0 at \(64, 0"
    ):
        check_table(table, [collection])  # images have names of their own
    lines[2] = "p0_dotted_0.png,,64,0,a_longer_name,x"
    table = read_label_table(_table(tmp_path / "t.csv", "\n".join(lines[:-1])))
    check_table(table, [collection])
    found = label_patches(collection, table=table)
    assert found.classes == ("a_longer_name", "b") and table.classes == set(found.classes)
    assert found.labels.tolist() == [1, 1, 0, 1, 1, 1, 1]
    assert found.groups.tolist() == ["p0", "p0", "x", "p0", "p0", "p0", "p1"]
    assert found.collection.row.tolist() == [0, 1, 2, 3, 4, 5, 0]
    table = read_label_table(_table(tmp_path / "t.csv", "\n".join(lines)))
    with pytest.raises(LabelError, match=r"such as p1_plain_1 at \(32, 0\)"):
        check_table(table, [collection])  # it is there, but in another slide


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("p0,a,1,", "whole level-0 pixels or both empty, got '1' and ''"),
        ("p0,a,1.5,0", "whole level-0 pixels"),
        ("p0,a,inf,0", "whole level-0 pixels"),
        ("p0,a,32,0\np0,b,32,0", r"gives the patch of p0 at \(32, 0\) two different labels"),
    ],
)
def test_bad_places_are_refused(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_label_table(_table(tmp_path / "t.csv", f"file,label,x,y\n{row}\n"))
