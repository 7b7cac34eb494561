"""Slides as one collection without stores: which of them can be read, and what they share."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from wsitool.base.interrupt import raise_if_stopping
from wsitool.base.open_things import OpenThings
from wsitool.base.paths import AnyPath, as_list
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.sentences import one_sentence
from wsitool.errors import SlideError, UsageError
from wsitool.slides.masks import check_tissue
from wsitool.slides.reader_registry import READERS
from wsitool.slides.readers.channels import check_channels
from wsitool.slides.slide_list import SlideInput, find_slides
from wsitool.store.collection import Collection
from wsitool.store.opening import find_stores
from wsitool.store.regions import SQUARES_MIXED, region_bytes
from wsitool.tiling.decoded_ahead import DecodedAhead
from wsitool.tiling.run import tell_of_groups
from wsitool.tiling.slide_task import SlideTask, available_threads
from wsitool.tiling.stream_options import StreamOptions
from wsitool.tiling.streamed import Shared, SlidePatches, plan_slide

__all__ = ["Streamed", "Streaming", "stream_slides"]

_MOST_OPEN = 128  # slides; each holds the places of its tiles in memory


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """The patches of slides, cut as they are read, and (name, reason) of the slides that `failed`."""

    collection: Collection
    failed: tuple[tuple[str, str], ...]
    shared: Shared

    def close(self) -> None:
        """Close the slides and forget what was decoded ahead."""
        self.shared.close()


def stream_slides(
    slides: AnyPath | Iterable[AnyPath],
    options: StreamOptions | None = None,
    *,
    threads: int = 2,
    reporter: Reporter = SILENT,
) -> Streamed:
    """Slides (files, folders, URLs, CSVs) as a collection of the patches that `tile` would cut.

    Tissue is looked for in every slide, which takes seconds of each; no patch is read. `threads` decode ahead
    of a loader. Memory: 16 bytes a patch, and about a gigabyte of decoded ones while they are read. A slide
    that cannot be tiled does not stop the others; its error is raised where all are so. UsageError for stores
    and for options that cannot be.
    """
    options = options or StreamOptions()
    spec, reading = options.spec, options.reading
    READERS.check(reading.reader)
    check_tissue(spec.tissue)
    check_channels(reading.channels)
    if stores := [store for path in as_list(slides) for store in find_stores(path)]:
        raise UsageError(
            f"'{stores[0]}' is a patch store, and what is streamed are slides: leave out --stream."
        )
    inputs = find_slides(slides, group_regex=options.group_regex, reporter=reporter)
    tell_of_groups(inputs, reporter)
    patches, failed = _looked_through(inputs, options, _shared(spec.patch_size, threads), reporter)
    if not patches:
        raise SlideError(f"No slide can be read: {next(iter(failed.values()))}")
    return Streamed(collection=Collection.of(patches), failed=tuple(failed.items()), shared=patches[0].shared)


def _shared(patch_size: int, threads: int) -> Shared:
    # Squares that are mixed, those that come next, and half as many for patches that come late.
    squares = 3 * SQUARES_MIXED // 2 + threads
    return Shared(
        slides=OpenThings(min(_MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)),
        ahead=DecodedAhead(threads=threads, limit=squares * region_bytes(patch_size)),
    )


def _looked_through(
    inputs: Sequence[SlideInput], options: StreamOptions, shared: Shared, reporter: Reporter
) -> tuple[list[SlidePatches], dict[str, str]]:
    """The slides of which patches are kept, and by name why others are left out."""
    spec, reading = options.spec, options.reading
    classes = tuple(sorted({slide.label for slide in inputs if slide.label is not None}))
    patches: list[SlidePatches] = []
    failed: dict[str, str] = {}
    with reporter.task("finding patches", total=len(inputs), unit="slides") as task:
        for slide in inputs:
            work = SlideTask(
                slide=slide,
                out_dir=Path(),
                spec=spec,
                reader=reading.reader,
                default_mpp=reading.default_mpp,
                channels=reading.channels,
                icc=reading.icc,
                classes=classes,
                threads=available_threads(),
            )
            try:
                patches.append(plan_slide(work, shared, reporter))
            except UsageError:
                # Of the options, not of the slide.
                raise
            except Exception as error:  # noqa: BLE001 - around one slide of many
                # A signal shows as whatever error it interrupted.
                raise_if_stopping()
                failed[slide.name] = one_sentence(error)
                # At once, and in the end once more: until then hours may go by.
                reporter.warn(f"{slide.name} is left out: {failed[slide.name]}")
            task.advance(note=slide.name)
    return patches, failed


class Streaming:
    """`stream_slides` once it is asked for, closed at the end of the block; `failed` is its."""

    def __init__(
        self,
        slides: AnyPath | Iterable[AnyPath],
        options: StreamOptions,
        threads: int | None,
        reporter: Reporter,
    ) -> None:
        self._slides, self._options, self._threads, self._reporter = slides, options, threads, reporter
        self._streamed: Streamed | None = None

    def collection(self) -> Collection:
        """The patches of the slides, which are looked through now."""
        if self._streamed is None:
            self._streamed = stream_slides(
                self._slides, self._options, threads=self._threads or 2, reporter=self._reporter
            )
        return self._streamed.collection

    @property
    def failed(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of the slides that are left out."""
        return () if self._streamed is None else self._streamed.failed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._streamed is not None:
            self._streamed.close()
