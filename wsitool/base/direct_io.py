"""Pixels written to the disk past the system's cache, where the file system can do that (Linux, O_DIRECT).

Copying gigabytes into the cache, which drops them again, costs the processor as much as a quarter of decoding
the tiles they come from. Direct writes must be aligned: pages that a run of patches shares with something
else, its first and its last, go through the cache.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

__all__ = ["ALIGNMENT", "EarlySync", "PatchFile", "write_at"]

ALIGNMENT = 512
"""What memory, places in the file and lengths must be multiples of: the sector of nearly all disks."""

_PAGE = 4096
_CACHED = 1 << 26  # a small store will be read soon: it stays in the system's cache
_MOST_PARTS = 256  # the system takes 1024 in one call


class EarlySync:
    """Has a growing store written to the disk meanwhile, so that making it durable in the end is short.

    What is on the disk also leaves the system's cache, save the first 256 MB: memory goes round instead of
    growing by the whole store, which is slow where a hypervisor must find it first.
    """

    # Often enough that the last wait is short, seldom enough that the disk writes long runs.
    _EVERY = 1 << 26
    _CACHED = 1 << 28

    def __init__(self) -> None:
        self._bytes = self._total = 0
        self._pool: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None

    def wrote(self, descriptor: int, count: int, *, end: int) -> None:
        """Note `count` new bytes that end at `end` of an open file of the store.

        Raises OSError where an earlier part could not be written.
        """
        self._bytes += count
        self._total += count
        # Never two at once: on a slow disk the store just runs ahead of the syncs.
        if self._bytes < self._EVERY or (self._running is not None and not self._running.done()):
            return
        # An error of the one before comes out here, at the next write.
        self._settle()
        self._bytes = 0
        # Made when first needed: small stores start no thread.
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="wsitool-sync")
        # Of this file: the zarr form goes through many, of which only the first 256 MB stay in the cache.
        cached = max(0, self._CACHED - (self._total - end))
        # A number of its own: the caller may close its file before the sync has run.
        self._running = self._pool.submit(_sync_duplicate, os.dup(descriptor), cached)

    def finish(self) -> None:
        """Wait for what is under way; raises OSError as `wrote` does. May be called twice."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._settle()

    def _settle(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.result()


def _sync_duplicate(descriptor: int, cached: int) -> None:
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):  # not on macOS
            # From `cached` to the end (0 is "to the end"); only pages already on the disk are dropped.
            os.posix_fadvise(descriptor, cached, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


class PatchFile:
    """Writes parts of a file at growing places, in a thread of its own; all are there after `finish`.

    Each call waits for the one before, and raises the OSError that ended it. Where direct writing is refused,
    for these parts or at all, the rest goes through the cache, written to the disk meanwhile.
    """

    def __init__(self, path: Path, *, aligned: bool) -> None:
        # Not truncated: HDF5 has the same file open and gives out the places.
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._direct = _open_direct(path) if aligned else -1
        self._sync = EarlySync()
        self._total = 0
        self._at = 0  # what is in `_carry` belongs here, on a page boundary
        self._carry = mmap.mmap(-1, _PAGE)  # memory on a page boundary
        self._carried = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="wsitool-write")
        self._running: Future[None] | None = None

    def write(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        """Write `parts` one after another from `offset`; they must stay as they are until the next call.

        Returns at once, the writing goes on in a thread. OSError of the call before comes out here; what was
        written by then is undefined.
        """
        # One write under way at most, which bounds the memory that must stay as it is.
        self._wait()
        self._running = self._pool.submit(self._write, parts, offset)

    def _wait(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def _write(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        for first in range(0, len(parts), _MOST_PARTS):
            some = [memoryview(part) for part in parts[first : first + _MOST_PARTS]]
            length = sum(len(part) for part in some)
            # The first 64 MB through the cache in any case.
            if self._direct < 0 or self._total < _CACHED:
                self._write_cached(some, offset, length)
            else:
                self._write_direct(some, offset, length)
            self._total += length
            offset += length

    def finish(self) -> None:
        """Write what is left and wait for the disk where that was begun; may be called twice."""
        self._wait()
        self._flush()
        self._sync.finish()

    def close(self) -> None:
        """Let go of the file, finished or not; may be called twice.

        Waits for the writing thread, whose error is lost if `finish` was not called. OSError of a sync comes
        out.
        """
        self._pool.shutdown()  # no thread may write to a number that then belongs to another file
        for descriptor in (self._direct, self._descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._direct = self._descriptor = -1
        self._sync.finish()

    def _write_cached(self, parts: list[memoryview], offset: int, length: int) -> None:
        write_at(self._descriptor, parts, offset)
        self._sync.wrote(self._descriptor, length, end=offset + length)

    def _write_direct(self, parts: list[memoryview], offset: int, length: int) -> None:
        # Not where the last part ended: a new run of patches begins.
        if offset != self._at + self._carried:
            self._flush()
            # Up to the next page boundary through the cache.
            head = min(-offset % _PAGE, length)
            write_at(self._descriptor, _slice(parts, 0, head), offset)
            parts, offset, length = _slice(parts, head, length), offset + head, length - head
            self._at = offset
        # Whole pages of what was carried over and what came; the rest is carried to the next call.
        page_bytes = (self._carried + length) // _PAGE * _PAGE - self._carried
        if page_bytes > 0:
            try:
                write_at(
                    self._direct,
                    [memoryview(self._carry)[: self._carried], *_slice(parts, 0, page_bytes)],
                    self._at,
                )
            except OSError as error:
                # EINVAL is how file systems refuse an alignment or a length.
                if error.errno != errno.EINVAL:
                    raise
                self._give_up(parts, offset, length)
                return
            self._at += self._carried + page_bytes
            self._carried = 0
            parts = _slice(parts, page_bytes, length)
        # Less than a page, copied into aligned memory.
        for part in parts:
            self._carry[self._carried : self._carried + len(part)] = bytes(part)
            self._carried += len(part)

    def _give_up(self, parts: list[memoryview], offset: int, length: int) -> None:
        """The alignment was not enough (4 KB sectors, memory from elsewhere): use the cache from now on."""
        # All of it goes the other way; to write a part twice does no harm.
        os.close(self._direct)
        self._direct = -1
        self._flush()
        self._write_cached(parts, offset, length)

    def _flush(self) -> None:
        if self._carried:
            write_at(self._descriptor, [memoryview(self._carry)[: self._carried]], self._at)
            self._at, self._carried = self._at + self._carried, 0


def _slice(parts: Sequence[memoryview], start: int, stop: int) -> list[memoryview]:
    """The bytes `start` to `stop` of all parts together."""
    pieces, position = [], 0
    for part in parts:
        low, high = max(start - position, 0), min(stop - position, len(part))
        if low < high:
            pieces.append(part[low:high])
        position += len(part)
    return pieces


def _open_direct(path: Path) -> int:
    """A descriptor past the cache, -1 where the system or file system has none."""
    if not hasattr(os, "O_DIRECT"):
        return -1
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return -1


def write_at(descriptor: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
    """Write all `parts` one after another from `offset`, however the system divides it; raises OSError.

    The descriptor's own position is neither used nor moved, so threads may share it.
    """
    left = [memoryview(part) for part in parts]
    while left:
        done = os.pwritev(descriptor, left[:_MOST_PARTS], offset)
        offset += done
        # Some parts may be done wholly, and one in part.
        while left and done >= len(left[0]):
            done -= len(left.pop(0))
        if done:
            left[0] = left[0][done:]
