"""The slide in a zip, read as it lies there: bytes that were stored need no unpacking."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable
from typing import BinaryIO, cast

from wsitool.base.byte_stream import SourceStream
from wsitool.errors import UnsupportedSlideError
from wsitool.slides.readers.byte_source import ByteSource

__all__ = ["ZIP_MAGICS", "zipped_slide"]

_FILE_MAGIC, _EMPTY_MAGIC = b"PK\3\4", b"PK\5\6"
ZIP_MAGICS = (_FILE_MAGIC, _EMPTY_MAGIC)
"""What a zip begins with, of which four bytes tell."""
_HEADER = struct.Struct("<4s22xHH")  # of a file in it: magic, length of its name and of extra fields
_STREAM_BYTES = 65_536
_NO_SLIDES = ("__MACOSX/", ".DS_Store")


def zipped_slide(archive: ByteSource) -> ByteSource:
    """The bytes of the one file in a zip, which takes `archive` over.

    UnsupportedSlideError, and the archive is closed, where there are several or the one is compressed: no
    part of such a file can be had without unpacking what is before it.
    """
    try:
        return _Window(archive, *_place(archive))
    except (zipfile.BadZipFile, struct.error, NotImplementedError) as error:
        archive.close()
        raise UnsupportedSlideError(f"'{archive.name}' is a damaged zip ({error}): get it anew.") from error
    except UnsupportedSlideError:
        archive.close()
        raise


def _place(archive: ByteSource) -> tuple[int, int]:
    """Where in the archive its one file begins, and its size."""
    with archive.stream() as stream, zipfile.ZipFile(stream) as files:
        members = [
            member
            for member in files.infolist()
            if not member.is_dir() and not any(name in member.filename for name in _NO_SLIDES)
        ]
    unpacked = f"{sum(member.file_size for member in members) / 1e6:,.0f} MB"
    if len(members) != 1:
        raise UnsupportedSlideError(
            f"'{archive.name}' is a zip of {len(members)} files ({unpacked}), and only one slide that is one "
            "file can be read there: unpack it and name the slide."
        )
    (member,) = members
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise UnsupportedSlideError(
            f"'{member.filename}' is packed within '{archive.name}' ({unpacked} unpacked), and only what is "
            "stored as it is can be read there (zip -0): unpack it and name the slide."
        )
    magic, name_bytes, extra_bytes = _HEADER.unpack(archive.read(member.header_offset, _HEADER.size))
    start = member.header_offset + _HEADER.size + name_bytes + extra_bytes
    if magic != _FILE_MAGIC or start + member.file_size > archive.size:
        raise zipfile.BadZipFile("it is cut off")
    if archive.read(start, len(_FILE_MAGIC)) in ZIP_MAGICS:
        raise UnsupportedSlideError(
            f"'{member.filename}' is a zip within '{archive.name}': unpack it and name what is in it."
        )
    return start, member.file_size


class _Window:
    """A part of another source as a `ByteSource`; it is called as the whole."""

    def __init__(self, whole: ByteSource, start: int, size: int) -> None:
        self._whole, self._start = whole, start
        self.path, self.name, self.size = whole.path, whole.name, size

    def read(self, offset: int, count: int) -> bytes:
        return self._whole.read(self._start + offset, max(0, min(count, self.size - offset)))

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._whole.prefetch((self._start + offset, count) for offset, count in ranges)

    def stream(self) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(SourceStream(self), _STREAM_BYTES))

    def changed(self) -> bool | None:
        return self._whole.changed()

    def close(self) -> None:
        self._whole.close()
