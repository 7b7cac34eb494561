"""The store of one group of images: written, or left alone where an earlier import finished the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.base.paths import shown
from wsitool.base.progress import Reporter, Task
from wsitool.curate.image_table import ImageEntry
from wsitool.curate.import_options import ImportOptions
from wsitool.curate.import_summary import ImageResult
from wsitool.errors import CorruptStoreError, NoTissueError, SlideError, StoreError
from wsitool.slides.readers import open_slide
from wsitool.slides.readers.image import is_coarse_in_color
from wsitool.slides.tissue import INK_LIMIT, tissue_mask_of_image
from wsitool.store import jpeg
from wsitool.store.opening import create_store, open_store
from wsitool.store.reader import Reader
from wsitool.store.schema import SUFFIX_OF, UNLABELLED, Candidates, Rows, Sampling, StoreMeta, StoreWriter
from wsitool.tiling.fidelity import Fidelity
from wsitool.tiling.resume import difference

__all__ = ["ImportPlan", "finished_group", "write_group"]

_REASONS = ("kept", "low tissue")
_LOOKED_AT = 4  # images of a group of which a patch is decoded again to say what JPEG cost
_COMPARED = ("group", "patch_size", "stride", "mpp_level0", "codec", "quality", "classes")


@dataclass(frozen=True, kw_only=True)
class ImportPlan:
    """How every image of one import is cut and stored."""

    folder: Path
    out_dir: Path
    classes: tuple[str, ...]
    options: ImportOptions

    @property
    def patch_size(self) -> int:
        assert self.options.patch_size is not None  # chosen by now
        return self.options.patch_size

    @property
    def stride(self) -> int:
        return self.options.stride or self.patch_size

    @property
    def suffix(self) -> str:
        """Of a store's file name, with the dot."""
        return SUFFIX_OF[self.options.format]


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """An image's patches that are kept, and all its grid positions with the decision on each."""

    patches: NDArray[np.uint8]
    candidates: Candidates
    width: int
    height: int

    @property
    def kept(self) -> NDArray[np.bool_]:
        kept: NDArray[np.bool_] = self.candidates.reason == 0
        return kept


def finished_group(
    plan: ImportPlan,
    store: str,
    entries: Sequence[ImageEntry],
    earlier: Sequence[ImageResult],
    reporter: Reporter,
) -> list[ImageResult] | None:
    """The rows of a group whose store an earlier import finished in the same way, else None.

    They are the `earlier` ones, or found again where that import was ended before it wrote them. Raises
    StoreError, saying what differs, where another store is in the way; a damaged one is written again.
    """
    path = plan.out_dir / store
    if plan.options.overwrite or not path.exists():
        return None
    try:
        with open_store(path) as opened:
            differs = _difference(plan, opened, entries)
    except CorruptStoreError as error:
        reporter.warn(f"{store} is written again: {error}")
        return None
    if differs:
        raise StoreError(f"'{path}' exists and {differs}: pass --overwrite to replace it, or another --out.")
    # Rows of failed images name no store and count all the same.
    told = {row.file: row for row in earlier if row.store in ("", store)}
    if all(entry.name in told for entry in entries):
        return [told[entry.name] for entry in entries]
    # Ended between the store and the table: cut again, as only this tells what each image gave.
    return [_outcome(plan, store, entry)[0] for entry in entries]


def _difference(plan: ImportPlan, opened: Reader, entries: Sequence[ImageEntry]) -> str:
    # The fingerprint is compared apart, as it reads all images.
    stored, asked = opened.meta, _meta(plan, entries, fingerprint="")
    differs = difference(_compared(stored), _compared(asked))
    if differs:
        return differs
    # Names first: they cost nothing.
    if stored.params.get("images") != asked.params["images"] or stored.fingerprint != _fingerprint(entries):
        return "its images are others now"
    labels = {entry.name: _label(plan, entry) for entry in entries}
    if opened.labels is not None and opened.sources is not None:
        pairs = set(zip(opened.sources.tolist(), opened.labels.tolist(), strict=True))
        if any(labels.get(name) != label for name, label in pairs):
            return "its images have other labels now"
    return ""


def _compared(meta: StoreMeta) -> dict[str, Any]:
    """What decides the patches of a group, but for its images."""
    values = {name: getattr(meta, name) for name in _COMPARED} | {"classes": list(meta.classes)}
    return values | {name: value for name, value in meta.params.items() if name != "images"}


def write_group(plan: ImportPlan, store: str, entries: Sequence[ImageEntry], task: Task) -> list[ImageResult]:
    """Write the store of one group; without any patch there is none, and every image says why.

    An image that cannot be cut fails alone, in its row; StoreError or OSError where the store cannot be
    written. `task` advances by one for each image.
    """
    # The state before is compared with the one after, so that a file which grew meanwhile is noticed.
    stamps = [_stamp(entry.path) for entry in entries]  # before the fingerprint is taken of them
    sampling = _sampling(plan, entries)
    meta = _meta(plan, entries, fingerprint=_fingerprint(entries), sampling=sampling)
    results: list[ImageResult] = []
    parts: list[Candidates] = []
    fidelity = Fidelity()
    with create_store(plan.out_dir / store, meta, overwrite=True) as writer:
        for entry, stamp in zip(entries, stamps, strict=True):
            result, cut = _outcome(plan, store, entry, stamp)
            results.append(result)
            # Images without patches have candidates, too: numbers in the score "image" count all of them.
            parts.append(_no_candidates() if cut is None else cut.candidates)
            if cut is not None and result.kept:
                _append(plan, writer, entry, cut)
                if sampling is not None and len(results) <= _LOOKED_AT:
                    first = cut.patches[0]
                    fidelity.look(first, jpeg.encode(first, plan.options.quality, sampling))
            task.advance(1, note=entry.name)
        # Leaving the block without `finish` removes the store.
        if any(result.kept for result in results):
            joined = _join(parts)
            kept = int((joined.reason == 0).sum())
            counts = {"kept": kept, "low tissue": len(joined.reason) - kept}
            writer.finish(joined, counts=counts, psnr=fidelity.decibels)
            return results
    empty = NoTissueError(
        f"No patch of group '{entries[0].group}' has at least {plan.options.min_tissue:.0%} of pixels with "
        f"min(R,G,B) < {INK_LIMIT}: lower --min-tissue."
    )
    return [replace(result, store="", error=result.error or str(empty)) for result in results]


def _outcome(
    plan: ImportPlan, store: str, entry: ImageEntry, stamp: tuple[int, ...] | None = None
) -> tuple[ImageResult, _Cut | None]:
    """The row of one image, and its patches, None where it cannot be cut."""
    row = ImageResult(file=entry.name, label=entry.label or "", group=entry.group, store=store)
    try:
        cut = _cut(plan, entry)
        if stamp is not None and _stamp(entry.path) != stamp:
            raise SlideError(f"{entry.name} changed while it was read: import it again when it is complete.")
    except SlideError as error:
        text = shown(str(error))
        # Readers name the file in most of their errors.
        named = entry.name in text or shown(entry.path.name) in text
        return replace(row, store="", error=text if named else f"{entry.name}: {text}"), None
    kept = int(cut.kept.sum())
    row = replace(row, width=cut.width, height=cut.height, candidates=len(cut.candidates.coords), kept=kept)
    return row, cut


def _cut(plan: ImportPlan, entry: ImageEntry) -> _Cut:
    size = plan.patch_size
    with open_slide(entry.path, reader="image") as slide:
        width, height = slide.info.width, slide.info.height
        if min(width, height) < size:
            raise SlideError(
                f"{entry.name} is {width} x {height} px, smaller than the patch size of {size} px: "
                f"pass --patch-size {min(width, height)} or less, or leave it out."
            )
        # Whole: an image of this kind fits into memory, and was checked against the limit on pictures.
        pixels = slide.read_region(0, 0, 0, width, height)
    corners = [
        (x, y)
        for y in range(0, height - size + 1, plan.stride)
        for x in range(0, width - size + 1, plan.stride)
    ]
    coords = np.array(corners, np.int64)
    # (M,) share of pixels dark enough in any channel.
    tissue = tissue_mask_of_image(pixels).fraction(coords, size)
    keep = tissue >= plan.options.min_tissue  # reason 0 is kept, 1 low tissue, as in `_REASONS`
    patches = [pixels[y : y + size, x : x + size] for x, y in coords[keep]]
    return _Cut(
        patches=np.stack(patches) if patches else np.zeros((0, size, size, 3), np.uint8),
        candidates=Candidates(
            coords=coords, tissue=tissue, reason=(~keep).astype(np.uint8), reasons=_REASONS
        ),
        width=width,
        height=height,
    )


def _sampling(plan: ImportPlan, entries: Sequence[ImageEntry]) -> Sampling | None:
    """The color resolution of a group's JPEG patches: of "auto" 4:2:0 only where no image has more."""
    if plan.options.codec != "jpeg":
        return None
    if plan.options.subsampling != "auto":
        return plan.options.subsampling
    return "420" if all(is_coarse_in_color(entry.path) for entry in entries) else "444"


def _append(plan: ImportPlan, writer: StoreWriter, entry: ImageEntry, cut: _Cut) -> None:
    number, labels = len(cut.patches), None
    if plan.classes:
        labels = np.full(number, _label(plan, entry), np.int16)
    writer.append(
        Rows(
            patches=cut.patches,
            coords=cut.candidates.coords[cut.kept],
            tissue=cut.candidates.tissue[cut.kept],
            labels=labels,
            sources=[entry.name] * number,
        )
    )


def _label(plan: ImportPlan, entry: ImageEntry) -> int:
    return UNLABELLED if entry.label is None else plan.classes.index(entry.label)


def _meta(
    plan: ImportPlan, entries: Sequence[ImageEntry], *, fingerprint: str, sampling: Sampling | None = None
) -> StoreMeta:
    asked = plan.options.subsampling
    return StoreMeta(
        name=entries[0].group,
        group=entries[0].group,
        source=shown(str(plan.folder)),
        fingerprint=fingerprint,
        # Coordinates count from each image's own corner, so the store has no one slide size.
        level0_width=0,
        level0_height=0,
        patch_size=plan.patch_size,
        patch_size_level0=float(plan.patch_size),
        stride=plan.stride,
        stride_level0=float(plan.stride),
        level=0,
        mpp_level0=plan.options.mpp,
        mpp_requested=None,
        mpp_effective=plan.options.mpp,
        level0_magnification=None,
        target_magnification=None,
        codec=plan.options.codec,
        quality=plan.options.quality if plan.options.codec == "jpeg" else None,
        reader="image",
        subsampling=sampling,
        classes=plan.classes,
        params={
            "command": "import",
            "min_tissue": plan.options.min_tissue,
            "ink_limit": INK_LIMIT,
            "images": [entry.name for entry in entries],
            # Younger than stores that are in use, see `ADDED_OPTIONS`.
            **({} if asked == "auto" else {"subsampling": asked}),
        },
    )


def _fingerprint(entries: Sequence[ImageEntry]) -> str:
    """One fingerprint of all images of a group: over their names and whole bytes, in hex."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(entry.name.encode())
        try:
            with entry.path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:
            digest.update(b"unreadable")  # which its own row will say
    # 64 bits: to notice a change, not to withstand an attack.
    return digest.hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, ...]:
    """What tells one state of a file from another."""
    try:
        now = path.stat()
    except OSError:
        return ()
    return now.st_ino, now.st_size, now.st_mtime_ns


def _no_candidates() -> Candidates:
    return Candidates(
        coords=np.zeros((0, 2), np.int64),
        tissue=np.zeros(0, np.float32),
        reason=np.zeros(0, np.uint8),
        reasons=_REASONS,
    )


def _join(parts: Sequence[Candidates]) -> Candidates:
    """Candidates of all images of a group; the score "image" is the image's place in params["images"]."""
    # float32 counts images exactly up to 16 million.
    numbers = np.repeat(np.arange(len(parts), dtype=np.float32), [len(one.coords) for one in parts])
    return Candidates(
        coords=np.concatenate([one.coords for one in parts]),
        tissue=np.concatenate([one.tissue for one in parts]),
        reason=np.concatenate([one.reason for one in parts]),
        reasons=_REASONS,
        scores={"image": numbers},
    )
