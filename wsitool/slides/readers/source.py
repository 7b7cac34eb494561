"""Slide files opened as bytes, wherever they are, and what identifies their content."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, cast

from wsitool.errors import SlideError, UnsupportedSlideError
from wsitool.slides.readers.byte_source import ByteSource, SourceStream, is_url
from wsitool.slides.readers.remote import RemoteBytes

__all__ = ["file_state", "fingerprint", "open_bytes", "series_files"]

_SAMPLES, _SAMPLE_BYTES = 18, 65_536
_STREAM_BYTES = 65_536
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def series_files(folder: Path) -> list[Path]:
    """The files of a DICOM series that is a folder, sorted; [] for a folder without any, or for no folder."""
    if not os.path.isdir(folder):  # noqa: PTH112 - Path's raises for a name that is too long
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".dcm" and path.is_file())


def open_bytes(path: str | Path) -> ByteSource:
    """Open a local file, a folder that is a DICOM series, or an fsspec URL.

    UnsupportedSlideError if there is no such readable file.
    """
    if is_url(path):
        return RemoteBytes(str(path))
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if files := series_files(path):
            series = _LocalBytes(files[0])  # which says where the others are
            series.name = f"{path.name}{files[0].suffix}"
            return series
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
    the last among them, so that a slide of gigabytes costs milliseconds. A folder counts by all its files.
    """
    if isinstance(path, str | Path):
        if not is_url(path) and (files := series_files(Path(path))):
            digests = "".join(fingerprint(file) for file in files)
            return hashlib.sha256(digests.encode()).hexdigest()[:16]
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
