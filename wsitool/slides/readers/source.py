"""Slide files opened as bytes, wherever they are, and what identifies their content."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, cast

from wsitool.base.byte_stream import SourceStream
from wsitool.base.urls import file_name, is_url
from wsitool.errors import SlideError, UnsupportedSlideError
from wsitool.slides.readers.byte_source import ByteSource
from wsitool.slides.readers.folders import (
    MIRAX_DATA,
    ZARR_METADATA,
    entry_file,
    folder_digest,
    mirax_data,
    mirax_file,
    pixel_folder,
    series_files,
    zarr_metadata,
)
from wsitool.slides.readers.remote import RemoteBytes
from wsitool.slides.readers.zipped import ZIP_MAGICS, zipped_slide

__all__ = ["file_state", "fingerprint", "open_bytes"]

_SAMPLES, _SAMPLE_BYTES = 18, 65_536
_STREAM_BYTES = 65_536
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_bytes(path: str | Path) -> ByteSource:
    """Open a local file, a folder that is a slide, the slide in a zip, or an fsspec URL.

    A folder is opened by the file that says what it is. UnsupportedSlideError if there is no such readable
    file, or nothing in a zip that can be read as it lies there.
    """
    if is_url(path):
        return _open_url(str(path))
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if entry := entry_file(path):
            source = _PartBytes(entry)
            source.name = path.name if zarr_metadata(path) else f"{path.name}{entry.suffix}"
            return source
        if mirax := mirax_file(path):
            raise UnsupportedSlideError(f"'{path}' holds the data of a slide: name '{mirax}' beside it.")
        if stat.S_ISDIR(mode):
            raise UnsupportedSlideError(f"'{path}' is a folder, not a slide: name the slide file in it.")
        if not stat.S_ISREG(mode):
            # Opening a pipe would wait for a writer that may never come.
            kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
            raise UnsupportedSlideError(f"'{path}' is {kind}, not a slide: name a file.")
        local = _PartBytes(path) if pixel_folder(path) else _LocalBytes(path)
        return zipped_slide(local) if local.read(0, 4) in ZIP_MAGICS else local
    except FileNotFoundError as error:
        raise UnsupportedSlideError(f"There is no file '{path}': check the spelling.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnsupportedSlideError(f"'{path}' cannot be opened: {reason or error}.") from error


def _open_url(url: str) -> ByteSource:
    """A file behind a URL; of a zarr group the metadata, which say where the rest is."""
    if not url.rstrip("/").endswith(".zarr"):
        return RemoteBytes(url)
    problem: UnsupportedSlideError | None = None
    for name in ZARR_METADATA:
        try:
            source = RemoteBytes(f"{url.rstrip('/')}/{name}")
        except UnsupportedSlideError as error:
            problem = problem or error
            continue
        source.name = file_name(url)
        return source
    assert problem is not None
    raise problem


def fingerprint(path: str | Path | ByteSource) -> str:
    """Identify a slide's content: SHA-256 over its size and samples of its bytes, in hex (16 characters).

    Files up to about 1 MiB are hashed whole; of larger ones, 18 evenly spread blocks of 64 KiB, the first and
    the last among them, so that a slide of gigabytes costs milliseconds. A DICOM folder counts by all its
    files, tiles in a folder and the data of MIRAX by their names, sizes and samples; a zarr group behind a
    URL by its metadata and place.

    >>> wsitool.fingerprint("slide.svs") == wsitool.open_slide("slide.svs").info.fingerprint
    True
    """
    if isinstance(path, str | Path):
        if not is_url(path) and not zarr_metadata(Path(path)) and (files := series_files(Path(path))):
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
        if is_url(source.path) and source.path.endswith(ZARR_METADATA):
            digest.update(source.path.encode())
        elif (folder := pixel_folder(Path(source.path))) and folder.is_dir():
            digest.update(folder_digest(folder))
        elif (folder := mirax_data(Path(source.path))) and folder.is_dir():
            digest.update(folder_digest(folder, MIRAX_DATA))
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

    def changed(self) -> bool | None:
        try:
            return file_state(Path(self.path).stat()) != file_state(self._opened)
        except OSError:
            return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _PartBytes(_LocalBytes):
    """The file by which a slide of several is opened: whether the others changed their content shows."""

    def changed(self) -> bool | None:
        return super().changed() or None
