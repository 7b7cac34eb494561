"""The directories of a TIFF as they lie in the file, to be edited entry by entry by no library's rules."""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["Entry", "TiffBytes", "tiny_tiff"]

_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tag of a directory; `at` is where its entry lies, `value_at` where its values lie."""

    at: int
    tag: int
    type: int
    count: int
    value_at: int


class TiffBytes:
    """The bytes of a classic or big TIFF of either byte order, editable in place or at the end."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self._order = "<" if data[:2] == b"II" else ">"
        self._big = self._get("H", 2) == 43
        self._offset, self._number = ("Q", "Q") if self._big else ("I", "H")
        self._entry_size = 20 if self._big else 12
        self.first_at = 8 if self._big else 4

    def _get(self, code: str, at: int) -> int:
        return int(struct.unpack_from(self._order + code, self.data, at)[0])

    def _set(self, code: str, at: int, value: int) -> None:
        size = struct.calcsize(code)
        self.data[at : at + size] = (value % (1 << 8 * size)).to_bytes(
            size, "little" if self._order == "<" else "big"
        )

    def directories(self) -> list[int]:
        """Where each directory of the chain begins."""
        found: list[int] = []
        at = self._get(self._offset, self.first_at)
        while at and at not in found:
            found.append(at)
            at = self._get(self._offset, self.next_at(at))
        return found

    def next_at(self, directory: int) -> int:
        """Where the pointer to the next directory lies."""
        head = struct.calcsize(self._number)
        return directory + head + self._get(self._number, directory) * self._entry_size

    def set_pointer(self, at: int, target: int) -> None:
        self._set(self._offset, at, target)

    def entries(self, directory: int) -> list[Entry]:
        head = struct.calcsize(self._number)
        found = []
        for index in range(self._get(self._number, directory)):
            at = directory + head + index * self._entry_size
            kind, count = self._get("H", at + 2), self._get(self._offset, at + 4)
            inline = at + 4 + struct.calcsize(self._offset)
            fits = _SIZES.get(kind, 1) * count <= struct.calcsize(self._offset)
            value_at = inline if fits else self._get(self._offset, inline)
            found.append(Entry(at=at, tag=self._get("H", at), type=kind, count=count, value_at=value_at))
        return found

    def value(self, entry: Entry, index: int = 0) -> int:
        code = _WHOLE.get(entry.type, "B")
        return self._get(code, entry.value_at + index * struct.calcsize(code))

    def set_value(self, entry: Entry, value: int, index: int = 0) -> None:
        code = _WHOLE.get(entry.type, "B")
        self._set(code, entry.value_at + index * struct.calcsize(code), value)

    def set_type(self, entry: Entry, kind: int) -> None:
        self._set("H", entry.at + 2, kind)

    def set_count(self, entry: Entry, count: int) -> None:
        self._set(self._offset, entry.at + 4, count)

    def remove(self, directory: int, entry: Entry) -> None:
        """Take the entry out and close the gap; the pointer to the next directory moves along."""
        end = self.next_at(directory) + struct.calcsize(self._offset)
        rest = self.data[entry.at + self._entry_size : end]
        self.data[entry.at : end] = rest + bytes(self._entry_size)
        self._set(self._number, directory, self._get(self._number, directory) - 1)

    def segments(self, directory: int) -> tuple[Entry, Entry] | None:
        """The entries of offsets and byte counts of tiles or strips."""
        by_tag = {entry.tag: entry for entry in self.entries(directory)}
        for offsets, counts in ((324, 325), (273, 279)):
            if offsets in by_tag and counts in by_tag:
                return by_tag[offsets], by_tag[counts]
        return None

    def append(self, data: bytes) -> int:
        """Put `data` at the end of the file; returns where it lies."""
        at = len(self.data)
        self.data += data
        return at


def tiny_tiff(tags: dict[int, tuple[int, list[int]]], tail: bytes = b"") -> bytes:
    """A little-endian classic TIFF of one directory: tag -> (type, values); `tail` follows it."""
    directory = struct.pack("<H", len(tags))
    extra_at = 8 + 2 + 12 * len(tags) + 4
    extra = b""
    for tag in sorted(tags):
        kind, values = tags[tag]
        packed = struct.pack(f"<{len(values)}{_WHOLE[kind]}", *values)
        if len(packed) > 4:
            place = struct.pack("<I", extra_at + len(extra))
            extra += packed
        else:
            place = packed.ljust(4, b"\0")
        directory += struct.pack("<HHI", tag, kind, len(values)) + place
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + extra + tail
