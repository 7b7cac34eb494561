"""Where the time of a training goes: waiting for patches, making views, and the steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

__all__ = ["Stopwatch", "TimeShares"]


class Stopwatch:
    """Seconds spent inside `running`; of a CUDA device by its own clock, without waiting for it.

    Time of CUDA devices is counted by events, read when `seconds` asks. For one thread.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._open: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Count the time of this block, whose work is on `device`."""
        if device.type != "cuda":
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        # An exception in the block ends the run, so that no `finally` is needed here.
        yield
        end.record()
        self._open.append((begin, end))

    def seconds(self) -> float:
        """So far; waits for a GPU to have run what was counted."""
        for begin, end in self._open:
            # Waits for the views of the last batch only; the events before it are over.
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000
        self._open.clear()
        return self._seconds


@dataclass(frozen=True, kw_only=True)
class TimeShares:
    """Shares of the training's time, of sum 1; `stepping` is all that is neither waiting nor augmenting."""

    waiting: float
    augmenting: float
    stepping: float

    @classmethod
    def of(cls, seconds: float, *, waiting: float, augmenting: float) -> TimeShares | None:
        """From seconds in all and in two of the three; None if no time has passed."""
        if seconds <= 0:
            return None
        # Clocks of host and device differ a little: shares stay within 0 and 1.
        waiting, augmenting = min(waiting / seconds, 1.0), min(augmenting / seconds, 1.0)
        return cls(waiting=waiting, augmenting=augmenting, stepping=max(0.0, 1 - waiting - augmenting))

    def rounded(self) -> dict[str, float]:
        """By name, to a tenth of a percent."""
        return {name: round(share, 3) for name, share in asdict(self).items()}

    def __str__(self) -> str:
        return (
            f"{self.waiting:.0%} waiting for patches, {self.augmenting:.0%} augmenting, "
            f"{self.stepping:.0%} stepping"
        )
