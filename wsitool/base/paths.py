"""Paths as users give them - one or many - and as text that every file, terminal and locale can hold.

Python keeps the bytes of a file name that do not fit the locale as lone surrogates. Such a name opens files,
but no UTF-8 file can hold it: text that is written or shown goes through `shown`, text that is read as a path
through `path_of`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from wsitool.errors import UsageError

__all__ = ["AnyPath", "as_list", "located", "path_of", "shown", "walked"]

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
# As `shown` writes them: bytes from 0x80, which are no UTF-8 by themselves.
_ESCAPED_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")


def as_list(given: Any, *, one: tuple[type, ...] = ()) -> list[Any]:
    """What was given as a list: a path (str, bytes, os.PathLike) or an instance of `one` counts as one item.

    Paths come back as str or Path. UsageError for what is neither such an item nor an iterable of them.
    """
    single = (str, bytes, os.PathLike, *one)
    items: list[Any] = [given] if isinstance(given, single) or not isinstance(given, Iterable) else [*given]
    for item in items:
        if not isinstance(item, single):
            raise UsageError(f"Expected a path or several, got {item!r}.")
    # bytes and other path-likes become text that opens the file in this locale.
    return [item if isinstance(item, (str, Path, *one)) else os.fsdecode(item) for item in items]


def shown(text: str | os.PathLike[str]) -> str:
    """`text` as UTF-8 can hold it: bytes of a file name that are no UTF-8 become \\xb0 and the like."""
    text = os.fspath(text)
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair, as JSON may hold: no file name has it
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def path_of(text: str) -> str:
    """The inverse of `shown`: a path that opens the file, whatever the locale."""
    # Nearly all paths: nothing was escaped.
    if text.isascii() and "\\x" not in text:
        return text
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text
    return os.fsdecode(_ESCAPED_BYTE.sub(lambda match: bytes([int(match[1], 16)]), data))


def located(folder: Path, text: str) -> Path:
    """The file in `folder` that a table's cell means, else where it should be.

    macOS composes letters otherwise than Excel, Windows parts folders otherwise, and both have spaces of
    other kinds: the spellings are tried on disk.
    """
    texts = [text, text.replace("\xa0", " ")]
    if os.sep == "/":
        # Only where a backslash may be part of a name: Windows' tables have it as separator.
        texts += [spelling.replace("\\", "/") for spelling in texts]
    composed = [unicodedata.normalize(form, spelling) for spelling in texts for form in ("NFC", "NFD")]
    # In order of likelihood; dict.fromkeys drops spellings that are the same.
    paths = [folder / path_of(spelling) for spelling in dict.fromkeys([*texts, *composed])]
    # lexists: a broken link is there, and its reader says what is wrong with it.
    return next((path for path in paths if os.path.lexists(path)), paths[0])


def walked(
    folder: Path, *, onerror: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, into linked folders as well, each once: a link to a folder above would never end."""
    entered = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        # By where they are in truth; of two links to one folder the first counts.
        real: dict[str, str] = {}
        for name in sorted(folders, reverse=True):
            real[os.path.realpath(Path(place, name))] = name
        folders[:] = sorted(name for where, name in real.items() if where not in entered)
        yield place, folders, names
        # What the caller has left, and so is entered.
        entered |= {where for where, name in real.items() if name in folders}
