"""Cutting patches out of tiles: every needed tile is decoded once, and memory holds a few rows of patches.

Tiles are visited row by row. Threads decode a few neighbouring tiles at a time and copy each one's part into
the buffers of all the patches it touches; a block of patches is handed on, in order, once its last tile came.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import RegionReadError

__all__ = ["Block", "CutCounts", "Executor", "cut", "executor", "tiles_touched"]

RgbArray = NDArray[np.uint8]
T = TypeVar("T")
_BLOCK = 32
_TILES_PER_TASK = 32
# Enough that the threads do not run dry while the caller writes a block to disk.
_TASKS_AHEAD, _BLOCKS_AHEAD = 3, 2


class TileSource(Protocol):
    """What the cutter needs of a level."""

    tile_width: int
    tile_height: int

    def fetch(self, column: int, row: int) -> RgbArray: ...


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


class Executor(Protocol):
    """The part of an executor the cutter uses."""

    threads: int

    def submit(self, task: Callable[[], T]) -> Future[T]: ...

    def __enter__(self) -> Executor: ...

    def __exit__(self, *_: object) -> None: ...


class _Inline:
    """Runs tasks at once in the calling thread: one thread means one."""

    threads = 1

    def submit(self, task: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(task())
        return future

    def __enter__(self) -> _Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Threads:
    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="wsitool")

    def submit(self, task: Callable[[], T]) -> Future[T]:
        return self._pool.submit(task)

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def executor(threads: int) -> Executor:
    """Where tile and encoding tasks run."""
    return _Inline() if threads <= 1 else _Threads(threads)


def tiles_touched(
    corners: NDArray[np.int64], size: tuple[int, int], tile: tuple[int, int]
) -> NDArray[np.int64]:
    """The distinct tiles (N, 2) column, row under rectangles at `corners`, in (row, column) order."""
    first = corners // np.array(tile)
    last = (corners + np.array(size) - 1) // np.array(tile)
    spans = (last - first).max(axis=0) + 1 if len(corners) else (0, 0)
    found: set[tuple[int, int]] = set()
    for dy in range(spans[1]):
        for dx in range(spans[0]):
            touched = np.minimum(first + np.array((dx, dy)), last)
            found.update(zip(touched[:, 1].tolist(), touched[:, 0].tolist(), strict=True))
    return np.array([(column, row) for row, column in sorted(found)], np.int64).reshape(-1, 2)


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

    `finish(pixels (B, h, w, 3), indices (B,))` runs in the pool and makes the payload of each block; it must
    not keep `pixels`. Blocks come in order and never span two rows of patches.
    """
    cutter = _Cutter(tiles, corners, size, finish, pool, counts)
    for task in cutter.tasks():
        cutter.begin(task)
        while len(cutter.running) > _TASKS_AHEAD * (pool.threads - 1):
            cutter.settle()
            yield from cutter.ready(wait=False)
    while cutter.running:
        cutter.settle()
        yield from cutter.ready(wait=False)
    yield from cutter.ready(wait=True)


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """The patches `start` to `stop` of one block, all of one row of patches, that a task touches."""

    block: int
    start: int
    stop: int
    pairs: int


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
        for i in range(bisect_right(xs, left - width), bisect_left(xs, right)):
            x = xs[i]
            low, high = max(x, left), min(x + width, right)
            self.pixels[i, :, low - x : high - x] = rows[:, low - left : high - left]


@dataclass(kw_only=True)
class _Pending:
    """A block being filled: how many tile-patch pairs are still to come, its pixels, what failed."""

    start: int
    stop: int
    missing: int
    pixels: RgbArray | None = None
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
        tile = np.array((tiles.tile_width, tiles.tile_height))
        self._first = corners // tile
        self._last = (corners + np.array(size) - 1) // tile
        edges = np.flatnonzero(np.diff(corners[:, 1])) + 1
        self._row_ends = [0, *edges.tolist(), len(corners)] if len(corners) else [0]
        self._blocks: dict[int, _Pending] = {}
        self._block_of = np.empty(len(corners), np.int64)
        self._number_blocks()
        self._next = 0
        self.running: deque[tuple[_Task, Future[dict[int, str]]]] = deque()
        self._finishing: deque[tuple[_Pending, Future[T] | None]] = deque()
        self._spare: list[RgbArray] = []

    def _number_blocks(self) -> None:
        pairs = (self._last - self._first + 1).prod(axis=1)
        starts = [
            start
            for first, end in zip(self._row_ends[:-1], self._row_ends[1:], strict=True)
            for start in range(first, end, _BLOCK)
        ]
        missing = np.add.reduceat(pairs, starts).tolist() if starts else []
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], len(self._corners)], strict=True)):
            self._blocks[number] = _Pending(start=start, stop=stop, missing=missing[number])
            self._block_of[start:stop] = number

    def tasks(self) -> Iterator[_Task]:
        """The needed tiles in (row, column) order, a few to a task."""
        ends = self._row_ends
        top = [int(self._first[start, 1]) for start in ends[:-1]]
        bottom = [int(self._last[start, 1]) for start in ends[:-1]]
        low = row = 0
        while low < len(top):
            row = max(row, top[low])
            high = low
            while high < len(top) and top[high] <= row:
                high += 1
            members = np.concatenate(
                [np.arange(ends[i], ends[i + 1]) for i in range(low, high) if bottom[i] >= row]
            )
            yield from self._row_tasks(row, members)
            row += 1
            while low < len(top) and bottom[low] < row:
                low += 1

    def _row_tasks(self, row: int, members: NDArray[np.int64]) -> Iterator[_Task]:
        first, last = self._first[members, 0], self._last[members, 0]
        needed = np.zeros(int(last.max()) + 2, np.int64)
        np.add.at(needed, first, 1)
        np.subtract.at(needed, last + 1, 1)
        distinct = np.flatnonzero(np.cumsum(needed))
        runs = np.split(distinct, np.flatnonzero(np.diff(distinct) > 1) + 1)
        for run in runs:
            for low in range(int(run[0]), int(run[-1]) + 1, _TILES_PER_TASK):
                columns = range(low, min(low + _TILES_PER_TASK, int(run[-1]) + 1))
                yield _Task(row=row, columns=columns, segments=self._segments(members, first, last, columns))

    def _segments(
        self, members: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64], columns: range
    ) -> list[_Segment]:
        low, high = columns[0], columns[-1]
        touched = np.flatnonzero((first <= high) & (last >= low))
        pairs = np.minimum(last[touched], high) - np.maximum(first[touched], low) + 1
        patches = members[touched]
        blocks = self._block_of[patches]
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        return [
            _Segment(block=block, start=start, stop=stop + 1, pairs=number)
            for block, start, stop, number in zip(
                blocks[starts].tolist(),
                patches[starts].tolist(),
                patches[np.append(starts[1:], len(patches)) - 1].tolist(),
                np.add.reduceat(pairs, starts).tolist(),
                strict=True,
            )
        ]

    def begin(self, task: _Task) -> None:
        """Give the touched blocks buffers and submit the task."""
        for segment in task.segments:
            block = self._blocks[segment.block]
            if block.pixels is None:
                block.pixels = self._buffer()
        self._counts.needed += len(task.columns)
        self.running.append((task, self._pool.submit(lambda: self._decode(task))))

    def _buffer(self) -> RgbArray:
        # Fresh memory costs page faults for every patch, so buffers go round.
        width, height = self._size
        return self._spare.pop() if self._spare else np.empty((_BLOCK, height, width, 3), np.uint8)

    def _decode(self, task: _Task) -> dict[int, str]:
        """In a thread: decode the task's tiles into the buffers; returns column -> reason of the failed."""
        failures: dict[int, str] = {}
        targets = [self._target(task.row, segment) for segment in task.segments]
        for column in task.columns:
            try:
                tile = self._tiles.fetch(column, task.row)
            except RegionReadError as error:
                failures[column] = str(error)
                continue
            for target in targets:
                target.copy(tile, column * self._tiles.tile_width, self._tiles.tile_width)
        return failures

    def _target(self, row: int, segment: _Segment) -> _Target:
        block = self._blocks[segment.block]
        if block.pixels is None:
            raise AssertionError("a block was handed on before its last tile")
        (width, height), tile_height = self._size, self._tiles.tile_height
        top, y = row * tile_height, int(self._corners[segment.start, 1])
        low, high = max(y, top), min(y + height, top + tile_height)
        return _Target(
            xs=self._corners[segment.start : segment.stop, 0].tolist(),
            width=width,
            rows=slice(low - top, high - top),
            pixels=block.pixels[segment.start - block.start :, low - y : high - y],
        )

    def settle(self) -> None:
        """Wait for the oldest task; hand full blocks to `finish`."""
        task, future = self.running.popleft()
        failures = future.result()
        self._counts.decoded += len(task.columns)
        self._counts.failed += len(failures)
        for segment in task.segments:
            block = self._blocks[segment.block]
            block.missing -= segment.pairs
            for column, reason in failures.items():
                span = slice(segment.start, segment.stop)
                hit = (self._first[span, 0] <= column) & (self._last[span, 0] >= column)
                for patch in (segment.start + np.flatnonzero(hit)).tolist():
                    block.failures.setdefault(patch, reason)
        while self._next in self._blocks and self._blocks[self._next].missing == 0:
            self._hand_on(self._blocks.pop(self._next))
            self._next += 1

    def _hand_on(self, block: _Pending) -> None:
        readable = [i for i in range(block.start, block.stop) if i not in block.failures]
        pixels = block.pixels
        if not readable or pixels is None:
            self._finishing.append((block, None))
            return
        whole = len(readable) == block.stop - block.start
        chosen = pixels[: len(readable)] if whole else pixels[np.array(readable) - block.start]
        indices = np.array(readable, np.int64)
        self._finishing.append((block, self._pool.submit(lambda: self._finish(chosen, indices))))

    def ready(self, *, wait: bool) -> Iterator[Block[T]]:
        """The blocks whose payload is there, in order; with `wait` all, else those needed to bound memory."""
        while self._finishing:
            block, future = self._finishing[0]
            crowded = len(self._finishing) > _BLOCKS_AHEAD * self._pool.threads
            if future is not None and not (wait or crowded or future.done()):
                return
            self._finishing.popleft()
            payload = None if future is None else future.result()
            yield Block(start=block.start, stop=block.stop, failures=block.failures, payload=payload)
            if block.pixels is not None:
                self._spare.append(block.pixels)
                block.pixels = None
