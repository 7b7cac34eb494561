"""What is done to a slide: every function takes bytes and returns other bytes and a sentence about it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from fuzz.slide_bases import TILE
from fuzz.tiff_edit import Entry, TiffBytes, tiny_tiff

__all__ = ["PICTURE_DAMAGE", "TIFF_DAMAGE", "bomb_png", "giant_tiffs"]

Rng = np.random.Generator
Damaged = tuple[bytes, str]
_HUGE = (65_535, 65_536, 100_000, 1_000_000, 2**31 - 1, 2**32 - 1)


def flip(rng: Rng, data: bytes, places: Any = None) -> Damaged:
    """Change up to five bytes, among `places` where given."""
    array = np.frombuffer(data, np.uint8).copy()
    at = rng.choice(len(data) if places is None else places, int(rng.integers(1, 6)))
    array[at] ^= rng.integers(1, 256, len(at)).astype(np.uint8)
    return array.tobytes(), f"bytes {sorted(set(at.tolist()))} changed"


def truncate(rng: Rng, data: bytes) -> Damaged:
    length = int(len(data) * rng.random() ** 0.5)
    return data[:length], f"cut to {length} of {len(data)} bytes"


def append_garbage(rng: Rng, data: bytes) -> Damaged:
    return data + rng.bytes(int(rng.integers(1, 5000))), "garbage appended"


def _pick(rng: Rng, tiff: TiffBytes) -> tuple[int, int, Entry]:
    """A directory (mostly the first), its number, and an entry of it."""
    found = tiff.directories()
    number = 0 if rng.random() < 0.75 else int(rng.integers(len(found)))
    entries = tiff.entries(found[number])
    return found[number], number, entries[int(rng.integers(len(entries)))]


def flip_directory(rng: Rng, data: bytes) -> Damaged:
    tiff = TiffBytes(data)
    places = list(range(16))
    for directory in tiff.directories():
        places += range(directory, tiff.next_at(directory) + 8)
    return flip(rng, data, [place for place in places if place < len(data)])


def change_value(rng: Rng, data: bytes) -> Damaged:
    tiff = TiffBytes(data)
    _, number, entry = _pick(rng, tiff)
    index = int(rng.integers(max(1, entry.count)))
    old = tiff.value(entry, index)
    choices = (old + 1, old - 1, old * 2, old // 2, 0, -1, int(rng.integers(2**16)))
    new = choices[int(rng.integers(len(choices)))]
    tiff.set_value(entry, new, index)
    return bytes(tiff.data), f"directory {number}, tag {entry.tag}[{index}]: {old} -> {new}"


def change_type(rng: Rng, data: bytes) -> Damaged:
    tiff = TiffBytes(data)
    _, number, entry = _pick(rng, tiff)
    kind = int(rng.integers(0, 19))
    tiff.set_type(entry, kind)
    return bytes(tiff.data), f"directory {number}, tag {entry.tag}: type {entry.type} -> {kind}"


def change_count(rng: Rng, data: bytes) -> Damaged:
    tiff = TiffBytes(data)
    _, number, entry = _pick(rng, tiff)
    choices = (0, entry.count + 1, entry.count - 1, entry.count * 2, 2**31, 2**32 - 1)
    count = choices[int(rng.integers(len(choices)))]
    tiff.set_count(entry, count)
    return bytes(tiff.data), f"directory {number}, tag {entry.tag}: count {entry.count} -> {count}"


def remove_tag(rng: Rng, data: bytes) -> Damaged:
    tiff = TiffBytes(data)
    directory, number, entry = _pick(rng, tiff)
    tiff.remove(directory, entry)
    return bytes(tiff.data), f"directory {number}, tag {entry.tag} removed"


def loop_directories(rng: Rng, data: bytes) -> Damaged:
    tiff = TiffBytes(data)
    found = tiff.directories()
    source, target = found[-1], found[int(rng.integers(len(found)))]
    subs = [entry for at in found for entry in tiff.entries(at) if entry.tag == 330]
    if subs and rng.random() < 0.5:
        tiff.set_value(subs[0], target)
        return bytes(tiff.data), f"the sub-directory is directory {found.index(target)} itself"
    tiff.set_pointer(tiff.next_at(source), target)
    return bytes(tiff.data), f"the last directory points back to directory {found.index(target)}"


def _segments(rng: Rng, data: bytes) -> tuple[TiffBytes, Entry, Entry]:
    tiff = TiffBytes(data)
    found = [pair for pair in map(tiff.segments, tiff.directories()) if pair is not None]
    return (tiff, *found[0 if rng.random() < 0.75 else int(rng.integers(len(found)))])


def swap_tiles(rng: Rng, data: bytes) -> Damaged:
    tiff, offsets, counts = _segments(rng, data)
    if offsets.count < 2:
        return flip(rng, data)
    one, other = rng.choice(offsets.count, 2, replace=False).tolist()
    which = (offsets,) if rng.random() < 0.3 else (offsets, counts)
    for entry in which:
        first, second = tiff.value(entry, one), tiff.value(entry, other)
        tiff.set_value(entry, second, one)
        tiff.set_value(entry, first, other)
    return bytes(tiff.data), f"tiles {one} and {other} swapped ({len(which)} of offset and count)"


def empty_tiles(rng: Rng, data: bytes) -> Damaged:
    tiff, offsets, counts = _segments(rng, data)
    chosen = rng.choice(counts.count, min(counts.count, int(rng.integers(1, 4))), replace=False).tolist()
    for index in chosen:
        tiff.set_value(counts, 0, index)
        if rng.random() < 0.5:
            tiff.set_value(offsets, 0, index)
    return bytes(tiff.data), f"tiles {sorted(chosen)} of zero length"


def splice_tile(rng: Rng, data: bytes) -> Damaged:
    """Put a tile of another size, in the file's own codec, in the place of one of its tiles."""
    tiff, offsets, counts = _segments(rng, data)
    side = int(rng.choice([TILE // 2, TILE - 1, TILE + 1, TILE * 2]))
    pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
    compression = next(
        (tiff.value(e) for e in tiff.entries(tiff.directories()[0]) if e.tag == 259),
        1,
    )
    encoders: dict[int, Callable[[Any], bytes]] = {
        1: lambda tile: tile.tobytes(),
        5: imagecodecs.lzw_encode,
        7: imagecodecs.jpeg8_encode,
        8: lambda tile: zlib.compress(tile.tobytes()),
        32946: lambda tile: zlib.compress(tile.tobytes()),
        33005: lambda tile: imagecodecs.jpeg2k_encode(tile, codecformat=str(rng.choice(["J2K", "JP2"]))),
    }
    tile = encoders.get(compression, encoders[7])(pixels)
    index = int(rng.integers(offsets.count))
    tiff.set_value(offsets, tiff.append(tile), index)
    tiff.set_value(counts, len(tile), index)
    return bytes(tiff.data), f"tile {index} replaced by one of {side} x {side} px"


def declare_huge(rng: Rng, data: bytes) -> Damaged:
    tiff = TiffBytes(data)
    directory = tiff.directories()[0]
    wanted = [{256, 257}, {256}, {322, 323}, {278}, {325, 279}, {258}, {277}][int(rng.integers(7))]
    size = int(rng.choice(_HUGE))
    for entry in tiff.entries(directory):
        if entry.tag in wanted:
            if entry.type == 3 and entry.count == 1 and entry.tag != 277:
                tiff.set_type(entry, 4)  # a short one cannot hold it; its other two bytes are padding
            tiff.set_value(tiff.entries(directory)[_place(tiff, directory, entry)], size)
    return bytes(tiff.data), f"tags {sorted(wanted)} declare {size}"


def _place(tiff: TiffBytes, directory: int, entry: Entry) -> int:
    return next(i for i, other in enumerate(tiff.entries(directory)) if other.at == entry.at)


TIFF_DAMAGE: tuple[Callable[[Rng, bytes], Damaged], ...] = (
    flip,
    flip_directory,
    flip_directory,
    change_value,
    change_value,
    change_value,
    change_type,
    change_count,
    remove_tag,
    remove_tag,
    truncate,
    loop_directories,
    swap_tiles,
    empty_tiles,
    splice_tile,
    declare_huge,
    append_garbage,
)


def flip_head(rng: Rng, data: bytes) -> Damaged:
    return flip(rng, data, range(min(256, len(data))))


def declare_huge_picture(rng: Rng, data: bytes) -> Damaged:
    """Set the width and height in the header of a picture, its checksum made right again."""
    width, height = rng.choice(_HUGE[:5], 2).tolist()
    changed = bytearray(data)
    if data[:4] == b"\x89PNG":
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(bytes(changed[12:29])))
    elif data[:2] == b"BM":
        changed[18:26] = struct.pack("<II", width, height)
    elif data[:2] == b"\xff\xd8":
        at = next(i for i in range(len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
        changed[at + 5 : at + 9] = struct.pack(">HH", min(height, 65_500), min(width, 65_500))
    else:
        return flip_head(rng, data)
    return bytes(changed), f"the header declares {width} x {height} px"


PICTURE_DAMAGE: tuple[Callable[[Rng, bytes], Damaged], ...] = (
    flip,
    flip_head,
    flip_head,
    truncate,
    declare_huge_picture,
    append_garbage,
)


def bomb_png(side: int = 13_000) -> bytes:
    """A PNG of `side` x `side` black pixels in half a megabyte, the least that deflate makes of them.

    Of 2 MB it would be within the limits, as blank JPEGs have as many pixels a byte, and be held in memory.
    """
    squeeze = zlib.compressobj(9)
    row = bytes(1 + side * 3)
    body = b"".join([squeeze.compress(row * 100) for _ in range(-(-side // 100))]) + squeeze.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def giant_tiffs() -> dict[str, bytes]:
    """Small files that declare much: a sparse slide, one giant tile, one giant strip, many tiny strips."""

    def rgb(
        width: int, height: int, more: dict[int, tuple[int, list[int]]]
    ) -> dict[int, tuple[int, list[int]]]:
        common = {256: (4, [width]), 257: (4, [height]), 258: (3, [8, 8, 8]), 259: (3, [1])}
        return {**common, 262: (3, [2]), 277: (3, [3]), **more}

    side = 1_000_000
    sparse = rgb(side, side, {322: (3, [4096]), 323: (3, [4096])})
    number = (side // 4096 + 1) ** 2
    tile = {322: (4, [65_536]), 323: (4, [65_536]), 324: (4, [0]), 325: (4, [0])}
    return {
        "sparse.tif": tiny_tiff(sparse | {324: (4, [0] * number), 325: (4, [0] * number)}),
        "one-tile.tif": tiny_tiff(rgb(65_536, 65_536, tile)),
        "one-strip.tif": tiny_tiff(rgb(60_000, 60_000, {273: (4, [8]), 278: (4, [60_000]), 279: (4, [99])})),
        "strips.tif": tiny_tiff(
            rgb(64, 5_000, {273: (4, [8] * 5_000), 278: (4, [1]), 279: (4, [192] * 5_000)})
        ),
    }
