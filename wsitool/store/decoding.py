"""Which JPEG streams of a store a device's decoder may be given."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from wsitool.base.paths import shown
from wsitool.errors import CorruptStoreError
from wsitool.store.reader import Reader

__all__ = ["is_plain", "left_to_cpu"]

# Markers of ITU T.81, table B.1.
_SOI, _EOI, _SOS, _DQT, _DHT, _BASELINE, _JFIF, _ADOBE = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xC0, 0xE0, 0xEE
_SAYS_NOTHING = frozenset((*range(0xE0, 0xF0), 0xFE, 0xDD))  # applications', comments, restart intervals
_YCBCR_BY_ADOBE = 1
_YCBCR_IDS = (1, 2, 3)  # by JFIF; of other numbers decoders guess
# Chroma as fine as luma, half as wide, half each way.
_SUBSAMPLINGS = ((0x11, 0x11, 0x11), (0x21, 0x11, 0x11), (0x22, 0x11, 0x11))


def is_plain(data: bytes, side: int) -> bool:
    """Whether every decoder makes the same of a stream's head: baseline, 8 bits, grey or YCbCr, complete.

    False for what has not `side` x `side` px, colours that may be RGB or CMYK, more than one scan, tables
    that are not in it, or no end. What is compressed is not looked at.
    """
    at = data.find(bytes((0xFF, _SOS)))
    if at < 0 or data[-2:] != bytes((0xFF, _EOI)):
        return False
    return _is_plain_head(data[: at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")], side)


# Streams of one writer have one head: parsed for each it would cost a tenth of decoding them.
@lru_cache(maxsize=64)
def _is_plain_head(data: bytes, side: int) -> bool:
    """Of what goes before the compressed data, with the segment that says how that is to be read."""
    if data[:2] != bytes((0xFF, _SOI)):
        return False
    tables: set[tuple[int, int]] = set()
    frame, adobe, jfif, at = b"", None, False, 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker == _SOS:
            return _is_plain_frame(frame, side, adobe=adobe, jfif=jfif) and _has_tables(frame, body, tables)
        if marker in (_DQT, _DHT):
            tables |= {(marker, number) for number in _numbers(marker, body)}
        elif marker == _BASELINE and not frame:
            frame = body
        elif marker not in _SAYS_NOTHING:
            return False
        if marker == _ADOBE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == _JFIF and body[:5] == b"JFIF\0":
            jfif = True
        at += 2 + length
    return False


def _is_plain_frame(frame: bytes, side: int, *, adobe: int | None, jfif: bool) -> bool:
    size = side.to_bytes(2, "big")
    if len(frame) < 6 or frame[:5] != b"\x08" + size + size or len(frame) != 6 + 3 * frame[5]:
        return False
    if frame[5] == 1:
        return True
    if frame[5] != 3 or tuple(frame[7::3]) not in _SUBSAMPLINGS:
        return False
    if adobe is not None and not jfif:
        return adobe == _YCBCR_BY_ADOBE
    return adobe in (None, _YCBCR_BY_ADOBE) and tuple(frame[6::3]) == _YCBCR_IDS


def _numbers(marker: int, body: bytes) -> list[int]:
    """The numbers of the tables in a segment; of Huffman tables with their class, 0x10 for AC."""
    numbers, at = [], 0
    while at < len(body):
        numbers.append(body[at])
        # 64 values of 8 bits (16 bits are no baseline's), or 16 counts and as many values as they add up to.
        at += 65 if marker == _DQT else 17 + sum(body[at + 1 : at + 17])
    return numbers


def _has_tables(frame: bytes, scan: bytes, tables: set[tuple[int, int]]) -> bool:
    """Whether the first scan has all components, and all tables came before it."""
    count = frame[5]
    if len(scan) != 4 + 2 * count or scan[0] != count or scan[1 : 1 + 2 * count : 2] != frame[6::3]:
        return False
    chosen = scan[2 : 2 + 2 * count : 2]
    needed = {(_DQT, number) for number in frame[8::3]} | {(_DHT, each >> 4) for each in chosen}
    return needed | {(_DHT, 0x10 | each & 0x0F) for each in chosen} <= tables


def left_to_cpu(stores: Sequence[Reader]) -> str:
    """A sentence on the stores that no device decodes, by their first patches; "" where there is none."""
    names = [shown(store.path.name) for store in stores if len(store) and not _begins_plain(store)]
    if not names:
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"--decode gpu leaves {names[0]}{more} of {len(stores)} store(s) to the CPU: their patches are no "
        "baseline YCbCr JPEGs."
    )


def _begins_plain(store: Reader) -> bool:
    if store.meta.codec == "raw":
        return False
    try:
        return is_plain(store.encoded([0])[0], store.meta.patch_size)
    except CorruptStoreError:
        return True  # one damaged patch says nothing of the others
