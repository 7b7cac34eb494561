"""Files on disk: complete or absent when written, known and shared when read."""

from __future__ import annotations

import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wsitool.base.partial import partial_path, replace_path
from wsitool.errors import CorruptStoreError, StoreError

__all__ = ["KnownFile", "OpenFiles", "Pending", "open_files", "read_fully"]

_FIRST_OPEN = 512  # of stores, before the process is asked whether it may open more
_MOST_OPEN = 16_384  # files of stores at once, where the process may


class Pending:
    """A file or folder being written under a hidden temporary name beside its final one.

    `commit` or `discard` must be called; a process that is killed leaves a partial file, which the next
    writer in that folder removes. StoreError where the name is taken and `overwrite` is false.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        if path.exists() and not overwrite:
            raise StoreError(f"{path} exists already: pass overwrite (--overwrite) to replace it.")
        self.final = path
        self._held = ExitStack()
        # Holds the lock of the temporary name as long as we write, so that no other process takes it for
        # abandoned.
        self.temporary = self._held.enter_context(partial_path(path))

    def commit(self) -> None:
        """Make everything durable, then take the final name in one step."""
        # Contents first, then the name, then the folder that holds the name: after a power cut the final name
        # leads to complete bytes or is not there.
        _sync_tree(self.temporary)
        replace_path(self.temporary, self.final)
        _sync(self.final.parent)
        self._held.close()

    def discard(self) -> None:
        """Remove what was written; nothing to do after `commit`."""
        self._held.close()


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
    else:
        _sync(path)


def _sync(path: Path) -> None:
    # Read-only serves: fsync concerns the file and not the descriptor, and a folder cannot be opened
    # otherwise.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class KnownFile:
    """A file as it was when its store was opened, so that a later change is noticed."""

    path: str
    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: str | Path) -> KnownFile:
        return cls._from(str(path), Path(path).stat())

    @classmethod
    def _from(cls, path: str, stat: os.stat_result) -> KnownFile:
        return cls(path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)

    def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset`, fewer at the end of the file; errors of `OpenFiles.lease`."""
        with open_files.lease(self) as descriptor:
            return os.pread(descriptor, count, offset)

    def read_into(self, out: memoryview, offset: int) -> int:
        """As `read_fully`; errors of `OpenFiles.lease`."""
        with open_files.lease(self) as descriptor:
            return read_fully(descriptor, out, offset)

    def check(self, descriptor: int | None = None) -> None:
        """Raise CorruptStoreError if the path (or the open `descriptor`) is no longer this very file.

        Device, inode, size and time of change are compared, so a file of the same bytes in its place counts
        as another.
        """
        try:
            now = self._from(
                self.path, os.fstat(descriptor) if descriptor is not None else Path(self.path).stat()
            )
        except FileNotFoundError:
            raise CorruptStoreError(
                f"{self.path} was deleted or moved while it was in use: bring it back and resume the run."
            ) from None
        # A descriptor outlives its file's name, hence the comparison of all that `stat` tells, not of the
        # name.
        if now != self:
            raise CorruptStoreError(
                f"{self.path} was replaced or changed while it was in use: "
                "open the store again to use the new one."
            )


@dataclass
class _Open:
    descriptor: int
    users: int = 0


class OpenFiles:
    """Read-only descriptors shared by all stores and threads; the least recently used are closed.

    A collection may have more files than a process may hold open, hence the limit. What the system sets by
    default, mostly 1,024, is raised as far as it lets us when a collection has more, and only then: other
    libraries may not be made for so many.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._raised = limit, False
        self._lock = threading.Lock()
        self._open: OrderedDict[KnownFile, _Open] = OrderedDict()

    @contextmanager
    def lease(self, file: KnownFile) -> Iterator[int]:
        """A descriptor of `file` that stays open for the length of the block; read it by position only.

        Safe from any thread. CorruptStoreError where the file was deleted, replaced or changed since it
        became known.
        """
        # Opening under the lock keeps two threads from opening one file twice; it is rare, reading is not
        # under it.
        with self._lock:
            entry = self._open.get(file)
            if entry is None:
                entry = self._open[file] = _Open(_open_known(file))
            self._open.move_to_end(file)
            entry.users += 1
            if len(self._open) > self._limit and not self._raised:
                self._limit, self._raised = max(self._limit, _room_for_files()), True
            if len(self._open) > self._limit:
                self._close_idle()
        try:
            yield entry.descriptor
        finally:
            with self._lock:
                entry.users -= 1

    def _close_idle(self) -> None:
        # The order of the dictionary is that of use. Leased ones stay, even if the limit is then exceeded for
        # a while.
        idle = [file for file, entry in self._open.items() if entry.users == 0]
        for file in idle[: len(self._open) - self._limit]:
            os.close(self._open.pop(file).descriptor)

    def forget(self, file: KnownFile) -> None:
        """Close the descriptor of `file` if nobody reads from it."""
        with self._lock:
            entry = self._open.get(file)
            if entry is not None and entry.users == 0:
                os.close(self._open.pop(file).descriptor)

    def renew_lock(self) -> None:
        """In a forked child: another thread of the parent may have held the lock at the fork."""
        self._lock = threading.Lock()
        for entry in self._open.values():
            entry.users = 0


def _room_for_files() -> int:
    """How many files stores may hold open: half of what the process may, which is raised where it can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _MOST_OPEN if hard == resource.RLIM_INFINITY else min(hard, 2 * _MOST_OPEN)
    if wanted > soft:
        with suppress(ValueError, OSError):  # macOS refuses more than it can hold, whatever the hard limit is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return min(_MOST_OPEN, soft // 2)


def _open_known(file: KnownFile) -> int:
    try:
        descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        file.check()
        raise
    try:
        file.check(descriptor)
    except CorruptStoreError:
        os.close(descriptor)
        raise
    return descriptor


open_files = OpenFiles(limit=min(_FIRST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
os.register_at_fork(after_in_child=open_files.renew_lock)


def read_fully(descriptor: int, out: memoryview, start: int) -> int:
    """Read until `out` is full or the file ends; returns the bytes read. One call moves 2 GiB at most."""
    # `preadv` and not `pread`: it fills memory that is there.
    got = os.preadv(descriptor, [out], start)
    while 0 < got < len(out):
        more = os.preadv(descriptor, [out[got:]], start + got)
        if more == 0:
            break
        got += more
    return got
