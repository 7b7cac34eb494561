"""Editing the directories of TIFF files byte by byte, as damage does; classic little-endian files only."""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["drop_tag", "place_of_next", "set_tag", "set_values"]


def _entries(data: bytes | bytearray, directory: int) -> tuple[int, int]:
    """Where the entries of a directory (its number in the main chain) begin, and how many there are."""
    assert data[:4] == b"II*\0"
    (offset,) = struct.unpack_from("<I", data, 4)
    for _ in range(directory):
        (count,) = struct.unpack_from("<H", data, offset)
        (offset,) = struct.unpack_from("<I", data, offset + 2 + 12 * count)
    (count,) = struct.unpack_from("<H", data, offset)
    return offset + 2, count


def _find(data: bytes | bytearray, tag: int, directory: int) -> int:
    begin, count = _entries(data, directory)
    return next(
        at for at in range(begin, begin + 12 * count, 12) if data[at : at + 2] == struct.pack("<H", tag)
    )


def drop_tag(path: Path, tag: int, *, directory: int = 0) -> None:
    """Remove an entry, the others closing up: the directory stays in order."""
    data = bytearray(path.read_bytes())
    begin, count = _entries(data, directory)
    at, end = _find(data, tag, directory), begin + 12 * count
    data[at : end + 4] = data[at + 12 : end + 4] + bytes(12)
    struct.pack_into("<H", data, begin - 2, count - 1)
    path.write_bytes(data)


def set_tag(path: Path, number: int, /, *, directory: int = 0, **fields: int) -> None:
    """Overwrite `tag`, `type`, `count` or `value` (4 bytes, or an offset) of an entry."""
    data = bytearray(path.read_bytes())
    at = _find(data, number, directory)
    for name, value in fields.items():
        place, code = {"tag": (0, "<H"), "type": (2, "<H"), "count": (4, "<I"), "value": (8, "<I")}[name]
        struct.pack_into(code, data, at + place, value)
    path.write_bytes(data)


def set_values(path: Path, tag: int, values: list[int], *, directory: int = 0) -> None:
    """Overwrite the values of an entry of SHORT or LONG, as many as it has, where they lie."""
    data = bytearray(path.read_bytes())
    at = _find(data, tag, directory)
    kind, count = struct.unpack_from("<HI", data, at + 2)
    code, size = {3: ("H", 2), 4: ("I", 4)}[kind]
    assert len(values) == count
    place = at + 8 if size * count <= 4 else struct.unpack_from("<I", data, at + 8)[0]
    struct.pack_into(f"<{count}{code}", data, place, *values)
    path.write_bytes(data)


def place_of_next(path: Path, *, directory: int = 0) -> int:
    """Where in the file the offset of the next directory is written."""
    begin, count = _entries(path.read_bytes(), directory)
    return begin + 12 * count
