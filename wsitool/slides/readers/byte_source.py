"""Bytes of a slide file, local or remote, readable from many threads at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO, Protocol

__all__ = ["ByteSource", "stem"]


class ByteSource(Protocol):
    """A file of known `size` at `path`, whose last part is `name`; `read` may be called from any thread.

    >>> wsitool.open_slide("slide.svs").tiles(0).jpeg(0, 0)[:2].hex()  # of the file no more is read
    'ffd8'
    """

    path: str
    name: str
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset`; fewer only at the end of the file. Raises OSError."""
        ...

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Say which (offset, count) will be read next; a remote file asks for them all at once."""
        ...

    def stream(self) -> BinaryIO:
        """A new file object over the same bytes; the caller closes it."""
        ...

    def changed(self) -> bool | None:
        """Whether the file at this path is another one, or of another size or time, than when it was opened.

        None where a server does not say; raises OSError where it does not answer.
        """
        ...

    def close(self) -> None: ...


def stem(name: str) -> str:
    """A file's name without its last suffix: what the slide is called."""
    # A leading dot is no suffix, and neither is a number: names of DICOM files are UIDs.
    before, _, suffix = name.rpartition(".")
    return before if before and not suffix.isdecimal() else name
