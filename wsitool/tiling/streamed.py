"""A slide as a store that was never written: the patches that `tile` would cut, cut when they are read."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wsitool.base.open_things import OpenThings
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.urls import is_url
from wsitool.errors import CorruptStoreError, SlideError
from wsitool.slides.grid import TileGrid
from wsitool.slides.readers import TiledSlide, open_slide
from wsitool.store import jpeg
from wsitool.store.attributes import Summary
from wsitool.store.files import KnownFile
from wsitool.store.layout import Segments, Tally
from wsitool.store.opening import as_read_back
from wsitool.store.reader import Place, Reader
from wsitool.store.regions import regions_of
from wsitool.store.schema import UNLABELLED, Candidates, Failure
from wsitool.tiling.candidates import count_reasons
from wsitool.tiling.cutter import CutCounts
from wsitool.tiling.decoded_ahead import DecodedAhead
from wsitool.tiling.executor import executor
from wsitool.tiling.level_view import LevelView
from wsitool.tiling.slide_task import SlideTask, tell_of_slide
from wsitool.tiling.source import PatchSource, cut_at, patch_source
from wsitool.tiling.store_meta import meta_of

__all__ = ["Cut", "Shared", "SlidePatches", "plan_slide"]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Patches (n, P, P, 3) uint8 that were cut together; `failures` says of which the pixels mean nothing."""

    pixels: NDArray[np.uint8]
    failures: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the slides of a collection share: few of them open, squares of patches decoded ahead.

    `counts` are the tiles decoded so far, and those that each reading needed.
    """

    slides: OpenThings[TiledSlide]
    ahead: DecodedAhead[Cut]
    counts: CutCounts = field(default_factory=CutCounts)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, counts: CutCounts) -> None:
        """Add the tiles of one reading; from any thread."""
        with self.lock:
            self.counts.needed += counts.needed
            self.counts.decoded += counts.decoded
            self.counts.failed += counts.failed

    def close(self) -> None:
        self.ahead.close()
        self.slides.close()


class _NoFile:
    """In place of a store's files: there are none."""

    files: tuple[KnownFile, ...] = ()
    columns: ClassVar[Mapping[str, Any]] = {}
    reasons: tuple[str, ...] = ()

    def locate(self, indices: NDArray[np.int64]) -> Segments:
        raise SlideError("Patches of a slide are cut as they are read and lie in no file: tile it for that.")

    def column(self, name: str) -> NDArray[Any]:
        raise KeyError(name)


class SlidePatches(Reader):
    """The patches of a slide, as a reader of the store that `tile --codec raw` would write of it.

    Same patches in the same order, each with the same pixels, but for those that cannot be read: a store
    lacks them, here they are bad when they are read. `prefetch` has whole squares of neighbours decoded ahead
    of reading; a patch whose square is not there is cut alone, at the price of its tiles. 16 bytes a patch.
    """

    streamed = True

    def __init__(self, task: SlideTask, slide: TiledSlide, source: PatchSource, shared: Shared) -> None:
        kept, candidates = source.kept, source.candidates
        # Without the columns of all positions, which it keeps once it was asked.
        self._grid: TileGrid = replace(source.grid)
        self._task, self.shared, self._shrinks = task, shared, source.shrinks
        self._kept = kept.astype(np.int32)
        self._tissue = candidates.tissue[kept]
        meta = as_read_back(
            meta_of(
                slide.info,
                source.grid,
                task.spec,
                group=task.slide.group,
                classes=task.classes,
                params=task.params(),
            )
        )
        coords = candidates.coords[kept]
        summary = Summary(
            patches=len(kept),
            counts=count_reasons(candidates),
            content_hash=_identity(meta.fingerprint, meta.params, self._shrinks, coords, slide.info.reader),
        )
        super().__init__(Path(task.slide.path), meta, summary, _NoFile())
        regions = regions_of(coords, meta)
        self._region = regions.astype(np.int32)
        self._by_region = np.argsort(regions, kind="stable").astype(np.int32)
        self._first = np.searchsorted(regions[self._by_region], np.arange(regions.max() + 2))
        # Of a folder, or behind a URL, only the fingerprint tells.
        local = not is_url(task.slide.path) and Path(task.slide.path).is_file()
        self._file = KnownFile.of(task.slide.path) if local else None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """None: what cannot be read shows when it is read."""
        return ()

    @property
    def coords(self) -> NDArray[np.int64]:
        return self._grid.coords_of(self._grid.positions_of(self._kept))

    @property
    def tissue(self) -> NDArray[np.float32]:
        return self._tissue

    @cached_property
    def labels(self) -> NDArray[np.int16] | None:
        if not self._task.classes:
            return None
        label = self._task.slide.label
        return np.full(len(self), UNLABELLED if label is None else self._task.classes.index(label), np.int16)

    @property
    def sources(self) -> NDArray[np.str_] | None:
        return None

    @property
    def candidates(self) -> Candidates:
        """Found again: the slide is opened, and its tissue looked for."""
        with _opened(self._task) as slide:
            return patch_source(slide, self._task.spec, threads=self._task.threads).candidates

    def prefetch(self, rows: NDArray[np.integer[Any]]) -> None:
        for region in np.unique(self._region[rows]).tolist():
            members = self._members(region)
            size = len(members) * self._patch_bytes
            self.shared.ahead.begin((id(self), region), size, partial(self._cut, members))

    def read_into(
        self,
        indices: Sequence[int] | NDArray[np.integer[Any]],
        out: NDArray[np.uint8],
        *,
        rows: NDArray[np.int64] | None = None,
        tally: Tally | None = None,
        place: Place = jpeg.problem_of_decoding,
    ) -> None:
        """As of a store. SlideError where the slide can no longer be opened, or is another one by now."""
        asked = self._checked(indices)
        targets = np.arange(len(asked)) if rows is None else rows
        began = time.perf_counter()
        alone: list[NDArray[np.int64]] = []
        for region in np.unique(self._region[asked]).tolist():
            here = np.flatnonzero(self._region[asked] == region)
            decoded = self.shared.ahead.get((id(self), region))
            if decoded is None:
                alone.append(here)
            else:
                self._take(decoded.result(), self._members(region), asked[here], out, targets[here], tally)
        if alone:
            # Together: neighbours share tiles.
            here = np.concatenate(alone)
            members = np.unique(asked[here])
            self._take(self._cut(members), members, asked[here], out, targets[here], tally)
        if tally is not None:
            tally.decode_seconds += time.perf_counter() - began

    def encoded(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> list[bytes]:
        return [patch.tobytes() for patch in self.read(indices)]

    def check(self) -> None:
        """Raise SlideError if the slide's file was deleted, replaced or changed since its patches were found.

        Of a folder or a URL that shows only when it is read.
        """
        try:
            if self._file is not None:
                self._file.check()
        except CorruptStoreError:
            raise self._changed() from None

    def close(self) -> None:
        """Forget what is decoded and close the slides, of the whole collection; reading opens them again."""
        self.shared.close()

    def __repr__(self) -> str:
        return f"<slide {self._meta.name}: {len(self)} patches of {self._meta.patch_size} px, streamed>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("Patches that are streamed belong to one process: tile the slides for several.")

    def _members(self, region: int) -> NDArray[np.int64]:
        """The rows of a square, rising, hence in (y, x) order."""
        return self._by_region[self._first[region] : self._first[region + 1]].astype(np.int64)

    def _take(
        self,
        cut: Cut,
        members: NDArray[np.int64],
        asked: NDArray[np.int64],
        out: NDArray[np.uint8],
        targets: NDArray[np.int64],
        tally: Tally | None,
    ) -> None:
        """Copy the patches `asked` (n,) out of those of `members`, which were cut together."""
        places = np.searchsorted(members, asked)
        # One by one: an array of places would be copied twice.
        for target, place in zip(targets.tolist(), places.tolist(), strict=True):
            out[target] = cut.pixels[place]
        for i in np.flatnonzero(np.isin(places, list(cut.failures))).tolist():
            reason = cut.failures[int(places[i])]
            if tally is None:
                raise CorruptStoreError(
                    f"{self._task.slide.path}: patch {asked[i]} cannot be read ({reason}): 'wsitool tile' "
                    "leaves it out."
                )
            tally.bad.append((int(targets[i]), reason))

    def _cut(self, members: NDArray[np.int64]) -> Cut:
        """Patches by their rows, which rise; each tile under them is decoded once, in this thread."""
        positions = self._grid.positions_of(self._kept[members])
        plan, size = self._grid.plan, self._meta.patch_size
        pixels = np.empty((len(members), size, size, 3), np.uint8)
        failures: dict[int, str] = {}
        counts = CutCounts()
        with self.shared.slides.lease(self._task.slide.path, self._open) as slide, executor(1) as pool:
            view = LevelView(slide.tiles(plan.level), plan, size, fast=self._shrinks)
            # A block's buffer is its own until the next is asked for.
            for block in cut_at(view, positions, _as_they_are, pool=pool, counts=counts):
                failures |= block.failures
                if block.payload is not None and not block.failures:
                    pixels[block.start : block.stop] = block.payload
                elif block.payload is not None:
                    pixels[block.readable] = block.payload
            # After the last read: pixels of a file that was replaced meanwhile must not be trained on.
            slide.check_unchanged()
        self.shared.count(counts)
        return Cut(pixels=pixels, failures=failures)

    def _open(self) -> TiledSlide:
        slide = open_slide(self._task.slide.path, **self._task.reading.how(self._task.slide.mpp))
        if slide.info.fingerprint != self._meta.fingerprint:
            slide.close()
            raise self._changed()
        return slide

    def _changed(self) -> SlideError:
        return SlideError(
            f"'{self._task.slide.path}' was deleted or changed while it was in use: bring it back and "
            "resume the run, or start anew."
        )


@contextmanager
def _opened(task: SlideTask) -> Iterator[TiledSlide]:
    with open_slide(task.slide.path, **task.reading.how(task.slide.mpp)) as slide:
        yield slide


def plan_slide(task: SlideTask, shared: Shared, reporter: Reporter = SILENT) -> SlidePatches:
    """Find the patches of a slide as `tile` does; no pixel of them is read yet.

    SlideError (or a kind of it) where the slide cannot be tiled.
    """
    if task.slide.problem:
        raise SlideError(task.slide.problem)
    with _opened(task) as slide:
        tell_of_slide(task, slide, reporter)
        source = patch_source(slide, task.spec, threads=task.threads)
        for doubt in source.doubts:
            reporter.warn(f"{slide.info.name}: {doubt}.")
        if not len(source.kept):
            raise source.nothing_left()
        patches = SlidePatches(task, slide, source, shared)
        slide.check_unchanged()
        return patches


def _as_they_are(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels


def _identity(
    fingerprint: str, params: Mapping[str, Any], shrinks: bool, coords: NDArray[np.int64], reader: str
) -> str:
    """In place of a content hash: what the pixels follow from, as they have not been read."""
    digest = hashlib.sha256(json.dumps([fingerprint, params, shrinks, reader], sort_keys=True).encode())
    digest.update(coords.astype("<i8").tobytes())
    return f"streamed:{digest.hexdigest()}"
