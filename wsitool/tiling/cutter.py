"""Cutting patches out of tiles: every needed tile is decoded once, and memory holds a few rows of patches.

Tiles are visited row by row. Threads decode a few neighbouring tiles at a time and copy each one's part into
the buffers of all the patches it touches; a block of patches is handed on, in order, once its last tile came.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import RegionReadError
from wsitool.tiling.executor import Executor
from wsitool.tiling.tile_buffers import Buffers

__all__ = ["Block", "CutCounts", "cut", "tiles_touched"]

RgbArray = NDArray[np.uint8]
T = TypeVar("T")
# Patches of a block, 4.8 MB at 224 px.
_BLOCK = 32
# Of one row and side by side: their patches are mostly the same, and a remote file is read in one go.
_TILES_PER_TASK = 32
# Enough that the threads do not run dry while the caller writes a block to disk.
_TASKS_AHEAD, _BLOCKS_AHEAD = 4, 3


class TileSource(Protocol):
    """What the cutter needs of a level."""

    tile_width: int
    tile_height: int

    def fetch(self, column: int, row: int) -> RgbArray: ...

    def prefetch(self, columns: range, row: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Block(Generic[T]):
    """Patches `start` to `stop` of the order given; `failures` maps those that could not be read to a reason.

    `payload` is what `finish` made of the readable ones; None where there is none.
    """

    start: int
    stop: int
    failures: dict[int, str]
    payload: T | None

    @property
    def readable(self) -> NDArray[np.int64]:
        """Indices of the patches in `payload`."""
        return np.array([i for i in range(self.start, self.stop) if i not in self.failures], np.int64)


@dataclass(kw_only=True)
class CutCounts:
    """Tiles needed, decoded, and among these failed; they grow while patches are cut."""

    needed: int = 0
    decoded: int = 0
    failed: int = 0


def tiles_touched(
    corners: NDArray[np.int64], size: tuple[int, int], tile: tuple[int, int]
) -> NDArray[np.int64]:
    """The distinct tiles (N, 2) column, row under rectangles at `corners`, in (row, column) order.

    `corners` (N, 2), `size` and `tile` are (x, y), or (width, height), in the same pixels.
    """
    first = corners // np.array(tile)
    # First and last tile (N, 2) under each rectangle; -1, as a rectangle that ends on an edge does not touch
    # the next.
    last = (corners + np.array(size) - 1) // np.array(tile)
    # As many rounds as the widest rectangle needs; the minimum makes the others count their last tile again.
    spans = (last - first).max(axis=0) + 1 if len(corners) else (0, 0)
    touched_tiles: set[tuple[int, int]] = set()
    for dy in range(spans[1]):
        for dx in range(spans[0]):
            touched = np.minimum(first + np.array((dx, dy)), last)
            touched_tiles.update(zip(touched[:, 1].tolist(), touched[:, 0].tolist(), strict=True))
    return np.array([(column, row) for row, column in sorted(touched_tiles)], np.int64).reshape(-1, 2)


def cut(
    tiles: TileSource,
    corners: NDArray[np.int64],
    size: tuple[int, int],
    finish: Callable[[RgbArray, NDArray[np.int64]], T],
    *,
    pool: Executor,
    counts: CutCounts,
) -> Iterator[Block[T]]:
    """Cut rectangles of `size` (width, height) at `corners` (N, 2), sorted by (y, x), out of tiles.

    `finish(pixels (B, h, w, 3), indices (B,))` runs in the pool and makes the payload of each block; what it
    keeps of `pixels` stays until one more payload was yielded and the block after that is asked for. Blocks
    come in order and never span two rows of patches.
    """
    cutter = _Cutter(tiles, corners, size, finish, pool, counts)
    for task in cutter.tasks():
        cutter.begin(task)
        # One thread is the caller's: nothing runs ahead of it.
        while len(cutter.running) > _TASKS_AHEAD * (pool.threads - 1):
            # Bounds what is decoded and not yet written.
            cutter.settle()
            yield from cutter.ready(wait=False)
    while cutter.running:
        cutter.settle()
        yield from cutter.ready(wait=False)
    yield from cutter.ready(wait=True)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One row of patches, `start` to `stop`: their `y`, their sorted `xs`, the tiles under them."""

    start: int
    stop: int
    y: int
    xs: list[int]
    top: int
    bottom: int
    columns: NDArray[np.bool_]
    first_block: int


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """The patches `start` to `stop` of one block that a task touches; a `final` one makes it full."""

    row: _Row
    block: int
    start: int
    stop: int
    final: bool


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Some neighbouring tiles of one row, and the patches they touch."""

    row: int
    columns: range
    segments: list[_Segment]


@dataclass(frozen=True, kw_only=True)
class _Target:
    """Where a row of tiles goes: patches at `xs`, the `rows` of a tile they share, their pixels there."""

    xs: list[int]
    width: int
    rows: slice
    pixels: RgbArray

    def copy(self, tile: RgbArray, left: int, tile_width: int) -> None:
        """Copy what a tile, whose first column is `left`, has of each patch."""
        rows, xs, width, right = tile[self.rows], self.xs, self.width, left + tile_width
        # Patches that begin right of the tile's left edge less their width, and left of its right edge, by
        # bisection.
        for i in range(bisect_right(xs, left - width), bisect_left(xs, right)):
            x = xs[i]
            low, high = max(x, left), min(x + width, right)
            # Parts of one buffer that no other tile has: tasks write side by side without a lock.
            self.pixels[i, :, low - x : high - x] = rows[:, low - left : high - left]


@dataclass(kw_only=True)
class _Pending:
    """A block being filled: its pixels, what failed, whether all of it has come."""

    start: int
    stop: int
    pixels: RgbArray
    full: bool = False
    failures: dict[int, str] = field(default_factory=dict)


class _Cutter(Generic[T]):
    def __init__(
        self,
        tiles: TileSource,
        corners: NDArray[np.int64],
        size: tuple[int, int],
        finish: Callable[[RgbArray, NDArray[np.int64]], T],
        pool: Executor,
        counts: CutCounts,
    ) -> None:
        self._tiles, self._corners, self._size = tiles, corners, size
        self._finish, self._pool, self._counts = finish, pool, counts
        self._blocks: dict[int, _Pending] = {}
        self._next = 0
        self.running: deque[tuple[_Task, Future[dict[int, str]]]] = deque()
        self._finishing: deque[tuple[_Pending, Future[T] | None]] = deque()
        self._lent: RgbArray | None = None
        self._buffers = Buffers((_BLOCK, size[1], size[0], 3))

    def _rows(self) -> Iterator[_Row]:
        """The rows of patches from the top; made one by one, as a slide may have millions of patches."""
        # Corners are sorted by y: a new row begins wherever y changes, or x falls, as two positions may share
        # a row of a coarse level only.
        right, down = np.diff(self._corners, axis=0).T
        edges = (np.flatnonzero((down != 0) | (right < 0)) + 1).tolist()
        (width, height), first_block = self._size, 0
        for start, stop in pairwise([0, *edges, len(self._corners)]):
            xs, y = self._corners[start:stop, 0], int(self._corners[start, 1])
            first, last = xs // self._tiles.tile_width, (xs + width - 1) // self._tiles.tile_width
            # +1 where a patch's tiles begin, -1 after they end: the running sum is the number of patches over
            # each column.
            steps = np.zeros(int(last[-1]) + 2, np.int64)
            np.add.at(steps, first, 1)
            np.subtract.at(steps, last + 1, 1)
            yield _Row(
                start=start,
                stop=stop,
                y=y,
                xs=xs.tolist(),
                top=y // self._tiles.tile_height,
                bottom=(y + height - 1) // self._tiles.tile_height,
                columns=np.cumsum(steps) > 0,
                first_block=first_block,
            )
            # Whole blocks, the last of a row shorter: no block spans two rows.
            first_block += -(-(stop - start) // _BLOCK)

    def tasks(self) -> Iterator[_Task]:
        """The needed tiles in (row, column) order, a few to a task."""
        if not len(self._corners):
            return
        coming = self._rows()
        following: _Row | None = next(coming)
        active: list[_Row] = []
        row = 0
        while active or following is not None:
            # Straight to the next row of patches: glass in between is never visited.
            if not active and following is not None:
                row = following.top
            while following is not None and following.top <= row:
                active.append(following)
                following = next(coming, None)
            yield from self._row_tasks(row, active)
            # Rows of patches that end in this row of tiles are complete.
            active = [patches for patches in active if patches.bottom > row]
            row += 1

    def _row_tasks(self, row: int, active: list[_Row]) -> Iterator[_Task]:
        needed = np.zeros(max(len(patches.columns) for patches in active), np.bool_)
        for patches in active:
            needed[: len(patches.columns)] |= patches.columns
        # Gaps are tiles under no patch: a task never crosses one, so none is decoded in vain.
        distinct = np.flatnonzero(needed)
        for run in np.split(distinct, np.flatnonzero(np.diff(distinct) > 1) + 1):
            end = int(run[-1]) + 1
            for low in range(int(run[0]), end, _TILES_PER_TASK):
                columns = range(low, min(low + _TILES_PER_TASK, end))
                segments = [part for patches in active for part in self._segments(row, patches, columns)]
                yield _Task(row=row, columns=columns, segments=segments)

    def _segments(self, row: int, patches: _Row, columns: range) -> Iterator[_Segment]:
        low, high = self._touched(patches.xs, columns)
        right = columns.stop * self._tiles.tile_width
        while low < high:
            # The block of the first patch, within its row.
            number = low // _BLOCK
            block_stop = min((number + 1) * _BLOCK, len(patches.xs))
            stop = min(high, block_stop)
            # The block's last patch ends within these columns, and the row within this row of tiles: nothing
            # more comes.
            done = stop == block_stop and patches.xs[stop - 1] + self._size[0] <= right
            yield _Segment(
                row=patches,
                block=patches.first_block + number,
                start=patches.start + low,
                stop=patches.start + stop,
                final=done and patches.bottom == row,
            )
            low = stop

    def _touched(self, xs: list[int], columns: range) -> tuple[int, int]:
        """Where those of sorted `xs` begin and end whose patches touch the tile `columns`."""
        left, right = (edge * self._tiles.tile_width for edge in (columns.start, columns.stop))
        return bisect_right(xs, left - self._size[0]), bisect_left(xs, right)

    def begin(self, task: _Task) -> None:
        """Give the touched blocks buffers and submit the task."""
        # In the caller's thread, so that the buffers need no lock.
        for segment in task.segments:
            if segment.block not in self._blocks:
                start = segment.row.start + (segment.block - segment.row.first_block) * _BLOCK
                stop = min(start + _BLOCK, segment.row.stop)
                self._blocks[segment.block] = _Pending(start=start, stop=stop, pixels=self._buffers.take())
        self._counts.needed += len(task.columns)
        targets = [self._target(task.row, segment) for segment in task.segments]
        self.running.append((task, self._pool.submit(lambda: self._decode(task, targets))))

    def _decode(self, task: _Task, targets: list[_Target]) -> dict[int, str]:
        """In a thread: decode the task's tiles into the buffers; returns column -> reason of the failed."""
        failures: dict[int, str] = {}
        width = self._tiles.tile_width
        self._tiles.prefetch(task.columns, task.row)
        for column in task.columns:
            try:
                tile = self._tiles.fetch(column, task.row)
            except RegionReadError as error:
                # A tile fails once for all patches over it; the others go on.
                failures[column] = str(error)
                continue
            for target in targets:
                target.copy(tile, column * width, width)
        return failures

    def _target(self, row: int, segment: _Segment) -> _Target:
        block, patches = self._blocks[segment.block], segment.row
        (width, height), tile_height = self._size, self._tiles.tile_height
        top, y = row * tile_height, patches.y
        low, high = max(y, top), min(y + height, top + tile_height)
        return _Target(
            xs=patches.xs[segment.start - patches.start : segment.stop - patches.start],
            width=width,
            # The tile's rows that the patch has, and where in the patch they belong.
            rows=slice(low - top, high - top),
            pixels=block.pixels[segment.start - block.start :, low - y : high - y],
        )

    def settle(self) -> None:
        """Wait for the oldest task; hand full blocks to `finish`.

        Tasks settle in the order they began, so a block is full with its final segment. Where patches
        overlap, blocks of the next row may be full before the last ones of this.
        """
        task, future = self.running.popleft()
        failures = future.result()
        self._counts.decoded += len(task.columns)
        self._counts.failed += len(failures)
        for segment in task.segments:
            for column, reason in failures.items():
                # Only patches over the failed column, and of these only the segment's own.
                low, high = self._touched(segment.row.xs, range(column, column + 1))
                first, stop = segment.row.start + low, segment.row.start + high
                for patch in range(max(first, segment.start), min(stop, segment.stop)):
                    # The first reason stays, though several tiles of a patch may fail.
                    self._blocks[segment.block].failures.setdefault(patch, reason)
            self._blocks[segment.block].full = segment.final
        while self._next in self._blocks and self._blocks[self._next].full:
            self._hand_on(self._blocks.pop(self._next))
            self._next += 1

    def _hand_on(self, block: _Pending) -> None:
        readable = [i for i in range(block.start, block.stop) if i not in block.failures]
        pixels = block.pixels
        if not readable:
            self._finishing.append((block, None))
            return
        is_complete = len(readable) == block.stop - block.start
        # Fancy indexing copies: a block with holes costs one more pass over its pixels.
        payload = pixels[: len(readable)] if is_complete else pixels[np.array(readable) - block.start]
        indices = np.array(readable, np.int64)
        self._finishing.append((block, self._pool.submit(lambda: self._finish(payload, indices))))

    def ready(self, *, wait: bool) -> Iterator[Block[T]]:
        """The blocks whose payload is there, in order; with `wait` all, else those needed to bound memory."""
        while self._finishing:
            block, future = self._finishing[0]
            # Blocks that wait hold buffers: beyond this many the oldest is waited for.
            crowded = len(self._finishing) > _BLOCKS_AHEAD * self._pool.threads
            if future is not None and not (wait or crowded or future.done()):
                return
            self._finishing.popleft()
            # Raises what `finish` raised, in the caller's thread and in the order of blocks.
            payload = None if future is None else future.result()
            yield Block(start=block.start, stop=block.stop, failures=block.failures, payload=payload)
            # The caller may still be writing this one while it takes the next.
            done, self._lent = (
                (self._lent, block.pixels) if payload is not None else (block.pixels, self._lent)
            )
            if done is not None:
                self._buffers.give_back(done)
