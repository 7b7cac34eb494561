"""Stores with bytes changed or lost: one sentence, or they still read; never another exception."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from wsitool.errors import CorruptStoreError, StoreError
from wsitool.store.opening import create_store, open_store
from wsitool.store.schema import Candidates, Codec, Rows
from wsitool.testing.stores import example_meta, write_example


def _read_everything(path: Path) -> None:
    with open_store(path) as store:
        store.read(range(len(store)))
        _ = store.coords, store.tissue, store.labels, store.sources, store.candidates, store.failures


def _damaged(content: bytes, rng: random.Random, *, cut: bool) -> bytes:
    damaged = bytearray(content)
    if cut or rng.random() < 0.3:
        return bytes(damaged[: rng.randrange(len(damaged) + 1)])
    for _ in range(rng.choice((1, 3, 20)) if damaged else 0):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


# zarr-python warns of a column's folder whose metadata is gone
@pytest.mark.filterwarnings("ignore:Object at")
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_damage_ends_in_one_sentence(suffix: str, codec: Codec, tmp_path: Path) -> None:
    rng = random.Random(0)
    whole = tmp_path / f"whole{suffix}"
    write_example(whole, codec, 12, size=8)
    files = [whole] if whole.is_file() else sorted(file for file in whole.rglob("*") if file.is_file())
    refused = 0
    for number in range(40):
        copy = tmp_path / f"{number}{suffix}"
        (shutil.copytree if whole.is_dir() else shutil.copy)(whole, copy)
        target = copy / rng.choice(files).relative_to(whole)
        # The HDF5 library itself may crash on changed bytes of its metadata; losing the end is what happens.
        target.write_bytes(_damaged(target.read_bytes(), rng, cut=suffix == ".h5"))
        try:
            _read_everything(copy)
        except StoreError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 5


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_an_open_store_costs_the_same_objects_however_large(
    suffix: str, codec: Codec, tmp_path: Path
) -> None:
    blocks = []
    for number in (200, 20_000):
        patches = np.zeros((number, 2, 2, 3), dtype=np.uint8)
        coords, tissue = np.zeros((number, 2), dtype=np.int64), np.ones(number, dtype=np.float32)
        path = tmp_path / f"{number}{suffix}"
        with create_store(path, example_meta(codec, size=2)) as writer:
            writer.append(Rows(patches=patches, coords=coords, tissue=tissue))
            reason = np.zeros(number, dtype=np.uint8)
            writer.finish(Candidates(coords=coords, tissue=tissue, reason=reason), counts={})
        open_store(path)
        before = sys.getallocatedblocks()
        store = open_store(path)
        blocks.append(sys.getallocatedblocks() - before)
        assert len(store) == number
    assert abs(blocks[1] - blocks[0]) < 200


def test_offsets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    import h5py

    write_example(tmp_path / "a.h5", "jpeg")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["encoded/offsets"][5] = 2**40
    with pytest.raises(CorruptStoreError, match="does not fit its blob"):
        open_store(tmp_path / "a.h5")


def test_reads_that_stop_half_way_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One system call moves 2 GiB at most, and fewer when a signal comes."""
    import os

    expected = write_example(tmp_path / "a.h5", "raw")
    whole = os.preadv

    def some(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return whole(descriptor, [buffers[0][:1000]], offset)

    monkeypatch.setattr(os, "preadv", some)
    assert np.array_equal(open_store(tmp_path / "a.h5").read(range(23)), expected)


def test_hdf5_is_one_that_is_safe_on_damaged_files() -> None:
    """Older ones read beyond buffers; a build of h5py of one's own may bring such a one."""
    assert h5py.version.hdf5_version_tuple >= (1, 14, 4)
