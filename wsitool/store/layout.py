"""Where a store's patches lie, and what reading them cost: between the formats and their one reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsitool.store.columns import Found
from wsitool.store.remote_files import StoredFile

__all__ = ["Layout", "Segments", "Tally"]


@dataclass(frozen=True)
class Segments:
    """Byte ranges to read, in the order of the rows asked for; a row may need several of them.

    `row` (S,) is the position in the request, `file` (S,) the file's number, `start` and `length` (S,) bytes.
    """

    row: NDArray[np.int64]
    file: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]


class Layout(Protocol):
    """What a format knows: its files, where patches lie in them, and its columns.

    `columns` by schema name ("coords", "candidates/x") have been checked for shape and size.
    """

    @property
    def files(self) -> tuple[StoredFile, ...]: ...

    @property
    def columns(self) -> Mapping[str, Found]: ...

    @property
    def reasons(self) -> tuple[str, ...]: ...

    def locate(self, indices: NDArray[np.int64]) -> Segments: ...

    def column(self, name: str) -> NDArray[Any]:
        """A whole column of those there are, its values unchecked; CorruptStoreError if it cannot be read."""
        ...


@dataclass
class Tally:
    """What reading cost, and which rows were bad; one per thread, or per batch."""

    read_seconds: float = 0.0
    decode_seconds: float = 0.0
    bytes_read: int = 0
    # (row of the output, why), see `Reader.read_into`.
    bad: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count what `other` counted."""
        self.read_seconds += other.read_seconds
        self.decode_seconds += other.decode_seconds
        self.bytes_read += other.bytes_read
        self.bad += other.bad
