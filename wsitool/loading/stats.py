"""What the loader did and where the time went."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from wsitool.store.layout import Tally

__all__ = ["BadPatch", "LoaderStats"]


@dataclass(frozen=True)
class BadPatch:
    """A patch that was skipped: its index in the collection and why."""

    index: int
    reason: str


@dataclass
class LoaderStats:
    """Totals since the loader was made; seconds of reading and decoding are summed over the threads.

    `wait_seconds` is how long the consumer stood still for data: near zero, data is not the bottleneck.
    """

    batches: int = 0
    patches: int = 0
    bytes_read: int = 0
    wait_seconds: float = 0.0
    read_seconds: float = 0.0
    decode_seconds: float = 0.0
    bad: dict[int, BadPatch] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, tally: Tally) -> None:
        """Count one batch's reading; called from reader threads."""
        with self._lock:
            self.bytes_read += tally.bytes_read
            self.read_seconds += tally.read_seconds
            self.decode_seconds += tally.decode_seconds

    def add_bad(self, patches: list[BadPatch]) -> None:
        """Note skipped patches; one that comes again in a later epoch counts once."""
        with self._lock:
            self.bad |= {patch.index: patch for patch in patches}
