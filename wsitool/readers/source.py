"""Bytes of a slide file, local or remote, readable from many threads at once."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from wsitool.errors import SlideError, UnsupportedSlideError

__all__ = [
    "ByteSource",
    "SourceStream",
    "file_name",
    "file_state",
    "fingerprint",
    "is_url",
    "open_bytes",
    "stem",
]

_SAMPLES, _SAMPLE_BYTES = 18, 65_536
_STREAM_BYTES = 65_536
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class ByteSource(Protocol):
    """A file of known `size` at `path`, whose last part is `name`; `read` may be called from any thread."""

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
    return name.rsplit(".", 1)[0] if "." in name else name


def open_bytes(path: str | Path) -> ByteSource:
    """Open a local file or an fsspec URL; UnsupportedSlideError if there is no such readable file."""
    if is_url(path):
        from wsitool.readers.remote import RemoteBytes

        return RemoteBytes(str(path))
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UnsupportedSlideError(f"'{path}' is a folder, not a slide: name the slide file in it.")
        if not stat.S_ISREG(mode):
            # Opening a pipe would wait for a writer that may never come.
            kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
            raise UnsupportedSlideError(f"'{path}' is {kind}, not a slide: name a file.")
        return _LocalBytes(path)
    except FileNotFoundError as error:
        raise UnsupportedSlideError(f"There is no file '{path}': check the spelling.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnsupportedSlideError(f"'{path}' cannot be opened: {reason or error}.") from error


def fingerprint(path: str | Path | ByteSource) -> str:
    """Identify a file's content: SHA-256 over its size and samples of its bytes, in hex (16 characters).

    Files up to about 1 MiB are hashed whole; of larger ones, 18 evenly spread blocks of 64 KiB, the first and
    the last among them, so that a slide of gigabytes costs milliseconds.
    """
    if isinstance(path, str | Path):
        source = open_bytes(path)
        try:
            return fingerprint(source)
        finally:
            source.close()
    source = path
    digest = hashlib.sha256(str(source.size).encode())
    parts = [(0, source.size)]
    if source.size > _SAMPLES * _SAMPLE_BYTES:
        step = (source.size - _SAMPLE_BYTES) / (_SAMPLES - 1)
        parts = [(round(i * step), _SAMPLE_BYTES) for i in range(_SAMPLES)]
    try:
        source.prefetch(parts)
        for part in parts:
            digest.update(source.read(*part))
    except OSError as error:
        raise SlideError(f"'{source.name}' cannot be read: {error}.") from error
    return digest.hexdigest()[:16]


def file_state(status: os.stat_result) -> tuple[int, ...]:
    """What a file cannot be written or replaced without changing."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


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


class _LocalBytes:
    def __init__(self, path: Path) -> None:
        self.path, self.name = str(path), path.name
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._opened = os.fstat(self._fd)
        self.size = self._opened.st_size

    def read(self, offset: int, count: int) -> bytes:
        data = os.pread(self._fd, count, offset)
        while len(data) < count:  # a network file system may return less than asked
            more = os.pread(self._fd, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        pass

    def stream(self) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(SourceStream(self), _STREAM_BYTES))

    def changed(self) -> bool:
        try:
            return file_state(Path(self.path).stat()) != file_state(self._opened)
        except OSError:
            return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
