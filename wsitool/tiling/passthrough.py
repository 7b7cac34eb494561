"""Codec "native": the scanner's own JPEG tiles become the patches, neither decoded nor compressed again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import RegionReadError, SlideError
from wsitool.slides.grid import TileGrid
from wsitool.slides.readers.tiles import TileLevel
from wsitool.store.preparing import prepare
from wsitool.store.schema import Prepared
from wsitool.tiling.cutter import Block
from wsitool.tiling.executor import Executor

__all__ = ["check_passthrough", "pass_tiles"]

# Many to a task: with tiles this small the task itself costs, too.
_BLOCK = 128


def check_passthrough(name: str, tiles: TileLevel, grid: TileGrid) -> None:
    """Raise SlideError, saying what would fit, unless every patch of the grid is one native JPEG tile."""
    if not tiles.passthrough:
        raise SlideError(
            f"--codec native needs JPEG tiles, and '{name}' has none here: take --codec jpeg or raw."
        )
    if grid.plan.whole_factor != 1:
        raise SlideError(
            f"--codec native takes a level of '{name}' as it is, and the resolution asked for is none of "
            "its levels: take --level, or --codec jpeg."
        )
    # A stride of whole tiles, else patches would begin inside of one.
    size = (tiles.tile_width, tiles.tile_height)
    if not all(map(grid.fills, size)):
        hint = (
            f"--patch-size {size[0]} (without --stride)"
            if size[0] == size[1]
            else "--codec jpeg or raw instead"
        )
        raise SlideError(
            f"--codec native needs patches that are native tiles; those of '{name}' are "
            f"{size[0]}x{size[1]} px: take {hint}."
        )


def pass_tiles(tiles: TileLevel, places: NDArray[np.int64], *, pool: Executor) -> Iterator[Block[Prepared]]:
    """The JPEG streams of the tiles at `places` (N, 2) column, row, in blocks, in order.

    A tile that cannot be read is in its block's failures. Streams are complete JPEGs: tables of the TIFF are
    put into each.
    """
    running: deque[tuple[int, int, Future[tuple[Prepared | None, dict[int, str]]]]] = deque()

    def read(start: int, stop: int) -> tuple[Prepared | None, dict[int, str]]:
        streams, failures = [], {}
        # Neighbours in a file, or over HTTP, are then read together.
        tiles.prefetch([(column, row) for column, row in places[start:stop].tolist()])
        for index, (column, row) in enumerate(places[start:stop].tolist(), start):
            try:
                streams.append(tiles.jpeg(column, row))
            except RegionReadError as error:
                failures[index] = str(error)
        # The digests are made here, in the pool.
        return prepare(streams, codec="native") if streams else None, failures

    def oldest() -> Block[Prepared]:
        start, stop, future = running.popleft()
        payload, failures = future.result()
        return Block(start=start, stop=stop, failures=failures, payload=payload)

    for start in range(0, len(places), _BLOCK):
        stop = min(start + _BLOCK, len(places))
        running.append((start, stop, pool.submit(partial(read, start, stop))))
        # Two tasks a thread: none idles while the caller writes.
        if len(running) > 2 * pool.threads:
            yield oldest()
    while running:
        yield oldest()
