"""Features are kept by store: whoever has the store finds them, and only what is missing is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from patch_stores import small_store

from wsitool.backbones.feature_cache import FeatureCache
from wsitool.store.collection import Collection, open_collection

Compute = Callable[[Collection], NDArray[np.float32]]


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        small_store(tmp_path / "stores" / f"{name}.h5", ("x", "y", "x"))
    return tmp_path / "stores"


class _Means:
    """Features that are figures of the pixels and of the place, and a count of the patches computed."""

    def __init__(self) -> None:
        self.computed = 0

    def __call__(self, patches: Collection) -> NDArray[np.float32]:
        self.computed += len(patches)
        pixels = patches.read(np.arange(len(patches)))
        return np.stack([pixels.mean(axis=(1, 2, 3)), patches.row + 10 * patches.store_index], axis=1).astype(
            np.float32
        )


def _cache(folder: Path, made_by: str = "encoder:64") -> FeatureCache:
    return FeatureCache(folder=folder / "cache", made_by=made_by, width=2)


def test_stores_are_found_again_in_other_collections(stores: Path, tmp_path: Path) -> None:
    cache, compute = _cache(tmp_path), _Means()
    two = open_collection([stores / "a.h5", stores / "b.h5"])
    expected = _Means()(two)
    assert np.array_equal(cache.features(two, compute), expected) and compute.computed == 6
    assert len(list(cache.folder.iterdir())) == 2
    # The same, some of it in another order, and one store more.
    assert np.array_equal(cache.features(two, compute), expected) and compute.computed == 6
    some = two.subset(np.array([4, 1, 2]))
    assert np.array_equal(cache.features(some, compute), expected[[4, 1, 2]]) and compute.computed == 6
    # Small stores go through the network together, or not at all: rounding is that of a folder without files.
    assert np.array_equal(cache.features(open_collection(stores), compute), _Means()(open_collection(stores)))
    assert compute.computed == 6 + 9


def test_large_stores_are_computed_and_kept_one_by_one(
    stores: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("wsitool.backbones.feature_cache._ALONE", 3)
    cache, compute = _cache(tmp_path), _Means()
    all_three = open_collection(stores)

    def fails(patches: Collection) -> NDArray[np.float32]:
        if compute.computed == 6:
            raise KeyboardInterrupt
        return compute(patches)

    with pytest.raises(KeyboardInterrupt):
        cache.features(all_three, fails)
    # Of each store alone, `compute` numbers it 0.
    expected = np.concatenate([_Means()(open_collection(stores / f"{name}.h5")) for name in "abc"])
    found = cache.features(all_three, compute)
    assert np.array_equal(found[:, 0], expected[:, 0]) and compute.computed == 9


def test_parts_of_stores_are_kept_together_and_whole_ones_by_themselves(stores: Path, tmp_path: Path) -> None:
    cache, compute = _cache(tmp_path), _Means()
    all_three = open_collection(stores)
    part = all_three.subset(np.array([0, 3, 4, 5, 8]))  # of a one, of b all, of c one
    assert np.array_equal(cache.features(part, compute), _Means()(part)) and compute.computed == 5
    assert len(list(cache.folder.iterdir())) == 2
    assert np.array_equal(cache.features(part, compute), _Means()(part)) and compute.computed == 5
    # b is known; other parts are not.
    assert len(cache.features(all_three.subset(np.array([0, 3, 4])), compute)) == 3 and compute.computed == 8
    assert len(cache.features(all_three.subset(np.array([3, 4])), compute)) == 2 and compute.computed == 8


def test_a_file_is_that_of_a_whole_store(stores: Path, tmp_path: Path) -> None:
    cache, compute = _cache(tmp_path), _Means()
    one = open_collection(stores / "b.h5")
    path = cache.file(one, compute)
    assert cache.file(one, compute) == path and compute.computed == 3
    assert np.array_equal(np.load(path), cache.features(one, compute)) and compute.computed == 3


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00", None])
def test_damage_is_made_anew(stores: Path, tmp_path: Path, damage: bytes | None) -> None:
    cache, compute = _cache(tmp_path), _Means()
    one = open_collection(stores / "a.h5")
    path = cache.file(one, compute)
    if damage is None:
        np.save(path, np.full((3, 2), np.nan, np.float32))
    else:
        path.write_bytes(damage)
    assert np.array_equal(cache.features(one, compute), _Means()(one)) and compute.computed == 6


def test_what_was_made_otherwise_is_not_found(stores: Path, tmp_path: Path) -> None:
    compute = _Means()
    one = open_collection(stores / "a.h5")
    for made_by in ("encoder:64", "encoder:96", "another:64"):
        _cache(tmp_path, made_by).features(one, compute)
    assert compute.computed == 9
    (stores / "a.h5").unlink()
    small_store(stores / "a.h5", ("x", "y", "y", "x"))  # another store of that name
    assert len(_cache(tmp_path).features(open_collection(stores / "a.h5"), compute)) == 4
    assert compute.computed == 13
