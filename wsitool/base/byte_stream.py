"""Bytes that are read by position as a file object, for libraries that want one."""

from __future__ import annotations

import errno
import io
import os
from typing import Any, Protocol

__all__ = ["SourceStream"]


class _Source(Protocol):
    @property
    def size(self) -> int: ...

    def read(self, offset: int, count: int) -> bytes: ...


class SourceStream(io.RawIOBase):
    """A source of known size as a file object; closing it closes nothing else."""

    def __init__(self, source: _Source) -> None:
        self._source, self._place = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._source.size}[whence]
        )
        if self._place < 0:
            raise OSError(errno.EINVAL, "a place before the file")
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(self._place, len(buffer)) if self._place < self._source.size else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
