"""Bytes of a slide file, local or remote, readable from many threads at once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from wsitool.errors import SlideError, UnsupportedSlideError

__all__ = ["ByteSource", "file_name", "fingerprint", "is_url", "open_bytes"]

_SAMPLES, _SAMPLE_BYTES = 18, 65_536


class ByteSource(Protocol):
    """A file of known `size`; `read` may be called from several threads."""

    size: int

    def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset`; fewer only at the end of the file. Raises OSError."""
        ...

    def stream(self) -> BinaryIO:
        """A new file object over the same bytes; the caller closes it."""
        ...

    def close(self) -> None: ...


def is_url(path: str | Path) -> bool:
    """Whether `path` is an fsspec URL (https://, s3://, memory://, ...) rather than a local path."""
    return "://" in str(path)


def file_name(path: str | Path) -> str:
    """The last part of a path or URL."""
    return str(path).rstrip("/").rsplit("/", 1)[-1] if is_url(path) else Path(path).name


def open_bytes(path: str | Path) -> ByteSource:
    """Open a local file or an fsspec URL; UnsupportedSlideError if there is no such readable file."""
    if is_url(path):
        return _RemoteBytes(str(path))
    path = Path(path)
    if not path.exists():
        raise UnsupportedSlideError(f"There is no file '{path}': check the spelling.")
    if path.is_dir():
        raise UnsupportedSlideError(f"'{path}' is a folder, not a slide: name the slide file in it.")
    try:
        return _LocalBytes(path)
    except OSError as error:
        raise UnsupportedSlideError(f"'{path}' cannot be opened: {error.strerror or error}.") from error


def fingerprint(path: str | Path) -> str:
    """Identify a file's content: SHA-256 over its size and samples of its bytes, in hex (16 characters).

    Files up to about 1 MiB are hashed whole; of larger ones, 18 evenly spread blocks of 64 KiB, the first and
    the last among them, so that a slide of gigabytes costs milliseconds.
    """
    source = open_bytes(path)
    try:
        digest = hashlib.sha256(str(source.size).encode())
        if source.size <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(source.read(0, source.size))
        else:
            step = (source.size - _SAMPLE_BYTES) / (_SAMPLES - 1)
            for i in range(_SAMPLES):
                digest.update(source.read(round(i * step), _SAMPLE_BYTES))
    except OSError as error:
        raise SlideError(f"'{path}' cannot be read: {error}.") from error
    finally:
        source.close()
    return digest.hexdigest()[:16]


class _LocalBytes:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._fd).st_size

    def read(self, offset: int, count: int) -> bytes:
        data = os.pread(self._fd, count, offset)
        while len(data) < count:  # a network file system may return less than asked
            more = os.pread(self._fd, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def stream(self) -> BinaryIO:
        return self._path.open("rb")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _RemoteBytes:
    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._fs, self._path = fsspec.core.url_to_fs(url)
            self.size = int(self._fs.info(self._path)["size"] or 0)
        except ImportError as error:
            raise UnsupportedSlideError(f"'{url}' needs another package: {error}.") from error
        except FileNotFoundError as error:
            raise UnsupportedSlideError(
                f"'{url}' cannot be opened: there is no such file; check the spelling."
            ) from error
        except (OSError, ValueError, KeyError) as error:
            raise UnsupportedSlideError(f"'{url}' cannot be opened: {error}.") from error

    def read(self, offset: int, count: int) -> bytes:
        end = min(offset + count, self.size)
        if end <= offset:
            return b""
        data = cast(bytes, self._fs.cat_file(self._path, start=offset, end=end))
        if len(data) != end - offset:
            # A server without range requests sends the whole file, whose first bytes are not those asked for.
            raise OSError(
                f"the server sent {len(data)} bytes where {end - offset} were asked for: it cannot send "
                "parts of files, so download the slide"
            )
        return data

    def stream(self) -> BinaryIO:
        stream: Any = self._fs.open(self._path, "rb")
        return cast(BinaryIO, stream)

    def close(self) -> None:
        pass
