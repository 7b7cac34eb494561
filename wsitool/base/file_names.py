"""File names made of names that come from elsewhere: of slides, groups, classes, images.

A store's name is whatever its writer put there, `../../x` included. Every output is named through here.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

__all__ = ["FileNames", "file_names", "lone_file_name", "safe_name"]

# Of the 255 bytes a file system gives a name, what is left for suffixes and for temporary names around it.
_MOST_BYTES = 200
_HASH_LETTERS = 8
_UNNAMED = "_"
# Separators of either kind end a part; the rest are letters Windows has no files with.
_SEPARATORS = re.compile(r"[/\\]+")
_REFUSED = frozenset(':*?"<>|')
# Unicode's categories of control, format, unassigned, private and surrogate letters, and of line ends.
_NO_TEXT = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))
# Devices of DOS, which Windows still has in every folder, whatever the suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|con(in|out)\$|(com|lpt)[\d\xb9\xb2\xb3])\s*(\..*)?", re.IGNORECASE)


def safe_name(name: str) -> str:
    """`name` as the name of one file, a suffix to follow; an ordinary name is returned as it is.

    Letters of every script, digits, spaces and most signs stay. Folders in it, `..`, leading dots and what
    is no text or no name on some system go or become `_`; more than 200 bytes are cut, with a short hash of
    the whole. Two names may become one: see `file_names`.
    """
    # ".." and "." are left out as parts; empty ones come from doubled separators.
    parts = [part for part in _SEPARATORS.split(name) if part.strip(" .")]
    joined = "_".join(parts)
    letters = (
        "_" if letter in _REFUSED or unicodedata.category(letter) in _NO_TEXT else letter for letter in joined
    )
    # Windows drops spaces and dots at the end; a leading dot hides a file.
    plain = "".join(letters).lstrip(" .").rstrip(" .") or _UNNAMED
    if _DEVICES.fullmatch(plain):
        plain = f"_{plain}"
    return plain if len(plain.encode()) <= _MOST_BYTES else _marked(plain, name)


def lone_file_name(name: str) -> str:
    """The file name of a thing whose fellows are not known: with a short hash wherever it is not `name`."""
    plain = safe_name(name)
    return plain if plain == name else _marked(plain, name)


def file_names(names: Sequence[str], things: Sequence[str] | None = None) -> tuple[str, ...]:
    """A file name for each of `names`, no two alike, not even where case or Unicode form do not count.

    `things` (default the names) tells two of one name apart. Of those that would share a file name, one that
    needs no change keeps it, the others get a short hash of name and thing, whatever their order.
    """
    identities = names if things is None else things
    # First those that need no change, so that they keep their names; then by name, whatever the order given.
    order = sorted(
        range(len(names)), key=lambda i: (safe_name(names[i]) != identities[i], names[i], identities[i])
    )
    given, unique = FileNames(), [""] * len(names)
    for index in order:
        unique[index] = given.give(names[index], identities[index])
    return tuple(unique)


class FileNames:
    """Gives file names one by one, where not all are known before; the first comer has the plain one.

    "Taken" is told without case and Unicode form, as some file systems do. For one thread.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether the plain file name for `name` is taken."""
        return _folded(safe_name(name)) in self._taken

    def give(self, name: str, thing: str = "") -> str:
        """The file name for `name`; another one every time, so ask once for each thing."""
        plain = unique = safe_name(name)
        salt = 0
        # A hash may be taken as well, by a name that looks like one: salted until it is free.
        while _folded(unique) in self._taken:
            unique = _marked(plain, f"{name}\0{thing}\0{salt}")
            salt += 1
        self._taken.add(_folded(unique))
        return unique


def _folded(name: str) -> str:
    """What a file system that knows neither case nor Unicode forms takes `name` for."""
    # Composed before and after: folding case can bring decomposed letters.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _marked(plain: str, identity: str) -> str:
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LETTERS]
    # Cut by bytes; half a letter at the end is dropped.
    return plain.encode()[: _MOST_BYTES - _HASH_LETTERS - 1].decode(errors="ignore") + f"-{digest}"
