"""Tiling one slide: plan, find tissue, cut, store."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsitool.base.file_names import lone_file_name
from wsitool.base.objects import listed, look_at
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.urls import RemotePath
from wsitool.errors import RegionReadError, SlideError, UsageError
from wsitool.report.preview import preview_jpeg
from wsitool.slides.coordinates import PatchCoordinates, find_coordinates, read_coordinates
from wsitool.slides.grid import ListedGrid
from wsitool.slides.masks import file_of
from wsitool.slides.read_options import ReadOptions
from wsitool.slides.readers import TiledSlide, open_slide
from wsitool.slides.slide import BLANK_TILES, ICC_STATE, Icc
from wsitool.slides.slide_list import SlideInput
from wsitool.slides.spec import ADDED_READING, TileSpec
from wsitool.store.opening import create_store
from wsitool.store.preparing import prepare
from wsitool.store.schema import (
    SUFFIX_OF,
    UNLABELLED,
    Candidates,
    Failure,
    Format,
    Prepared,
    Rows,
)
from wsitool.tiling.candidates import count_reasons, with_unreadable
from wsitool.tiling.cutter import Block
from wsitool.tiling.executor import Executor, executor
from wsitool.tiling.fidelity import Fidelity, stored_sampling
from wsitool.tiling.labelling import SlideAnnotation, count_labels
from wsitool.tiling.results import SlideResult, of_store, preview_of
from wsitool.tiling.source import patch_source
from wsitool.tiling.store_meta import meta_of

__all__ = ["SlideTask", "available_threads", "run_task", "store_bytes", "tell_of_slide"]

_LOOKED_AT = 32  # patches of a slide that are decoded again to say what JPEG cost


@dataclass(frozen=True, kw_only=True)
class SlideTask:
    """All that is needed to tile one slide, in this process or another one.

    Serialisable: `to_json` and back gives an equal task. `threads` decode within this task. `coords` is where
    positions to cut are looked for; `placed` reads them. Into `bucket`, a URL, what was made goes in the end.
    """

    slide: SlideInput
    out_dir: Path
    spec: TileSpec = field(default_factory=TileSpec)
    format: Format = "hdf5"
    reader: str = "auto"
    default_mpp: float | None = None
    channels: tuple[int, ...] = ()
    icc: Icc = "keep"
    classes: tuple[str, ...] = ()
    threads: int = 1
    overwrite: bool = False
    max_failures: int | None = None
    dry_run: bool = False
    outlines: SlideAnnotation | None = None
    coords: str | None = None
    coords_digest: str = ""
    bucket: str = ""

    @property
    def store(self) -> Path:
        """Where the store will be."""
        return self.out_dir / f"{lone_file_name(self.slide.name)}{SUFFIX_OF[self.format]}"

    @property
    def preview(self) -> Path:
        """Where the picture of the grid will be."""
        return preview_of(self.out_dir, self.slide.name)

    @property
    def reading(self) -> ReadOptions:
        """How the slide is opened."""
        return ReadOptions(
            reader=self.reader, default_mpp=self.default_mpp, channels=self.channels, icc=self.icc
        )

    def params(self) -> dict[str, object]:
        """Everything that decides the store's content, as JSON holds it.

        Compared with a store's own to tell whether it is what this task would write; threads and format are
        not among them.
        """
        how = self.reading.how(self.slide.mpp)
        # Younger than stores that are in use, see `ADDED_READING`.
        added = {name: how[name] for name in ADDED_READING if how[name] != getattr(ReadOptions, name)}
        return self.spec.to_params() | {
            "reader": self.reader,
            # What was used, wherever it came from.
            "default_mpp": how["default_mpp"],
            **added,
            "group": self.slide.group or self.slide.name,
            "label": self.slide.label,
            "classes": list(self.classes),
            **self._mask_params(),
            # By content: the positions may lie in another file or folder tomorrow.
            **({"coords": self.coords_digest} if self.coords_digest else {}),
            # Present as None, so that a store made with outlines differs from one without.
            **({"annotations": None} if self.outlines is None else self.outlines.params()),
        }

    def _mask_params(self) -> dict[str, str]:
        # The content as well as the path: an edited mask gives other patches.
        path = file_of(self.spec.tissue, self.slide.path, self.slide.name)
        return {} if path is None else {"tissue_file": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}

    def placed(self) -> tuple[Self, PatchCoordinates | None]:
        """The task with the spec that its positions ask for, and these; itself and None where it has none."""
        if self.coords is None:
            return self, None
        found = read_coordinates(find_coordinates(self.coords, self.slide.name), self.slide.name)
        return replace(self, spec=found.spec(self.spec), coords_digest=found.digest), found

    def to_json(self) -> str:
        """The task as text, for another process."""
        return json.dumps(asdict(self) | {"out_dir": str(self.out_dir)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(
            **values
            | {
                "slide": SlideInput(**values["slide"]),
                "out_dir": Path(values["out_dir"]),
                "spec": TileSpec.from_params(values["spec"]),
                "classes": tuple(values["classes"]),
                "channels": tuple(values["channels"]),
                "outlines": values["outlines"] and SlideAnnotation.from_dict(values["outlines"]),
            }
        )


def available_threads() -> int:
    """Processors this process may use."""
    # What a cluster or container has granted, not what the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_task(
    task: SlideTask, reporter: Reporter = SILENT, positions: PatchCoordinates | None = None
) -> SlideResult:
    """Tile one slide into its store and preview, at `positions` where they are given.

    Raises SlideError (or a kind of it) where the slide cannot be tiled, StoreError where the store exists and
    `overwrite` is false; then there is no new store.
    """
    began = time.monotonic()
    if task.slide.label is not None and task.slide.label not in task.classes:
        raise UsageError(f"The label '{task.slide.label}' is none of the classes {', '.join(task.classes)}.")
    with open_slide(task.slide.path, **task.reading.how(task.slide.mpp)) as slide:
        tell_of_slide(task, slide, reporter)
        cutting = _Cutting(task, slide, reporter, positions)
        return cutting.run(began)


def tell_of_slide(task: SlideTask, slide: TiledSlide, reporter: Reporter) -> None:
    """What was taken for granted when `slide` was opened."""
    if slide.info.mpp_source == "objective" and task.spec.level is None:
        reporter.warn(
            f"{slide.info.name} states no mpp: {slide.info.mpp:g} um/px is assumed from its "
            f"{slide.info.objective_power:g}x objective (--default-mpp says better)."
        )
    if blank := slide.info.properties.get(BLANK_TILES):
        reporter.warn(f"{slide.info.name} leaves {blank} of its own tiles out: they count as blank.")
    if task.icc != "keep":
        reporter.say(f"{slide.info.name}: {slide.info.properties[ICC_STATE]}.")


class _Cutting:
    """One slide being tiled."""

    def __init__(
        self, task: SlideTask, slide: TiledSlide, reporter: Reporter, positions: PatchCoordinates | None
    ) -> None:
        self._task, self._slide, self._reporter, self._positions = task, slide, reporter, positions
        self._spec, self._info = task.spec, slide.info
        # Finds tissue and scores candidates: seconds, before anything is written.
        corners = None if positions is None else positions.coords
        self._source = patch_source(slide, task.spec, threads=task.threads, corners=corners)
        for doubt in self._source.doubts:
            reporter.warn(f"{self._info.name}: {doubt}.")
        self._grid = self._source.grid
        self._failures: list[Failure] = []
        self._failed: list[int] = []
        self._hash = ""
        self._sampling = stored_sampling(self._spec.subsampling, slide.tiles(self._grid.plan.level))
        self._meta = meta_of(
            self._info,
            self._grid,
            task.spec,
            group=task.slide.group,
            classes=task.classes,
            params=task.params(),
            sampling=self._sampling,
        )
        self._fidelity = Fidelity()
        self._labels: NDArray[np.int16] | None = None
        self._note = ""

    def run(self, began: float) -> SlideResult:
        candidates = self._source.candidates
        if not len(self._source.kept):
            if not self._task.dry_run:
                # The picture shows why nothing was left.
                self._preview(candidates)
            raise self._source.nothing_left()
        # Before cutting: outlines that label nothing stop a slide before its hours of work.
        self._label(candidates)
        if self._task.dry_run:
            return self._result(candidates, "", time.monotonic() - began)
        self._write(candidates)
        # After cutting, so that the picture shows patches that could not be read.
        candidates = with_unreadable(candidates, np.array(self._failed, np.int64))
        self._preview(candidates)
        return self._result(candidates, self._source.resampling, time.monotonic() - began)

    def _write(self, candidates: Candidates) -> None:
        """Cut the kept candidates into the store."""
        task, kept = self._task, self._source.kept
        with (
            executor(task.threads) as pool,
            create_store(task.store, self._meta, overwrite=task.overwrite, expected=len(kept)) as writer,
            self._reporter.task(self._info.name, total=len(kept), unit="patches") as progress,
        ):
            for block in self._blocks(pool):
                self._note_failures(block, kept)
                if block.payload is not None:
                    writer.append(self._rows(block.payload, kept[block.readable], candidates))
                # Unreadable ones, too: they are dealt with.
                progress.advance(block.stop - block.start)
            # Before `finish`: a file that was replaced under way must not become a store.
            self._slide.check_unchanged()
            if len(self._failed) == len(kept):
                raise RegionReadError(
                    f"Not one of the {len(kept)} patches of '{self._info.name}' can be read: "
                    f"{self._failures[0].reason}."
                )
            final = with_unreadable(candidates, np.array(self._failed, np.int64))
            self._hash = writer.finish(
                final,
                counts=count_reasons(final),
                failures=self._failures,
                psnr=self._fidelity.decibels,
                note=self._notes(),
            )

    def _blocks(self, pool: Executor) -> Iterator[Block[Prepared]]:
        codec, quality, sampling = self._spec.codec, self._spec.quality, self._sampling
        if codec == "native":
            yield from self._source.native_blocks(pool=pool)
            return

        def convert(pixels: NDArray[np.uint8]) -> tuple[Prepared, NDArray[np.uint8]]:
            return prepare(pixels, codec=codec, quality=quality, sampling=sampling), pixels[
                len(pixels) // 2
            ].copy()

        step, due = max(1, len(self._source.kept) // _LOOKED_AT), 0
        for block in self._source.blocks(convert, pool=pool):
            payload, middle = block.payload or (None, None)
            # In the order of the patches, so that the figure does not depend on the threads.
            if payload is not None and middle is not None and codec == "jpeg" and block.start >= due:
                self._fidelity.look(middle, payload.data[len(payload) // 2])
                due += step
            yield Block(start=block.start, stop=block.stop, failures=block.failures, payload=payload)

    def _note_failures(self, block: Block[Prepared], kept: NDArray[np.int64]) -> None:
        # By position, though threads may have met them in another order.
        for index, reason in sorted(block.failures.items()):
            x0, y0 = self._grid.coords[kept[index]].tolist()
            self._failures.append(Failure(x0=x0, y0=y0, reason=reason))
            self._failed.append(int(kept[index]))
        limit = self._task.max_failures
        if limit is not None and len(self._failures) > limit:
            raise SlideError(
                f"More than {limit} patches of '{self._info.name}' cannot be read (the first at level-0 "
                f"x {self._failures[0].x0}, y {self._failures[0].y0}: {self._failures[0].reason}): raise "
                "--max-failures to keep the others."
            )

    def _rows(self, payload: Prepared, rows: NDArray[np.int64], candidates: Candidates) -> Rows:
        return Rows(
            patches=payload,
            coords=candidates.coords[rows],
            tissue=candidates.tissue[rows],
            labels=None if self._labels is None else self._labels[rows],
        )

    def _label(self, candidates: Candidates) -> None:
        """Label all candidates (M,), where the run has classes."""
        task, number = self._task, len(candidates.reason)
        if not task.classes:
            return
        if task.outlines is not None:
            labelled = task.outlines.label(
                task.classes,
                candidates.coords,
                self._grid.patch_size_level0,
                kept=candidates.reason == 0,
                slide=self._info,
            )
            self._labels, self._note = labelled.labels, labelled.note
            return
        value = UNLABELLED if task.slide.label is None else task.classes.index(task.slide.label)
        self._labels = np.full(number, value, np.int16)

    def _preview(self, candidates: Candidates) -> None:
        preview_jpeg(
            self._task.preview,
            self._source.mask,
            candidates,
            self._grid.patch_size_level0,
            labels=None if self._labels is None else self._labels[candidates.reason == 0],
            classes=self._task.classes,
        )

    def _note_of_positions(self) -> str:
        """What became of positions that were given and not cut; "" where all were."""
        if self._positions is None or not isinstance(self._grid, ListedGrid):
            return ""
        left_out = [
            (self._grid.outside, "as their patches reach over the slide's edge"),
            (self._positions.repeated, "as they are there twice"),
        ]
        parts = [f"{number:,} {why}" for number, why in left_out if number]
        return f"positions of '{self._positions.path.name}' left out: {', '.join(parts)}" if parts else ""

    def _notes(self) -> str:
        """What is worth knowing of the slide beside its figures; "" for nothing."""
        notes = [note for note in (self._note, self._note_of_positions()) if note]
        if self._failures:
            first = self._failures[0]
            notes.append(
                f"{len(self._failures)} patches left out as unreadable, the first at level-0 "
                f"x {first.x0}, y {first.y0}: {first.reason}"
            )
        return "; ".join(notes)

    def _result(self, candidates: Candidates, resampling: str, seconds: float) -> SlideResult:
        info = self._info
        return SlideResult(
            name=self._task.slide.name,
            path=info.path,
            status="planned" if self._task.dry_run else "done",
            reason=self._notes(),
            label=self._task.slide.label or "",
            store="" if self._task.dry_run else str(self._task.store),
            resampling=resampling,
            unreadable=len(self._failures),
            labels=count_labels(
                None if self._labels is None else self._labels[candidates.reason == 0], self._task.classes
            ),
            needed_tiles=self._source.counts.needed,
            decoded_tiles=self._source.counts.decoded,
            bytes=0 if self._task.dry_run else store_bytes(self._task.store),
            seconds=seconds,
            content_hash=self._hash,
            psnr=self._fidelity.decibels,
            **of_store(self._meta, count_reasons(candidates)),
        )


def store_bytes(path: Path) -> int:
    """Size on disk of a store, file or folder."""
    if isinstance(path, RemotePath):
        remote = look_at(str(path))
        return sum(each.size for each in listed(str(path)).values()) if remote is None else remote.size
    if path.is_file():
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
