"""Tiling one slide: plan, find tissue, cut, store."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import RegionReadError, SlideError, UsageError
from wsitool.file_names import lone_file_name
from wsitool.grid import Limit, TileGrid, TileSpec, plan_grid
from wsitool.progress import SILENT, Reporter
from wsitool.readers import TiledSlide, open_with
from wsitool.report.preview import preview_jpeg
from wsitool.store import Prepared, create_store, prepare
from wsitool.store.schema import UNLABELLED, Candidates, Failure, Rows, StoreMeta
from wsitool.tiling.candidates import count_reasons, find_candidates, nothing_left, with_unreadable
from wsitool.tiling.canvas import Canvas, choose_shrink
from wsitool.tiling.cutter import Block, CutCounts, cut, executor, tiles_touched
from wsitool.tiling.inputs import SlideInput
from wsitool.tiling.labelling import Outlines, count_labels
from wsitool.tiling.passthrough import check_passthrough, pass_tiles
from wsitool.tiling.results import SlideResult
from wsitool.tissue import TissueMask, tissue_mask

__all__ = ["Format", "SlideTask", "available_threads", "run_task", "store_bytes"]

Format = Literal["hdf5", "zarr"]
SUFFIX: dict[Format, str] = {"hdf5": ".h5", "zarr": ".zarr"}


@dataclass(frozen=True, kw_only=True)
class SlideTask:
    """All that is needed to tile one slide, in this process or another one."""

    slide: SlideInput
    out_dir: Path
    spec: TileSpec = field(default_factory=TileSpec)
    format: Format = "hdf5"
    reader: str = "auto"
    default_mpp: float | None = None
    classes: tuple[str, ...] = ()
    threads: int = 1
    overwrite: bool = False
    max_failures: int | None = None
    dry_run: bool = False
    outlines: Outlines | None = None

    @property
    def store(self) -> Path:
        """Where the store will be."""
        return self.out_dir / f"{lone_file_name(self.slide.name)}{SUFFIX[self.format]}"

    @property
    def preview(self) -> Path:
        """Where the picture of the grid will be."""
        return self.out_dir / "previews" / f"{lone_file_name(self.slide.name)}.jpg"

    def params(self) -> dict[str, object]:
        """Everything that decides the store's content, as JSON holds it."""
        return self.spec.to_params() | {
            "reader": self.reader,
            "default_mpp": self.slide.mpp if self.slide.mpp is not None else self.default_mpp,
            "group": self.slide.group or self.slide.name,
            "label": self.slide.label,
            "classes": list(self.classes),
            **({"annotations": None} if self.outlines is None else self.outlines.params()),
        }

    def to_json(self) -> str:
        """The task as text, for another process."""
        return json.dumps(asdict(self) | {"out_dir": str(self.out_dir)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        values = json.loads(text)
        spec = values["spec"]
        limits = tuple(Limit(**limit) for limit in spec.pop("limits"))
        return cls(
            **values
            | {
                "slide": SlideInput(**values["slide"]),
                "out_dir": Path(values["out_dir"]),
                "spec": TileSpec(**spec, limits=limits),
                "classes": tuple(values["classes"]),
                "outlines": values["outlines"] and Outlines.from_dict(values["outlines"]),
            }
        )


def available_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_task(task: SlideTask, reporter: Reporter = SILENT) -> SlideResult:
    """Tile one slide into its store and preview.

    Raises SlideError (or a kind of it) where the slide cannot be tiled, StoreError where the store exists and
    `overwrite` is false; then there is no new store.
    """
    began = time.monotonic()
    if task.slide.label is not None and task.slide.label not in task.classes:
        raise UsageError(f"The label '{task.slide.label}' is none of the classes {', '.join(task.classes)}.")
    mpp = task.slide.mpp if task.slide.mpp is not None else task.default_mpp
    with open_with(task.slide.path, reader=task.reader, default_mpp=mpp) as slide:
        if slide.info.mpp_source == "objective" and task.spec.level is None:
            reporter.warn(
                f"{slide.info.name} states no mpp: {slide.info.mpp:g} um/px is assumed from its "
                f"{slide.info.objective_power:g}x objective (--default-mpp says better)."
            )
        cutting = _Cutting(task, slide, reporter)
        return cutting.run(began)


class _Cutting:
    """One slide being tiled."""

    def __init__(self, task: SlideTask, slide: TiledSlide, reporter: Reporter) -> None:
        self._task, self._slide, self._reporter = task, slide, reporter
        self._spec, self._info = task.spec, slide.info
        self._grid: TileGrid = plan_grid(slide.info, task.spec)
        self._tiles = slide.tiles(self._grid.plan.level)
        if self._spec.codec == "native":
            check_passthrough(slide.info.name, self._tiles, self._grid)
        self._counts = CutCounts()
        self._failures: list[Failure] = []
        self._failed: list[int] = []
        self._hash = ""
        self._labels: NDArray[np.int16] | None = None
        self._note = ""

    def run(self, began: float) -> SlideResult:
        mask = tissue_mask(self._slide)
        candidates = find_candidates(self._slide, self._grid, mask, self._spec, threads=self._task.threads)
        kept = np.flatnonzero(candidates.reason == 0)
        if not len(kept):
            if not self._task.dry_run:
                self._preview(mask, candidates)
            raise nothing_left(self._info.name, candidates, self._spec.all_limits)
        self._label(candidates)
        if self._task.dry_run:
            return self._result(candidates, "", time.monotonic() - began)
        resampling = self._write(candidates, kept)
        candidates = with_unreadable(candidates, np.array(self._failed, np.int64))
        self._preview(mask, candidates)
        return self._result(candidates, resampling, time.monotonic() - began)

    def _write(self, candidates: Candidates, kept: NDArray[np.int64]) -> str:
        """Cut the `kept` candidates into the store; returns how pixels were brought to their resolution."""
        task = self._task
        with (
            executor(task.threads) as pool,
            create_store(task.store, self._meta(), overwrite=task.overwrite, expected=len(kept)) as writer,
            self._reporter.task(self._info.name, total=len(kept), unit="patches") as progress,
        ):
            positions = self._grid.positions[kept]
            if self._spec.codec == "native":
                resampling = "none"
                blocks: Iterator[Block[Prepared]] = pass_tiles(
                    self._tiles, positions // self._spec.patch_size, pool=pool
                )
            else:
                canvas, resampling = self._canvas(positions)
                corners = canvas.corners(positions)
                finish = self._finisher(canvas, positions, corners)
                blocks = cut(canvas, corners, canvas.cut_size, finish, pool=pool, counts=self._counts)
            for block in blocks:
                self._note_failures(block, kept)
                if block.payload is not None:
                    writer.append(self._rows(block.payload, kept[block.readable], candidates))
                progress.advance(block.stop - block.start)
            self._slide.check_unchanged()
            if len(self._failed) == len(kept):
                raise RegionReadError(
                    f"Not one of the {len(kept)} patches of '{self._info.name}' can be read: "
                    f"{self._failures[0].reason}."
                )
            final = with_unreadable(candidates, np.array(self._failed, np.int64))
            self._hash = writer.finish(final, counts=count_reasons(final), failures=self._failures)
        return resampling

    def _canvas(self, positions: NDArray[np.int64]) -> tuple[Canvas, str]:
        plan, size = self._grid.plan, self._spec.patch_size
        canvas = Canvas(self._tiles, plan, size, fast=True)
        decibels: float | None = None
        if canvas.fast:
            tile = (canvas.tile_width, canvas.tile_height)
            needed = tiles_touched(positions[:: max(1, len(positions) // 16)], (size, size), tile)
            fast, decibels = choose_shrink(self._tiles, plan, self._spec.resample, needed)
            canvas = Canvas(self._tiles, plan, size, fast=fast)
        if canvas.resamples:
            return canvas, "area mean"
        factor = plan.whole_factor
        if factor == 1:
            return canvas, "none"
        if not canvas.fast:
            return canvas, f"{factor}x{factor} mean"
        proof = "" if decibels is None else f" ({decibels:.1f} dB from the exact mean)"
        return canvas, f"decoder's 1/{factor}{proof}"

    def _finisher(
        self, canvas: Canvas, positions: NDArray[np.int64], corners: NDArray[np.int64]
    ) -> Callable[[NDArray[np.uint8], NDArray[np.int64]], Prepared]:
        codec, quality = self._spec.codec, self._spec.quality

        def finish(pixels: NDArray[np.uint8], indices: NDArray[np.int64]) -> Prepared:
            if canvas.resamples:
                pixels = canvas.finish(pixels, positions[indices], corners[indices])
            return prepare(pixels, codec=codec, quality=quality)

        return finish

    def _note_failures(self, block: Block[Prepared], kept: NDArray[np.int64]) -> None:
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

    def _rows(self, payload: Prepared, chosen: NDArray[np.int64], candidates: Candidates) -> Rows:
        return Rows(
            patches=payload,
            coords=candidates.coords[chosen],
            tissue=candidates.tissue[chosen],
            labels=None if self._labels is None else self._labels[chosen],
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
                slide_size=(self._info.width, self._info.height),
            )
            self._labels, self._note = labelled.labels, labelled.note
            return
        value = UNLABELLED if task.slide.label is None else task.classes.index(task.slide.label)
        self._labels = np.full(number, value, np.int16)

    def _meta(self) -> StoreMeta:
        info, plan, spec = self._info, self._grid.plan, self._spec
        return StoreMeta(
            name=info.name,
            group=self._task.slide.group or info.name,
            source=info.path,
            fingerprint=info.fingerprint,
            level0_width=info.width,
            level0_height=info.height,
            patch_size=spec.patch_size,
            patch_size_level0=self._grid.patch_size_level0,
            stride=spec.step,
            stride_level0=self._grid.stride_level0,
            level=plan.level,
            mpp_level0=info.mpp,
            mpp_requested=plan.mpp_requested,
            mpp_effective=plan.mpp_effective,
            level0_magnification=info.objective_power,
            target_magnification=plan.magnification,
            codec=spec.codec,
            quality=spec.quality if spec.codec == "jpeg" else None,
            reader=info.reader,
            classes=self._task.classes,
            params=self._task.params(),
        )

    def _preview(self, mask: TissueMask, candidates: Candidates) -> None:
        preview_jpeg(self._task.preview, mask, candidates, self._grid.patch_size_level0)

    def _result(self, candidates: Candidates, resampling: str, seconds: float) -> SlideResult:
        info, plan = self._info, self._grid.plan
        counts = count_reasons(candidates)
        notes = [self._note] if self._note else []
        if self._failures:
            first = self._failures[0]
            notes.append(
                f"{len(self._failures)} patches left out as unreadable, the first at level-0 "
                f"x {first.x0}, y {first.y0}: {first.reason}"
            )
        return SlideResult(
            name=self._task.slide.name,
            path=info.path,
            status="planned" if self._task.dry_run else "done",
            reason="; ".join(notes),
            group=self._task.slide.group or info.name,
            label=self._task.slide.label or "",
            store="" if self._task.dry_run else str(self._task.store),
            reader=info.reader,
            format=info.format,
            width=info.width,
            height=info.height,
            mpp=info.mpp,
            mpp_source=info.mpp_source,
            level=plan.level,
            mpp_effective=plan.mpp_effective,
            codec=self._spec.codec,
            resampling=resampling,
            candidates=len(candidates.reason),
            kept=counts["kept"],
            unreadable=len(self._failures),
            counts=counts,
            labels=count_labels(
                None if self._labels is None else self._labels[candidates.reason == 0], self._task.classes
            ),
            needed_tiles=self._counts.needed,
            decoded_tiles=self._counts.decoded,
            bytes=0 if self._task.dry_run else store_bytes(self._task.store),
            raw_bytes=counts["kept"] * self._spec.patch_size**2 * 3,
            seconds=seconds,
            fingerprint=info.fingerprint,
            content_hash=self._hash,
        )


def store_bytes(path: Path) -> int:
    """Size on disk of a store, file or folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
