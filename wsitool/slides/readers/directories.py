"""The directories of a TIFF, walked before any library sees them: no loop, no table larger than the file.

Adobe's TIFF 6.0 and the BigTIFF layout; only directories are read, so a slide costs some kilobytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wsitool.base.limits import MAX_DIRECTORIES, MAX_TAG_BYTES, check_limit
from wsitool.errors import RefusedSlideError
from wsitool.slides.reader_registry import TIFF_MAGIC
from wsitool.slides.readers.byte_source import ByteSource

__all__ = ["TIFF_MAGIC", "Directory", "Entry", "read_directories"]

_SUB_IFDS, _TILE_WIDTH, _NDPI = 330, 322, 65420
_MOST_ENTRIES = 4096
# Bytes of one value of each field type; 13 and 18 are offsets of directories.
_TYPE_BYTES = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), strict=True)) | {
    16: 8,
    17: 8,
    18: 8,
}
_UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tag: its field type, the number of its values and where in the file they begin."""

    type: int
    count: int
    offset: int

    @property
    def bytes(self) -> int:
        """Size of all values; 0 for a field type that is none."""
        return _TYPE_BYTES.get(self.type, 0) * self.count


@dataclass(frozen=True, kw_only=True)
class Directory:
    """One directory: `entries` by tag number; `in_order` as the standard demands, each number once."""

    source: ByteSource = field(repr=False)
    byte_order: str
    offset: int
    entries: dict[int, Entry]
    in_order: bool

    @property
    def is_ndpi(self) -> bool:
        """Whether it is Hamamatsu's own kind, whose offsets pass 4 GB in 32 bits."""
        return _NDPI in self.entries

    @property
    def is_tiled(self) -> bool:
        """Whether its pixels lie in tiles rather than strips, as those of a level do."""
        return _TILE_WIDTH in self.entries

    def numeric(self, tag: int) -> Entry | None:
        """The entry of a tag of whole numbers, or None; RefusedSlideError where it is another or cut off."""
        entry = self.entries.get(tag)
        if entry is None:
            return None
        if entry.type not in _UNSIGNED or entry.offset + entry.bytes > self.source.size:
            raise self.refusal(f"its tag {tag} is damaged")
        check_limit(f"Bytes of tag {tag} of '{self.source.name}'", entry.bytes, MAX_TAG_BYTES)
        return entry

    def array(self, tag: int) -> NDArray[np.uint64]:
        """All values of a tag of whole numbers, empty where it is absent; raises what `numeric` does."""
        entry = self.numeric(tag)
        if entry is None:
            return np.zeros(0, np.uint64)
        data = _bytes(self.source, entry.offset, entry.bytes)
        return np.frombuffer(data, self.byte_order + _UNSIGNED[entry.type]).astype(np.uint64)

    def numbers(self, tag: int, *, most: int = 64) -> tuple[int, ...]:
        """`array` of a tag that can have but a few values."""
        if tag in self.entries and not 1 <= self.entries[tag].count <= most:
            raise self.refusal(f"its tag {tag} has {self.entries[tag].count} values")
        return tuple(self.array(tag).tolist())

    def refusal(self, reason: str) -> RefusedSlideError:
        """The error that says why nothing may be read by this directory."""
        return _refusal(self.source, reason)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Widths of a classic or a big TIFF: struct codes of the entry count, an offset, and an entry's head."""

    order: str
    number: str
    offset: str

    @property
    def entry_bytes(self) -> int:
        return 4 + 2 * struct.calcsize(self.offset)


def read_directories(source: ByteSource) -> list[Directory]:
    """All directories of a TIFF: the main chain, and behind each its sub-directories, in the order found.

    Those behind the end of a file that was cut off are left out; of an NDPI only the first is read. Raises
    RefusedSlideError where directories loop, are too many, or the first is not there.
    """
    layout, first = _header(source)
    directories: list[Directory] = []
    seen: set[int] = set()
    pending = [first]
    while pending:
        for directory in _chain(source, layout, pending.pop(0), seen):
            directories.append(directory)
            if directory.is_ndpi:
                return directories
            children = directory.array(_SUB_IFDS)
            check_limit(f"Directories of '{source.name}'", len(seen) + len(children), MAX_DIRECTORIES)
            pending += children.tolist()
    total = sum(entry.bytes for directory in directories for entry in directory.entries.values())
    check_limit(f"Bytes of the tags of '{source.name}'", total, MAX_TAG_BYTES)
    if not directories:
        raise _refusal(source, "its first directory is not there: it is cut off")
    return directories


def _header(source: ByteSource) -> tuple[_Layout, int]:
    head = _bytes(source, 0, min(16, source.size))
    order = "<" if head[:2] == b"II" else ">"
    big = head[:4] in TIFF_MAGIC[2:]
    layout = _Layout(order=order, number="Q" if big else "H", offset="Q" if big else "I")
    if len(head) < (16 if big else 8):
        raise _refusal(source, "it is cut off within its header")
    (first,) = struct.unpack_from(order + layout.offset, head, 8 if big else 4)
    return layout, int(first)


def _chain(source: ByteSource, layout: _Layout, offset: int, seen: set[int]) -> Iterator[Directory]:
    in_chain: set[int] = set()
    while offset:
        if offset in in_chain:
            raise _refusal(source, f"its directories loop: the one at byte {offset} comes twice")
        if offset in seen:
            return  # sub-directories are listed by their parent and also linked to each other
        in_chain.add(offset)
        seen.add(offset)
        check_limit(f"Directories of '{source.name}'", len(seen), MAX_DIRECTORIES)
        read = _directory(source, layout, offset)
        if read is None:
            return
        directory, offset = read
        yield directory


def _directory(source: ByteSource, layout: _Layout, offset: int) -> tuple[Directory, int] | None:
    """The directory at `offset` and the next one's offset; None where the file ends before it does."""
    width = struct.calcsize(layout.number)
    head = _bytes(source, offset, width)
    if len(head) < width:
        return None
    (count,) = struct.unpack(layout.order + layout.number, head)
    if count > _MOST_ENTRIES:
        raise _refusal(source, f"its directory at byte {offset} claims {count} tags")
    size, begin = layout.entry_bytes, offset + width
    data = _bytes(source, begin, count * size + struct.calcsize(layout.offset))
    if len(data) < count * size:
        return None
    entries: dict[int, Entry] = {}
    order: list[int] = []
    for at in range(0, count * size, size):
        tag, kind, number = struct.unpack_from(f"{layout.order}HH{layout.offset}", data, at)
        padding = size - struct.calcsize(layout.offset)
        entry = Entry(type=kind, count=number, offset=begin + at + padding)
        if entry.bytes > struct.calcsize(layout.offset):
            (value,) = struct.unpack_from(layout.order + layout.offset, data, at + padding)
            entry = Entry(type=kind, count=number, offset=value)
        order.append(tag)
        entries.setdefault(tag, entry)
    following = (0,)
    if len(data) == count * size + struct.calcsize(layout.offset):
        following = struct.unpack_from(layout.order + layout.offset, data, count * size)
    in_order = all(a < b for a, b in pairwise(order))
    directory = Directory(
        source=source, byte_order=layout.order, offset=offset, entries=entries, in_order=in_order
    )
    return directory, int(following[0])


def _bytes(source: ByteSource, offset: int, count: int) -> bytes:
    if offset >= source.size:
        return b""
    try:
        return source.read(offset, count)
    except (OSError, OverflowError) as error:
        raise RefusedSlideError(f"'{source.name}' cannot be read: {error}.") from error


def _refusal(source: ByteSource, reason: str) -> RefusedSlideError:
    return RefusedSlideError(
        f"'{source.name}' is damaged or contradicts itself, and no reader may guess: {reason}; get it anew."
    )
