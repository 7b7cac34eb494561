"""Small text files that people made: read with a limit, and decoded whatever Windows saved them as."""

from __future__ import annotations

import codecs
from collections import Counter
from pathlib import Path

from wsitool.errors import WsitoolError

__all__ = ["MOST_BYTES", "decode_text", "read_bytes"]

# Labels of a million images are 50 MB.
MOST_BYTES = 512 * 2**20
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls

# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8 with a byte order mark"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_HANGUL_LEADS = range(0xB0, 0xC9)  # of KS X 1001, in which nearly all Korean text stays


def read_bytes(path: Path, *, what: str, error: type[WsitoolError]) -> bytes:
    """The bytes of the `what` at `path`; `error` where that is no regular file, or above 512 MiB.

    `error` too for a workbook (.xlsx, .ods, .xls), told by its first bytes. Nothing is read of a pipe.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise error(f"The {what} '{path}' cannot be read: it is no regular file.")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise error(f"The {what} '{path}' has {size:,} bytes, more than {MOST_BYTES:,}: split it.")
        data = path.read_bytes()
    except (OSError, ValueError) as reason:
        why = (reason.strerror if isinstance(reason, OSError) else None) or reason
        raise error(f"The {what} '{path}' cannot be read: {why}.") from reason
    if data.startswith(_WORKBOOKS):
        raise error(f"The {what} '{path}' is a workbook: save it from the spreadsheet as CSV UTF-8.")
    return data


def decode_text(data: bytes) -> tuple[str, str]:
    """The text of `data` without its mark, and the name of the encoding it was read as.

    What is no UTF-8 is cp949 where its letters make common Korean syllables, else cp1252 where they stand
    alone or in pairs, as accents and umlauts do. ValueError where it is neither.
    """
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(codec), name
    # Asked before UTF-8, which takes zero bytes for letters.
    for first, codec in ((1, "utf-16-le"), (0, "utf-16-be")):
        # Western text as UTF-16 without a mark: every other byte is zero.
        if len(data) >= 4 and data[first::2].count(0) > 0.6 * (len(data) // 2):
            return data.decode(codec), "UTF-16"
    try:
        return data.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError as error:
        # Korean first: nearly any bytes are cp1252, few are cp949.
        for codec, plausible in (("cp949", _is_korean), ("cp1252", _is_western)):
            text = _decoded(data, codec)
            if text is not None and plausible(text, data):
                return text, codec
        raise ValueError(
            f"it is neither UTF-8 ({error.reason} at byte {error.start}) nor cp949 or cp1252"
        ) from None


def _decoded(data: bytes, codec: str) -> str | None:
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return None


def _is_korean(text: str, data: bytes) -> bool:
    letters = {letter: count for letter, count in Counter(text).items() if not letter.isascii()}
    codes = {letter: letter.encode("cp949") for letter in letters}
    # First byte of the rows of common syllables, second in the range of the standard.
    common = [letter for letter, code in codes.items() if code[0] in _HANGUL_LEADS and code[1] > 0xA0]
    return sum(letters[letter] for letter in common) >= 0.5 * sum(letters.values())


def _is_western(text: str, data: bytes) -> bool:
    marked = "".join(" " if letter.isascii() else "x" for letter in text)
    runs = Counter(len(run) for run in marked.split())
    # Accents stand alone or in pairs; longer runs are another encoding's.
    short, total = runs[1] + 2 * runs[2], sum(length * count for length, count in runs.items())
    return b"\0" not in data and short >= 0.5 * total
