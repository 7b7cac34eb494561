"""Ranges through the cache against plain slices, however small it is, damaged, shared or out of date."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from wsitool.base import block_cache
from wsitool.base.block_cache import BlockCache, read_cached
from wsitool.base.objects import RemoteObject, look_at, read_ranges
from wsitool.errors import CorruptStoreError, UsageError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """What the server is asked for; blocks are of 1,000 bytes."""
    asked: list[tuple[str, int, int]] = []

    def counted(ranges: Sequence[tuple[RemoteObject, int, int]]) -> list[bytes]:
        asked.extend((remote.url, start, end) for remote, start, end in ranges)
        return read_ranges(ranges)

    monkeypatch.setattr(block_cache, "read_ranges", counted)
    monkeypatch.setattr(block_cache, "_BLOCK", 1000)
    monkeypatch.setattr(block_cache, "_NEAR", 10)
    return asked


def _object(data: bytes, name: str = "o") -> RemoteObject:
    with fsspec.open(f"memory://cache/{name}", "wb") as file:
        file.write(data)
    remote = look_at(f"memory://cache/{name}")
    assert remote is not None and remote.is_versioned
    return remote


def _ranges(
    rng: np.random.Generator, remote: RemoteObject, number: int
) -> list[tuple[RemoteObject, int, int]]:
    starts = rng.integers(0, remote.size, number)
    return [(remote, int(s), int(min(remote.size, s + rng.integers(0, 3000)))) for s in starts]


@pytest.mark.parametrize("limit", [10**9, 20_000, 0])
def test_any_range_is_the_objects(tmp_path: Path, asked: list[Any], limit: int) -> None:
    rng = np.random.default_rng(0)
    data = rng.bytes(54_321)
    remote, cache = _object(data), BlockCache(tmp_path, limit)
    for _ in range(40):
        ranges = _ranges(rng, remote, 5)
        assert cache.read(ranges) == [data[start:end] for _, start, end in ranges]
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    if limit == 10**9:
        assert sum(end - start for _, start, end in asked) == len(data), "each byte once"
        asked.clear()
        again = BlockCache(tmp_path, limit)  # another process
        assert again.read([(remote, 0, len(data))]) == [data] and not asked
    else:
        assert not kept, "blocks would be gone before they are used again"


def test_the_oldest_go_first(tmp_path: Path, asked: list[Any]) -> None:
    rng = np.random.default_rng(0)
    objects = [_object(rng.bytes(4000), f"o{i}") for i in range(8)]
    for i, remote in enumerate(objects):
        BlockCache(tmp_path, 13_000).read([(remote, 0, 4000)])  # each in a process of its own
        for path in tmp_path.rglob("*-*"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 13_000, i
    asked.clear()
    BlockCache(tmp_path, 13_000).read([(objects[-1], 0, 4000)])
    assert not asked
    BlockCache(tmp_path, 13_000).read([(objects[0], 0, 4000)])
    assert asked


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_block_is_asked_for_again(tmp_path: Path, asked: list[Any], damage: str) -> None:
    data = np.random.default_rng(0).bytes(5000)
    remote = _object(data)
    BlockCache(tmp_path, 10**9).read([(remote, 0, 5000)])
    asked.clear()
    for path in [path for path in tmp_path.rglob("*") if path.is_file()][:2]:
        content = path.read_bytes()
        flipped = bytes([content[0] ^ 1]) + content[1:]
        path.write_bytes({"flipped": flipped, "cut": content[:-9], "empty": b""}[damage])
    assert BlockCache(tmp_path, 10**9).read([(remote, 0, 5000)]) == [data]
    assert sum(end - start for _, start, end in asked) == 2000


def test_a_changed_object_is_never_taken_for_the_old(tmp_path: Path, asked: list[Any]) -> None:
    old, new = bytes(5000), bytes(range(250)) * 20
    before = _object(old)
    cache = BlockCache(tmp_path, 10**9)
    cache.read([(before, 0, 1000)])
    after = _object(new)
    # What was kept is of the old one as a whole; what was not is no longer to be had.
    assert cache.read([(before, 0, 1000)]) == [old[:1000]]
    with pytest.raises(CorruptStoreError, match="replaced or changed while it was in use"):
        cache.read([(before, 1000, 2000)])
    assert cache.read([(after, 0, 5000)]) == [new]
    with pytest.raises(CorruptStoreError):
        cache.read([(before, 0, 1000), (before, 4000, 5000)])


def test_threads_ask_once(tmp_path: Path, asked: list[Any]) -> None:
    data = np.random.default_rng(0).bytes(50_000)
    remote, cache, barrier = _object(data), BlockCache(tmp_path, 10**9), threading.Barrier(8)

    def read(_: int) -> bytes:
        barrier.wait()
        return cache.read([(remote, 0, len(data))])[0]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(8))) == {data}
    assert sum(end - start for _, start, end in asked) == len(data)


def test_processes_share_a_folder_that_is_too_small(tmp_path: Path, asked: list[Any]) -> None:
    """Files vanish under each other's eyes; what is read stays right."""
    rng = np.random.default_rng(0)
    parts = [rng.bytes(9000) for _ in range(6)]
    objects = [_object(data, f"p{i}") for i, data in enumerate(parts)]

    def read(number: int) -> bool:
        return all(
            BlockCache(tmp_path, 12_000).read([(objects[i], 0, 9000)]) == [parts[i]]
            for i in np.random.default_rng(number).permutation(6).tolist()
        )

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, range(12)))


def test_a_size_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSITOOL_CACHE_SIZE", "much")
    with pytest.raises(UsageError, match="WSITOOL_CACHE_SIZE must be a size such as 50GB, got 'much'"):
        read_cached([(_object(b"abc"), 0, 3)])
