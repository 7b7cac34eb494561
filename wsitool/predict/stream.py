"""Patches of a slide straight from its reader, a few rows of memory at a time, decoded ahead of their use."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wsitool.slides.readers import TiledSlide
from wsitool.slides.spec import TileSpec
from wsitool.tiling.executor import executor
from wsitool.tiling.source import PatchSource, patch_source

__all__ = ["PatchBatch", "SlideStream", "open_stream"]

_AHEAD = 4  # batches decoded while the model works on one


@dataclass(frozen=True, kw_only=True)
class PatchBatch:
    """`patches` (B, P, P, 3) uint8 and the level-0 corners `coords` (B, 2) int64 they were cut at."""

    patches: NDArray[np.uint8]
    coords: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SlideStream:
    """The patches of one slide; iterate `batches()` once. `failures` grows with unreadable patches."""

    source: PatchSource
    failures: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.source.kept)

    def sampled(self, rows: NDArray[np.int64]) -> SlideStream:
        """A stream of some of the patches, by their numbers in this one."""
        return SlideStream(source=self.source.only(rows))

    def batches(self, batch_size: int, *, threads: int = 2) -> Iterator[PatchBatch]:
        """Batches in (y, x) order, read by a thread that stays at most a few batches ahead.

        All but the last have `batch_size` patches. The slide is used by the reading thread only; leaving the
        iterator early stops it. SlideError where the file changed meanwhile; any error of the reading is
        raised here.
        """
        ahead: queue.Queue[PatchBatch | BaseException | None] = queue.Queue(_AHEAD)
        # Bounded: decoded patches ahead of the network are all that grows.
        stop = threading.Event()

        def put(item: PatchBatch | BaseException | None) -> None:
            # With a time limit, since a consumer that stopped no longer takes anything.
            while not stop.is_set():
                with contextlib.suppress(queue.Full):
                    ahead.put(item, timeout=0.1)
                    break

        reader = threading.Thread(target=self._read, args=(batch_size, threads, put, stop), daemon=True)
        reader.start()
        try:
            while (item := ahead.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            # In this order: the reader ends at its next look, and nobody uses the slide when it is closed.
            stop.set()
            reader.join()

    def _read(
        self,
        batch_size: int,
        threads: int,
        put: Callable[[PatchBatch | BaseException | None], None],
        stop: threading.Event,
    ) -> None:
        source = self.source
        waiting: list[PatchBatch] = []
        try:
            with executor(threads) as pool:
                # Copied out of the buffer, which the cutter fills again at once.
                for block in self.source.blocks(np.copy, pool=pool):
                    if stop.is_set():
                        return
                    self.failures.extend(block.failures.values())
                    if block.payload is None:
                        continue
                    coords = source.grid.coords[source.kept[block.readable]]
                    waiting.append(PatchBatch(patches=block.payload, coords=coords))
                    # Blocks have other sizes than batches; `waiting` holds less than one of each.
                    while sum(len(part.coords) for part in waiting) >= batch_size:
                        first, waiting = _take(waiting, batch_size)
                        put(first)
            # After the last read: pixels of a file that was replaced meanwhile must not become a verdict.
            source.slide.check_unchanged()
            if waiting:
                put(_take(waiting, sum(len(part.coords) for part in waiting))[0])
            # The end, also where the consumer has stopped and nobody waits.
            put(None)
        except BaseException as error:  # noqa: BLE001  # handed to the thread that asked, whatever it is
            put(error)


def open_stream(slide: TiledSlide, spec: TileSpec, *, threads: int = 2) -> SlideStream:
    """Find the tissue of an open slide and prepare to read its patches: those `tile` stores by this `spec`.

    Raises SlideError (or a kind of it) where there is nothing to read at that resolution.
    """
    source = patch_source(slide, spec, threads=threads)
    if not len(source.kept):
        raise source.nothing_left()
    return SlideStream(source=source)


def _take(parts: list[PatchBatch], count: int) -> tuple[PatchBatch, list[PatchBatch]]:
    """The first `count` patches of `parts`, and the rest."""
    # Copies what is left each time: some megabytes a batch.
    patches = np.concatenate([part.patches for part in parts])
    coords = np.concatenate([part.coords for part in parts])
    rest = PatchBatch(patches=patches[count:], coords=coords[count:])
    return PatchBatch(patches=patches[:count], coords=coords[:count]), [rest] if len(rest.coords) else []
