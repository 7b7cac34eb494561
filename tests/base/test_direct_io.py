"""Writing past the system's cache: any sequence of parts ends up where it belongs, aligned or not."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from wsitool.base import direct_io as direct
from wsitool.base.direct_io import ALIGNMENT, PatchFile
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide
from wsitool.testing.stores import write_example
from wsitool.tiling.run import tile_slide

_LENGTH = 3 * ALIGNMENT


@pytest.fixture
def always_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_CACHED", 0)


def _memory(size: int, seed: int) -> memoryview:
    """Random bytes that begin on a page."""
    memory = mmap.mmap(-1, size)
    memory.write(np.random.default_rng(seed).bytes(size))
    return memoryview(memory)


def _write(path: Path, seed: int) -> bytes:
    """Runs of random length with gaps between them, as HDF5 gives out places; returns the file wanted."""
    rng = np.random.default_rng(seed)
    wanted = bytearray(b"\xaa" * 400_000)
    path.write_bytes(wanted)
    memory = _memory(64 * _LENGTH, seed)
    file = PatchFile(path, aligned=True)
    at = int(rng.integers(0, 20)) * ALIGNMENT
    for _ in range(int(rng.integers(2, 12))):
        first, count = int(rng.integers(0, 40)), int(rng.integers(1, 20))
        parts = [memory[i * _LENGTH : (i + 1) * _LENGTH] for i in range(first, first + count)]
        file.write(parts, at)
        wanted[at : at + count * _LENGTH] = b"".join(parts)
        at += count * _LENGTH
        if rng.random() < 0.3:
            at += int(rng.integers(1, 9)) * ALIGNMENT
    file.finish()
    file.close()
    file.close()
    return bytes(wanted)


@pytest.mark.parametrize("seed", range(40))
def test_parts_are_where_they_belong(always_direct: None, tmp_path: Path, seed: int) -> None:
    wanted = _write(tmp_path / "f", seed)
    assert (tmp_path / "f").read_bytes()[: len(wanted)] == wanted


@pytest.mark.parametrize("seed", range(10))
def test_a_disk_that_refuses_loses_nothing(
    always_direct: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    real, calls = os.pwritev, 0

    def refusing(descriptor: int, parts: list[memoryview], offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls > 2 + seed and _is_direct(descriptor):
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, parts, offset)

    monkeypatch.setattr(os, "pwritev", refusing)
    wanted = _write(tmp_path / "f", seed)
    assert (tmp_path / "f").read_bytes()[: len(wanted)] == wanted


def _is_direct(descriptor: int) -> bool:
    import fcntl

    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [64, 50])
def test_stores_are_the_same_either_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, threads: int
) -> None:
    slide = synthetic_slide(tmp_path / "s.svs", size=(1500, 1200), glass=0.1)
    spec = TileSpec(patch_size=size, level=0, codec="raw", min_tissue=0.2, stride=size + 7)
    cached = tile_slide(slide, tmp_path / "a", spec, threads=threads)
    monkeypatch.setattr(direct, "_CACHED", 20_000)
    past = tile_slide(slide, tmp_path / "b", spec, threads=threads)
    assert past.content_hash == cached.content_hash
    with open_store(cached.store) as a, open_store(past.store) as b, h5py.File(past.store) as file:
        assert np.array_equal(a.read(range(len(a))), b.read(range(len(b))))
        assert np.array_equal(file["patches"][:], a.read(range(len(a))))  # plain HDF5 finds them, too
        assert [path.name for path in (tmp_path / "b").iterdir() if path.suffix == ".partial"] == []


@pytest.mark.parametrize("size", [5, 32, 50])
def test_patches_of_any_length_lie_side_by_side(tmp_path: Path, size: int) -> None:
    """A hole after each would be looked through for every further one: quadratic time."""
    write_example(tmp_path / "s.h5", "raw", 500, size=size)
    with h5py.File(tmp_path / "s.h5") as file:
        gaps = np.diff(np.sort(file["chunk_offsets"][:])) - size * size * 3
    assert (gaps != 0).sum() < 25  # HDF5 puts some of its own index in between


@pytest.mark.parametrize("patches", [65, 129, 300])
def test_a_raw_file_has_no_unused_room(tmp_path: Path, patches: int) -> None:
    slide = synthetic_slide(tmp_path / "s.svs", size=(32 * patches, 64), levels=(1,), glass=0)
    spec = TileSpec(patch_size=32, level=0, codec="raw", min_tissue=0)
    result = tile_slide(slide, tmp_path / "o", spec)
    assert result.kept == 2 * patches
    assert result.bytes < result.raw_bytes * 1.05 + 65_536
