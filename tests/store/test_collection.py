"""Many stores as one sequence."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from wsitool.errors import StoreError
from wsitool.store.collection import Collection, open_collection
from wsitool.store.opening import find_stores, open_store
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
