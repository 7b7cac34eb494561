"""The files of a store behind a URL: what a reader asks of `KnownFile`, answered by range requests."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from wsitool.base.block_cache import read_cached
from wsitool.base.byte_stream import SourceStream
from wsitool.base.objects import RemoteObject, look_at
from wsitool.errors import StoreError
from wsitool.store.files import KnownFile

__all__ = ["RemoteFile", "StoredFile", "read_at_once", "remote_file"]

_STREAM_BYTES = 1 << 16


@dataclass(frozen=True)
class RemoteFile:
    """An object as it was when its store was opened; what is read of it is of that version."""

    remote: RemoteObject

    @property
    def path(self) -> str:
        return self.remote.url

    @property
    def size(self) -> int:
        return self.remote.size

    def read(self, offset: int, count: int) -> bytes:
        """As `KnownFile.read`; RemoteError where the server fails, CorruptStoreError for another version."""
        return read_cached([(self.remote, offset, min(offset + count, self.size))])[0]

    def read_into(self, out: memoryview, offset: int) -> int:
        """Fill `out` from `offset`; returns the bytes there were."""
        data = self.read(offset, len(out))
        out[: len(data)] = data
        return len(data)

    def check(self) -> None:
        """Nothing: each request finds out whether the object is still the one that was opened."""

    def stream(self) -> BinaryIO:
        """A new file object over the same bytes."""
        return cast(BinaryIO, io.BufferedReader(SourceStream(self), _STREAM_BYTES))


StoredFile = KnownFile | RemoteFile


def remote_file(url: str) -> RemoteFile:
    """The object at `url`; StoreError where there is none."""
    remote = look_at(url)
    if remote is None:
        raise StoreError(f"There is no patch store at {url}: check the URL, or list its folder.")
    return RemoteFile(remote)


def read_at_once(ranges: Sequence[tuple[StoredFile, int, int]]) -> list[bytes]:
    """What is at each (file, offset, count), of remote files all asked for at once."""
    remote = [
        (file.remote, offset, min(offset + count, file.size))
        for file, offset, count in ranges
        if isinstance(file, RemoteFile)
    ]
    answers = iter(read_cached(remote) if remote else ())
    return [
        next(answers) if isinstance(file, RemoteFile) else file.read(offset, count)
        for file, offset, count in ranges
    ]
