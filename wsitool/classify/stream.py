"""Patches of a slide straight from its reader, a few rows of memory at a time, decoded ahead of their use."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsitool.grid import TileGrid, TileSpec, plan_grid
from wsitool.readers import TiledSlide
from wsitool.tiling.candidates import find_candidates, nothing_left
from wsitool.tiling.canvas import Canvas, choose_shrink
from wsitool.tiling.cutter import Block, CutCounts, cut, executor, tiles_touched
from wsitool.tissue import TissueMask, tissue_mask

__all__ = ["PatchBatch", "SlideStream", "open_stream"]

_AHEAD = 4  # batches decoded while the model works on one


@dataclass(frozen=True, kw_only=True)
class PatchBatch:
    """`patches` (B, P, P, 3) uint8 and the level-0 corners `coords` (B, 2) int64 they were cut at."""

    patches: NDArray[np.uint8]
    coords: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SlideStream:
    """The tissue patches of one slide; iterate `batches()` once. `failures` grows with unreadable patches."""

    slide: TiledSlide
    grid: TileGrid
    mask: TissueMask
    kept: NDArray[np.int64]
    spec: TileSpec
    failures: list[str]

    def __len__(self) -> int:
        return len(self.kept)

    def batches(self, batch_size: int, *, threads: int = 2) -> Iterator[PatchBatch]:
        """Batches in (y, x) order, read by a thread that stays at most a few batches ahead."""
        ahead: queue.Queue[PatchBatch | BaseException | None] = queue.Queue(_AHEAD)
        stop = threading.Event()

        def put(item: PatchBatch | BaseException | None) -> None:
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
            stop.set()
            reader.join()

    def _read(
        self,
        batch_size: int,
        threads: int,
        put: Callable[[PatchBatch | BaseException | None], None],
        stop: threading.Event,
    ) -> None:
        waiting: list[PatchBatch] = []
        try:
            with executor(threads) as pool:
                for block in self._blocks(pool):
                    if stop.is_set():
                        return
                    self.failures.extend(block.failures.values())
                    if block.payload is None:
                        continue
                    coords = self.grid.coords[self.kept[block.readable]]
                    waiting.append(PatchBatch(patches=block.payload, coords=coords))
                    while sum(len(part.coords) for part in waiting) >= batch_size:
                        first, waiting = _take(waiting, batch_size)
                        put(first)
            self.slide.check_unchanged()
            if waiting:
                put(_take(waiting, sum(len(part.coords) for part in waiting))[0])
            put(None)
        except BaseException as error:  # noqa: BLE001  # handed to the thread that asked, whatever it is
            put(error)

    def _blocks(self, pool: object) -> Iterator[Block[NDArray[np.uint8]]]:
        plan, size = self.grid.plan, self.spec.patch_size
        tiles = self.slide.tiles(plan.level)
        positions = self.grid.positions[self.kept]
        canvas = Canvas(tiles, plan, size, fast=True)
        if canvas.fast:
            tile = (canvas.tile_width, canvas.tile_height)
            needed = tiles_touched(positions[:: max(1, len(positions) // 16)], (size, size), tile)
            fast, _ = choose_shrink(tiles, plan, self.spec.resample, needed)
            canvas = Canvas(tiles, plan, size, fast=fast)
        corners = canvas.corners(positions)

        def finish(pixels: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
            if canvas.resamples:
                return canvas.finish(pixels, positions[indices], corners[indices])
            return pixels.copy()  # the cutter uses the memory again

        return cut(canvas, corners, canvas.cut_size, finish, pool=pool, counts=CutCounts())  # type: ignore[arg-type]


def open_stream(slide: TiledSlide, spec: TileSpec, *, threads: int = 2) -> SlideStream:
    """Find the tissue of an open slide and prepare to read its patches: those `tile` stores by this `spec`.

    Raises SlideError (or a kind of it) where there is nothing to read at that resolution.
    """
    grid = plan_grid(slide.info, spec)
    mask = tissue_mask(slide)
    candidates = find_candidates(slide, grid, mask, spec, threads=threads)
    kept = np.flatnonzero(candidates.reason == 0)
    if not len(kept):
        raise nothing_left(slide.info.name, candidates, spec.all_limits)
    return SlideStream(slide=slide, grid=grid, mask=mask, kept=kept, spec=spec, failures=[])


def _take(parts: list[PatchBatch], count: int) -> tuple[PatchBatch, list[PatchBatch]]:
    """The first `count` patches of `parts`, and the rest."""
    patches = np.concatenate([part.patches for part in parts])
    coords = np.concatenate([part.coords for part in parts])
    rest = PatchBatch(patches=patches[count:], coords=coords[count:])
    return PatchBatch(patches=patches[:count], coords=coords[:count]), [rest] if len(rest.coords) else []
