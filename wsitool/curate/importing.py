"""Ready-made patch images to patch stores: one store per group, larger images cut on a grid."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.base.file_names import file_names
from wsitool.base.files import check_writable
from wsitool.base.interrupt import progress_on_stop, raise_if_stopping
from wsitool.base.lock import locked
from wsitool.base.paths import path_of, shown
from wsitool.base.progress import SILENT, Reporter, Task
from wsitool.base.sentences import one_sentence
from wsitool.curate.image_table import ImageEntry, ImageTable, read_image_table
from wsitool.curate.import_groups import ImportPlan, finished_group, write_group
from wsitool.curate.import_options import ImportOptions
from wsitool.curate.import_summary import IMAGES_CSV, ImageResult, Summary
from wsitool.report.result import Result
from wsitool.slides.readers.image import picture_size
from wsitool.store.attributes import plain_text
from wsitool.store.collection import open_collection
from wsitool.store.contact_sheet import sheet_of
from wsitool.store.opening import open_store
from wsitool.tiling.fidelity import pooled
from wsitool.tiling.slide_task import store_bytes

__all__ = ["ImageResult", "ImportResult", "choose_patch_size", "import_images"]

DEFAULT_PATCH_SIZE = 224
_LARGEST_WHOLE_PATCH = 512
# Of images.csv: rewriting it after each group would grow by the square.
_SAVE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, repr=False)
class ImportResult(Result):
    """The stores of an import, and what became of each image.

    `ignored` counts files that are no images, `unlisted` images without a row in the label table (or below
    a folder that holds images itself), `skipped` stores that an earlier import had finished. `grouped` is
    false where no groups were given. `psnr` is how far, in dB, some of the JPEG patches are from the
    images' pixels, `bytes` what all stores take.

    >>> result = wsitool.import_images("images", "imported", min_tissue=0)
    >>> result
    <ImportResult: 4 patches of 32 px in 4 stores: imported>
    >>> [row["label"] for row in result.rows]
    ['adh', 'adh', 'benign', 'benign']
    """

    stores: tuple[Path, ...]
    images: tuple[ImageResult, ...]
    classes: tuple[str, ...]
    patch_size: int
    ignored: int
    unlisted: int
    grouped: bool
    skipped: int = 0
    psnr: float | None = None
    bytes: int = 0

    @property
    def patches(self) -> int:
        """Patches in all stores."""
        return sum(image.kept for image in self.images if image.store)

    @property
    def failed(self) -> tuple[ImageResult, ...]:
        """The images that gave no patch because of an error."""
        return tuple(image for image in self.images if image.error)

    @property
    def summary(self) -> str:
        failed = f", {len(self.failed)} images failed" if self.failed else ""
        what = f"{self.patches:,} patches of {self.patch_size} px"
        return f"{what} in {len(self.stores)} stores{failed}: {self.out}"

    @property
    def facts(self) -> Mapping[str, object]:
        counts: Counter[str] = Counter()
        for image in self.images:
            counts[image.label or "unlabelled"] += image.kept
        failed = {f"failed: {image.file}": image.error for image in self.failed[:8]}
        return {**{name: f"{count:,}" for name, count in sorted(counts.items()) if count}, **failed}

    @property
    def pictures(self) -> Sequence[NDArray[np.uint8]]:
        if not self.stores:
            return ()
        # Of a dozen stores a patch each.
        with closing(open_collection(self.stores[:12])) as collection:
            return sheet_of(collection)

    @property
    def rows(self) -> Sequence[Mapping[str, object]]:
        return [asdict(image) for image in self.images]


def import_images(
    folder: str | Path, out_dir: str | Path, *, reporter: Reporter = SILENT, **options: Any
) -> ImportResult:
    """Write one store per group from the images of `folder`, and OUT/images.csv saying what became of each.

    `options` are the fields of `ImportOptions`. Labels and groups: see `read_image_table`. Images are cut on
    a grid of `patch_size` with `stride` (px, default the patch size) from their top-left corner; `patch_size`
    None is chosen by `choose_patch_size`. A patch is kept where at least `min_tissue` of its pixels have
    min(R, G, B) < 215. `mpp` states the images' resolution in um/px; nothing is resampled.

    A store that an earlier import finished in the same way is left alone; one made otherwise is only
    replaced with `overwrite`. An image or group that fails is reported in the result and does not stop the
    others. Raises UsageError or LabelError before anything is written, StoreError if another import writes
    into `out_dir`.
    """
    settings = ImportOptions.from_dict(options, what="import_images")
    folder, out_dir = Path(folder), Path(out_dir)
    # Names as stores hold them, from here on.
    table = _plain(
        read_image_table(
            folder,
            labels_csv=None if settings.labels is None else Path(settings.labels),
            group_regex=settings.group_regex,
            reporter=reporter,
        )
    )
    if settings.patch_size is None:
        # chosen from what is there, and so perhaps below what a user may ask for: checked again
        patch_size = choose_patch_size([entry.path for entry in table.entries])
        settings = replace(settings, patch_size=patch_size)
    plan = ImportPlan(folder=folder, out_dir=out_dir, classes=table.classes, options=settings)
    # Groups become file names here, before the folder is touched.
    run = _Run(plan, table, reporter)
    check_writable(out_dir)
    # The lock of the table, as it is what two imports would both write.
    with locked(out_dir / IMAGES_CSV, what=f"An import into '{out_dir}'"):
        run.run()
    return _result(run, table, plan)


def _result(run: _Run, table: ImageTable, plan: ImportPlan) -> ImportResult:
    images = tuple(row for group in run.done.values() for row in group)
    stores = tuple(sorted({plan.out_dir / row.store for row in images if row.store}))
    decibels = []
    for path in stores:
        with open_store(path) as store:
            decibels += [] if store.psnr is None else [store.psnr]
    return ImportResult(
        out=plan.out_dir,
        stores=stores,
        images=images,
        classes=table.classes,
        patch_size=plan.patch_size,
        ignored=table.ignored,
        unlisted=table.unlisted,
        grouped=table.grouped,
        skipped=run.skipped,
        psnr=pooled(decibels),
        bytes=sum(store_bytes(store) for store in stores),
    )


class _Run:
    """An import under way: group by group, with images.csv following."""

    def __init__(self, plan: ImportPlan, table: ImageTable, reporter: Reporter) -> None:
        self._plan, self._groups, self._reporter = plan, _by_group(table.entries), reporter
        self.done: dict[str, Sequence[ImageResult]] = {}
        # Under the empty name, which no group has.
        if table.unusable:
            self.done[""] = [_failed(entry, entry.problem) for entry in table.unusable]
        self.skipped = 0

    def run(self) -> None:
        total = sum(map(len, self._groups.values()))
        summary, saved = Summary(self._plan.out_dir), time.monotonic()
        # What is refused leaves the rows of the store that is there.
        listed = dict(self.done)
        progress = progress_on_stop(
            lambda: f"{sum(map(len, self.done.values()))} of {total} images done; run again to go on"
        )
        try:
            with progress, self._reporter.task("Importing", total=total, unit="images") as task:
                for name, entries in self._groups.items():
                    group = entries[0].group
                    earlier = summary.earlier.get(group, ())
                    self.done[group] = self._one(name, entries, earlier, task)
                    if not _refused(self.done[group], earlier, self._plan.out_dir):
                        listed[group] = self.done[group]
                    if time.monotonic() - saved > _SAVE_SECONDS:
                        summary.write(listed)
                        saved = time.monotonic()
        finally:
            # Also at an interrupt: what is done is told of.
            summary.write(listed)

    def _one(
        self, name: str, entries: Sequence[ImageEntry], earlier: Sequence[ImageResult], task: Task
    ) -> list[ImageResult]:
        """The rows of one group; whatever goes wrong is an error of its images alone."""
        store = f"{name}{self._plan.suffix}"
        try:
            rows = finished_group(self._plan, store, entries, earlier, self._reporter)
            if rows is None:
                return write_group(self._plan, store, entries, task)
            self.skipped += 1
            task.advance(len(entries), note=name)
            return rows
        except Exception as error:  # noqa: BLE001 - one group of many
            # A signal shows as whatever error it interrupted.
            raise_if_stopping()
            reason = one_sentence(error)
            return [_failed(entry, reason) for entry in entries]


def _failed(entry: ImageEntry, reason: str) -> ImageResult:
    return ImageResult(
        file=entry.name, label=entry.label or "", group=entry.group, store="", error=shown(reason)
    )


def _refused(rows: Sequence[ImageResult], earlier: Sequence[ImageResult], out_dir: Path) -> bool:
    """Whether nothing came of a group, and a store of it is there all the same."""
    stores = {row.store for row in earlier if row.store}
    return not any(row.store for row in rows) and any((out_dir / store).exists() for store in stores)


def _plain(table: ImageTable) -> ImageTable:
    """The same with names that a store and a table can hold: bytes that are no UTF-8 are written out."""

    def plain(entry: ImageEntry) -> ImageEntry:
        label = None if entry.label is None else plain_text(entry.label)
        return replace(entry, name=plain_text(entry.name), group=plain_text(entry.group), label=label)

    return replace(
        table,
        entries=tuple(map(plain, table.entries)),
        unusable=tuple(map(plain, table.unusable)),
        classes=tuple(map(plain_text, table.classes)),
    )


def choose_patch_size(paths: Sequence[Path]) -> int:
    """The images' own size where all are squares of one size up to 512 px (ready-made patches), else 224."""
    sizes = set()
    for path in paths:
        size = picture_size(path)
        if size is not None:  # else the import itself will say what is wrong with it
            sizes.add(size)
        if len(sizes) > 1:
            return DEFAULT_PATCH_SIZE
    for width, height in sizes:
        if width == height <= _LARGEST_WHOLE_PATCH:
            return width
    return DEFAULT_PATCH_SIZE


def _by_group(entries: Sequence[ImageEntry]) -> dict[str, list[ImageEntry]]:
    """Entries by the file name their store will have, groups in alphabetical order."""
    # groupby needs neighbours; by name within a group, so that stores do not depend on the folder's order.
    ordered = sorted(entries, key=lambda entry: (entry.group, entry.name))
    groups = {group: list(members) for group, members in groupby(ordered, key=lambda entry: entry.group)}
    plain = [re.sub(r"[^\w.+-]+", "_", group).lstrip(".") or "group" for group in groups]
    names = map(path_of, file_names(plain, list(groups)))
    return dict(zip(names, groups.values(), strict=True))
