"""Bytes of remote objects, kept in a folder of this machine up to a size; the blocks used longest ago go.

A block is a file whose name says object, version and place, and whose last four bytes are its CRC32C: a
changed object has other names, and what a crash left half written is read as absent. Any number of processes
share the folder without locks, as files get their names complete and may vanish at any time.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import google_crc32c

from wsitool.base.objects import RemoteObject, read_ranges
from wsitool.errors import UsageError

__all__ = ["CACHE", "CACHE_SIZE", "BlockCache", "cache_folder", "read_cached"]

CACHE, CACHE_SIZE = "WSITOOL_CACHE", "WSITOOL_CACHE_SIZE"
"""The environment variables: the folder, and how large it may grow ("50GB"; "0" keeps nothing)."""

_BLOCK = 1 << 18  # of 30 ms that a request takes, the bytes take a fifth
_DEFAULT_SIZE = "10GB"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_REQUEST_BLOCKS = 32
_NEAR = 1 << 13  # between two ranges: to read that much more costs less than to ask twice
_IN_MEMORY = 32
_LOOKED_AT_SECONDS = 600.0  # a block's time of use is noted that coarsely
_CHECK = 4

Range = tuple[RemoteObject, int, int]
Block = tuple[RemoteObject, int]


def cache_folder() -> Path:
    """What `CACHE` says, else "wsitool" in the user's folder of caches."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(CACHE) or user / "wsitool" / "remote")


def _limit() -> int:
    text = os.environ.get(CACHE_SIZE) or _DEFAULT_SIZE
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]B)?", text.strip().upper())
    if match is None:
        raise UsageError(f"The environment variable {CACHE_SIZE} must be a size such as 50GB, got '{text}'.")
    return int(float(match[1]) * _UNITS[match[2] or ""])


class BlockCache:
    """Blocks in `folder`, at most `limit` bytes of them but for what processes have added since they looked.

    Where all objects that this process reads are together larger than that, the ranges asked for are read as
    they are and not kept: blocks would be gone before they are used again. Thread-safe.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._seen: set[RemoteObject] = set()
        self._expected = 0  # bytes of them
        self._memory: OrderedDict[Block, bytes] = OrderedDict()
        self._changed = threading.Condition()
        self._in_flight: set[Block] = set()
        self._room: int | None = None  # bytes that may be written until the folder is looked at

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each (object, start, end), as `read_ranges`, of which it asks for what is not here."""
        blocks: dict[Block, None] = {}
        plain: list[int] = []
        for i, (remote, start, end) in enumerate(ranges):
            if self._keeps(remote):
                blocks |= dict.fromkeys((remote, n) for n in range(start // _BLOCK, -(-end // _BLOCK)))
            else:
                plain.append(i)
        there = self._blocks(list(blocks))
        found = dict(zip(plain, _merged([ranges[i] for i in plain]), strict=True))
        for i, (remote, start, end) in enumerate(ranges):
            if i not in found:
                first = start // _BLOCK
                numbers = range(first, -(-end // _BLOCK))
                if len(numbers) == 1:
                    found[i] = there[remote, first][start - first * _BLOCK : end - first * _BLOCK]
                else:
                    whole = b"".join(there[remote, number] for number in numbers)
                    found[i] = whole[start - first * _BLOCK : end - first * _BLOCK]
        return [found[i] for i in range(len(ranges))]

    def _keeps(self, remote: RemoteObject) -> bool:
        # By its size alone another version of an object could not be told.
        if not remote.is_versioned or not self._limit:
            return False
        with self._changed:
            if remote not in self._seen:
                self._seen.add(remote)
                self._expected += remote.size
            return remote.size <= _BLOCK or self._expected <= self._limit

    def _blocks(self, wanted: Sequence[Block]) -> dict[Block, bytes]:
        """Each block's bytes; what another thread is asking for is waited for."""
        got: dict[Block, bytes] = {}
        pending: Iterable[Block] = wanted
        while pending:
            got |= {block: data for block in pending if (data := self._kept(block)) is not None}
            missing = [block for block in pending if block not in got]
            with self._changed:
                mine = [block for block in missing if block not in self._in_flight]
                self._in_flight.update(mine)
            try:
                # Another thread may have brought it between the look and the claim.
                got |= {block: data for block in mine if (data := self._in_memory(block)) is not None}
                got |= self._fetched([block for block in mine if block not in got])
            finally:
                with self._changed:
                    self._in_flight.difference_update(mine)
                    self._changed.notify_all()
            pending = [block for block in missing if block not in got]
            with self._changed:
                while self._in_flight.intersection(pending):
                    self._changed.wait()
        return got

    def _fetched(self, blocks: list[Block]) -> dict[Block, bytes]:
        runs = list(_runs(sorted(blocks, key=lambda block: (block[0].url, block[1]))))
        ranges = [(remote, first * _BLOCK, min(stop * _BLOCK, remote.size)) for (remote, first), stop in runs]
        got: dict[Block, bytes] = {}
        for ((remote, first), stop), data in zip(runs, read_ranges(ranges), strict=True):
            for number in range(first, stop):
                begin = (number - first) * _BLOCK
                block = remote, number
                got[block] = data[begin : begin + _BLOCK]
                self._remember(block, got[block])
                self._write(block, got[block])
        return got

    def _in_memory(self, block: Block) -> bytes | None:
        with self._changed:
            data = self._memory.get(block)
            if data is not None:
                self._memory.move_to_end(block)
            return data

    def _remember(self, block: Block, data: bytes) -> None:
        with self._changed:
            self._memory[block] = data
            while len(self._memory) > _IN_MEMORY:
                self._memory.popitem(last=False)

    def _kept(self, block: Block) -> bytes | None:
        data = self._in_memory(block)
        if data is not None:
            return data
        remote, number = block
        path = self._path(block)
        try:
            with path.open("rb") as file:
                content = file.read(_BLOCK + _CHECK)
                used = os.fstat(file.fileno()).st_mtime
        except OSError:
            return None
        data, check = content[:-_CHECK], content[-_CHECK:]
        if len(data) != min(_BLOCK, remote.size - number * _BLOCK) or check != _crc(data):
            return None
        if time.time() - used > _LOOKED_AT_SECONDS:
            with suppress(OSError):
                os.utime(path)
        self._remember(block, data)
        return data

    def _write(self, block: Block, data: bytes) -> None:
        # What cannot be kept is asked for again: a full disk is no reason to stop.
        with suppress(OSError):
            path = self._path(block)
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._changed:
                if self._room is None or self._room < len(data):
                    self._trim(len(data))
                self._room = (self._room or 0) - len(data) - _CHECK
            partial = path.with_name(f".{secrets.token_hex(8)}")
            try:
                partial.write_bytes(data + _crc(data))
                partial.replace(path)
            except OSError:
                partial.unlink(missing_ok=True)
                raise

    def _trim(self, needed: int) -> None:
        """Look at all files; where they are too many, remove the oldest until a sixteenth is free."""
        files: list[tuple[float, int, str]] = []
        for folder, _, names in os.walk(self._folder / "blocks"):
            for name in names:
                with suppress(OSError):
                    status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - of 100,000 files
                    files.append((status.st_mtime, status.st_size, os.path.join(folder, name)))  # noqa: PTH118
        total, share = sum(size for _, size, _ in files), self._limit // 16
        if total + needed > self._limit:
            for _, size, name in sorted(files):
                if total + max(needed, share) <= self._limit:
                    break
                with suppress(OSError):
                    os.unlink(name)  # noqa: PTH108
                total -= size
        # Others write as well: looked at anew after a sixteenth, at the latest.
        self._room = max(needed, min(share, self._limit - total))

    def _path(self, block: Block) -> Path:
        key = _key(block[0])
        return self._folder / "blocks" / key[:2] / f"{key}-{block[1]}"


def _key(remote: RemoteObject) -> str:
    text = "\0".join([remote.url, *(f"{name}={value}" for name, value in remote.state)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _crc(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(_CHECK, "little")


def _runs(blocks: Sequence[Block]) -> Iterable[tuple[Block, int]]:
    """Sorted blocks as runs of neighbours, (first block, number after the last), each for one request."""
    first: int | None = None
    for i, (remote, number) in enumerate(blocks):
        first = i if first is None else first
        after = blocks[i + 1] if i + 1 < len(blocks) else None
        if after != (remote, number + 1) or i + 1 - first == _REQUEST_BLOCKS:
            yield blocks[first], number + 1
            first = None


def _merged(ranges: Sequence[Range]) -> list[bytes]:
    """The bytes of each range, those that lie beside each other asked for together."""
    order = sorted(range(len(ranges)), key=lambda i: (ranges[i][0].url, ranges[i][1]))
    asked: list[Range] = []
    where: dict[int, tuple[int, int]] = {}
    for i in order:
        remote, start, end = ranges[i]
        if asked:
            same, first, last = asked[-1]
            if same == remote and start <= last + _NEAR and end - first <= _REQUEST_BLOCKS * _BLOCK:
                asked[-1] = same, first, max(last, end)
                where[i] = len(asked) - 1, start - first
                continue
        asked.append((remote, start, end))
        where[i] = len(asked) - 1, 0
    data = read_ranges(asked)
    return [
        data[where[i][0]][where[i][1] : where[i][1] + end - start] for i, (_, start, end) in enumerate(ranges)
    ]


_caches: dict[tuple[Path, int], BlockCache] = {}


def read_cached(ranges: Sequence[Range]) -> list[bytes]:
    """`BlockCache.read` of the cache that the environment names."""
    key = cache_folder(), _limit()
    return _caches.setdefault(key, BlockCache(*key)).read(ranges)


os.register_at_fork(after_in_child=_caches.clear)  # another thread of the parent may have held a lock
