"""The content hash covers what decides leakage and scale; stores of before verify by the rule of then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from wsitool.curate.verifying import verify_store
from wsitool.store.hashing import ContentHash, patch_digest
from wsitool.store.opening import open_store
from wsitool.store.reader import Reader, content_hash
from wsitool.testing.stores import write_example


def _make_old(path: Path, store: Reader) -> None:
    """Give the store the hash that earlier versions wrote."""
    hashing = ContentHash(None)
    patches = store.encoded(range(len(store)))
    hashing.add_patches(patches, map(patch_digest, patches))
    sources = store.sources
    hashing.add_rows(store.coords, store.labels, None if sources is None else sources.tolist())
    _set(path, "content_hash", hashing.hexdigest())


def _set(path: Path, name: str, value: Any) -> None:
    if path.is_file():
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value
    else:
        root = json.loads((path / "zarr.json").read_text())
        root["attributes"][name] = value
        (path / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize("name", ["raw.h5", "jpeg.zarr"])
def test_the_hash_covers_what_decides_leakage_and_scale(copy: Callable[[str], Path], name: str) -> None:
    path = copy(name)
    with open_store(path) as store:
        assert store.content_hash.startswith("2:") and verify_store(path).verdict == "ok"
        meta = store.meta
    changes = {
        "group": "another",
        "name": "another",
        "fingerprint": "1",
        "classes": '["a", "b", "c"]',
        "mpp_effective": 1.0,
        "mpp_level0": 0.5,
        "mpp_requested": 0.25,
        "level0_width": 4001,
        "level0_height": 3001,
        "level0_magnification": 20.0,
        "target_magnification": 10.0,
    }
    for attribute, value in changes.items():
        _set(path, attribute, value)
        report = verify_store(path)
        assert report.verdict == "CHANGED" and "group and scale" in str(report.checks), attribute
        old = getattr(meta, attribute)
        if old is None:
            path_free = open_store(path).meta
            assert path_free.target_magnification == 10.0
            continue
        _set(path, attribute, json.dumps(old) if attribute == "classes" else old)
    _set(path, "source", "moved/elsewhere.svs")  # where the slide lies may change
    assert verify_store(path).verdict == "CHANGED"  # target_magnification alone is left


@pytest.mark.parametrize("name", ["raw.h5", "jpeg.h5", "raw.zarr", "jpeg.zarr"])
def test_stores_written_before_open_and_verify_by_the_old_rule(
    copy: Callable[[str], Path], name: str
) -> None:
    path = copy(name)
    with open_store(path) as store:
        _make_old(path, store)
    report = verify_store(path)
    assert report.verdict == "ok" and any("not noticed" in check.note for check in report.checks)
    _set(path, "group", "another")
    assert verify_store(path).verdict == "ok"
    with open_store(path) as store:
        assert content_hash(store) == store.content_hash


def test_zero_columns_of_earlier_zarr_stores_are_zeros(tmp_path: Path) -> None:
    """They were written without the chunks that hold nothing but zeros."""
    path = tmp_path / "a.zarr"
    write_example(path, "raw", size=8)
    _make_old(path, open_store(path))
    (path / "tissue" / "c" / "0").unlink()
    with open_store(path) as store:
        assert not store.tissue.any() and store.tissue.dtype == np.float32
