"""Many stores as one sequence."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from wsitool.errors import StoreError, UsageError
from wsitool.store.collection import Collection, open_collection
from wsitool.store.opening import find_stores, open_store
from wsitool.store.reader import Reader
from wsitool.testing.stores import write_example


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_example(tmp_path / "a.h5", "raw", 9, seed=1, name="a", group="p1", labelled=False)
    write_example(tmp_path / "b.zarr", "jpeg", 23, seed=2, name="b", group="p2")
    write_example(tmp_path / "c.h5", "jpeg", 12, seed=3, name="c", group="p1")
    (tmp_path / "slides.csv").write_text("not a store")
    (tmp_path / ".d.h5.0badcafe.partial").write_bytes(b"")
    (tmp_path / ".e.h5").write_bytes(b"")
    return tmp_path


def test_a_folder_is_a_collection(folder: Path) -> None:
    assert [path.name for path in find_stores(folder)] == ["a.h5", "b.zarr", "c.h5"]
    collection = open_collection(folder)
    assert len(collection) == 44
    assert collection.patch_size == 32
    assert collection.mpp == 0.5
    assert collection.groups == ("p1", "p2")
    assert np.array_equal(collection.group_index, [0] * 9 + [1] * 23 + [0] * 12)
    assert np.array_equal(collection.store_index, [0] * 9 + [1] * 23 + [2] * 12)
    assert collection.sources[[0, 9, 43]].tolist() == ["a", "bild-ä0", "bild-ä11"]
    assert collection.classes == ("benign", "ADH", "DCIS")
    assert (collection.labels[:9] == -1).all()
    assert collection.labels[9:14].tolist() == [-1, 0, 1, 2, -1]


def test_reads_across_stores_in_the_order_asked(folder: Path) -> None:
    collection = open_collection(folder)
    everything = np.concatenate([store.read(range(len(store))) for store in collection.stores])
    asked = np.random.default_rng(0).integers(0, 44, 100)
    assert np.array_equal(collection.read(asked), everything[asked])
    some = collection.subset([40, 3, 3, 20])
    assert np.array_equal(some.read([3, 1, 0]), everything[[20, 3, 40]])
    assert some.labels.tolist() == collection.labels[[40, 3, 3, 20]].tolist()


def test_labels_of_stores_with_other_class_orders_are_matched_by_name(folder: Path, tmp_path: Path) -> None:
    one, other = open_store(folder / "b.zarr"), open_store(folder / "c.h5")
    import dataclasses

    other._meta = dataclasses.replace(other.meta, classes=("DCIS", "benign", "new"))
    collection = Collection.of([one, other])
    assert collection.classes == ("benign", "ADH", "DCIS", "new")
    assert collection.labels[23:27].tolist() == [-1, 2, 0, 3]


def test_fingerprint_is_of_content_and_choice(folder: Path, tmp_path: Path) -> None:
    first, again = open_collection(folder), open_collection(sorted(folder.glob("[abc].*")))
    assert first.fingerprint == again.fingerprint
    assert first.subset(range(10)).fingerprint != first.fingerprint


def test_cap_per_slide(folder: Path) -> None:
    collection = open_collection(folder)
    capped = collection.capped(10, seed=3)
    assert Counter(capped.store_index.tolist()) == {0: 9, 1: 10, 2: 10}
    assert (np.diff(capped.store_index) >= 0).all()
    assert len(set(zip(capped.store_index.tolist(), capped.row.tolist(), strict=True))) == 29
    assert np.array_equal(capped.row, collection.capped(10, seed=3).row)
    assert not np.array_equal(capped.row, collection.capped(10, seed=4).row)


def test_bad_collections_are_refused(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(StoreError, match="holds no patch store"):
        open_collection(empty)
    with pytest.raises(StoreError, match="holds no patch store"):
        open_collection([folder, tmp_path / "missing.h5"])
    with pytest.raises(StoreError, match="needs at least one"):
        Collection.of([])
    write_example(folder / "z.h5", "raw", 3, size=64)
    with pytest.raises(StoreError, match=r"a\.h5 has 32 px and .*z\.h5 has 64 px"):
        open_collection(folder)


@pytest.mark.parametrize("many", [False, True])
def test_patches_by_index_are_those_that_read_gives(folder: Path, many: bool) -> None:
    patches = open_collection(folder) if many else open_store(folder / "b.zarr")
    number, everything = len(patches), patches.read(range(len(patches)))
    mask = np.arange(number) % 3 == 0
    for index in (0, -1, np.int64(3), slice(3, 9), slice(None, None, -2), [1, 5], [-1, 0, 0], mask):
        assert np.array_equal(patches[index], everything[index]), index
    assert patches[0].shape == (32, 32, 3) and patches[[0]].shape == (1, 32, 32, 3)
    assert patches[[]].shape == (0, 32, 32, 3)
    assert np.array_equal(np.stack(list(patches)), everything)
    for wrong in (number, -number - 1, [0, number], mask[:-1], 1.5, "a", [[0, 1]]):
        with pytest.raises(IndexError):
            patches[wrong]  # type: ignore[index]


def test_they_are_read_ahead_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, asked = open_store(folder / "b.zarr"), []
    read = type(store).read
    monkeypatch.setattr("wsitool.store.indexing._AHEAD_BYTES", 10 * 32 * 32 * 3)
    monkeypatch.setattr(type(store), "read", lambda self, rows: asked.append(len(rows)) or read(self, rows))
    assert len(list(store)) == 23 and asked == [1, 10, 10, 3]


def test_a_split_keeps_groups_together_and_has_every_class_on_both_sides(tmp_path: Path) -> None:
    for index in range(8):
        write_example(
            tmp_path / f"{index}.h5", "raw", 12, seed=index, name=f"{index}", group=f"p{index // 2}"
        )
    collection = open_collection(tmp_path)
    train, test = collection.split(by="group", test=0.25, seed=1)
    assert not set(train.group_index.tolist()) & set(test.group_index.tolist())
    assert len(train) == 72 and len(test) == 24
    assert set(test.labels.tolist()) == set(train.labels.tolist()) == {-1, 0, 1, 2}
    again = collection.split(by="group", test=0.25, seed=1)
    assert [part.fingerprint for part in again] == [train.fingerprint, test.fingerprint]
    assert {collection.split(test=0.25, seed=seed)[1].fingerprint for seed in range(9)} != {test.fingerprint}
    by_patch = collection.split(by="patch", test=0.25)
    assert [Counter(part.labels.tolist())[1] for part in by_patch] == [18, 6]
    one = collection.subset(np.flatnonzero(collection.group_index == 0))
    with pytest.raises(UsageError, match=r"1 group.* too few.*which leaks"):
        one.split()
    with pytest.raises(UsageError, match="by group or by patch, got 'slide'"):
        one.split(by="slide")  # type: ignore[arg-type]


def test_collections_are_put_together_by_names_of_classes(folder: Path) -> None:
    whole = open_collection(folder)
    parts = whole.subset([40, 3, 20]), open_collection(folder / "c.h5").subset([11, 10])
    parts = parts[0], parts[1].with_labels(np.array([1, 0]), ("new", "ADH"))
    joined = Collection.concat(parts)
    assert np.array_equal(joined[:], np.concatenate([parts[0][:], parts[1][:]]))
    names = np.array([*joined.classes, "-"])[joined.labels]
    assert names.tolist()[3:] == ["ADH", "new"] and joined.classes[-1] == "new"
    assert names.tolist()[:3] == np.array([*whole.classes, "-"])[parts[0].labels].tolist()
    assert [joined.groups[i] for i in joined.group_index] == ["p1", "p1", "p2", "p1", "p1"]
    with pytest.raises(StoreError, match="at least one patch store"):
        Collection.concat([])


def test_a_sample_is_drawn_without_replacement(folder: Path) -> None:
    collection = open_collection(folder)
    drawn = collection.sample(10, seed=3)
    places = list(zip(drawn.store_index.tolist(), drawn.row.tolist(), strict=True))
    assert len(set(places)) == 10 and places == sorted(places)
    assert drawn.fingerprint == collection.sample(10, seed=3).fingerprint
    assert drawn.fingerprint != collection.sample(10, seed=4).fingerprint
    assert len(collection.sample(44)) == 44
    for number in (0, 45):
        with pytest.raises(UsageError, match="1 to 44"):
            collection.sample(number)


def test_stores_show_themselves(folder: Path) -> None:
    for patches in (open_store(folder / "b.zarr"), open_collection(folder)):
        html = patches._repr_html_()
        assert html.count("data:image/jpeg") == 1 and len(html) < 100_000 and "patches" in html
    empty = open_collection(folder).subset([])
    assert "data:image" not in empty._repr_html_()


def test_a_subset_looks_only_at_the_stores_of_its_patches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = open_collection(folder)
    looked: list[str] = []
    monkeypatch.setattr(Reader, "check", lambda store: looked.append(store.meta.name))
    collection.subset([9, 31]).check()
    assert looked == ["b"]
    collection.check()
    assert looked == ["b", "a", "b", "c"]
    collection.subset([]).check()
    assert len(looked) == 4


def test_a_part_looks_at_no_store_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part numbered the patients of all 10,000 stores, of which `embed` makes one for every store."""
    collection = open_collection(folder)
    _ = collection.fingerprint
    looks: list[Reader] = []
    meta = Reader.meta.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Reader, "meta", property(lambda store: looks.append(store) or meta(store)))
    part = collection.subset([2, 0])
    labelled = part.with_labels(np.array([0, -1]), ("x",)).with_stain(None)
    assert looks == [] and labelled.groups == collection.groups
    assert labelled.classes == ("x",) and collection.classes != ("x",)
    assert part.group_index.tolist() == collection.group_index[[2, 0]].tolist()
    assert part.fingerprint != collection.fingerprint
