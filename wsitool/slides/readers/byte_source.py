"""Bytes of a slide file, local or remote, readable from many threads at once."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

__all__ = ["ByteSource", "SourceStream", "file_name", "is_url", "stem"]


class ByteSource(Protocol):
    """A file of known `size` at `path`, whose last part is `name`; `read` may be called from any thread.

    >>> wsitool.open_slide("slide.svs").tiles(0).jpeg(0, 0)[:2].hex()  # of the file no more is read
    'ffd8'
    """

    path: str
    name: str
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset`; fewer only at the end of the file. Raises OSError."""
        ...

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Say which (offset, count) will be read next; a remote file asks for them all at once."""
        ...

    def stream(self) -> BinaryIO:
        """A new file object over the same bytes; the caller closes it."""
        ...

    def changed(self) -> bool | None:
        """Whether the file at this path is another one, or of another size or time, than when it was opened.

        None where a server does not say; raises OSError where it does not answer.
        """
        ...

    def close(self) -> None: ...


def is_url(path: str | Path) -> bool:
    """Whether `path` is an fsspec URL (https://, s3://, memory://, ...) rather than a local path."""
    return "://" in str(path)


def file_name(path: str | Path) -> str:
    """The last part of a path or URL."""
    return str(path).rstrip("/").rsplit("/", 1)[-1] if is_url(path) else Path(path).name


def stem(name: str) -> str:
    """A file's name without its last suffix: what the slide is called."""
    # A leading dot is no suffix, and neither is a number: names of DICOM files are UIDs.
    before, _, suffix = name.rpartition(".")
    return before if before and not suffix.isdecimal() else name


class SourceStream(io.RawIOBase):
    """A source as a file object, for libraries that want one."""

    def __init__(self, source: ByteSource) -> None:
        self._source, self._place = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._source.size}[whence]
        )
        if self._place < 0:
            raise OSError(errno.EINVAL, "a place before the file")
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(self._place, len(buffer)) if self._place < self._source.size else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
