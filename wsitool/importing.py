"""Ready-made patch images to patch stores: one store per group, larger images cut on a grid."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsitool.errors import NoTissueError, SlideError, UsageError
from wsitool.image_table import ImageEntry, read_image_table
from wsitool.paths import path_of
from wsitool.progress import SILENT, Reporter, Task
from wsitool.report.files import replace_file
from wsitool.slide import open_slide
from wsitool.store import create_store
from wsitool.store.schema import UNLABELLED, Candidates, Codec, Rows, StoreMeta, StoreWriter
from wsitool.tables import table_bytes
from wsitool.tissue import INK_LIMIT, tissue_mask_of_image

__all__ = ["DEFAULT_MIN_TISSUE", "ImageResult", "ImportResult", "choose_patch_size", "import_images"]

DEFAULT_PATCH_SIZE = 224
DEFAULT_MIN_TISSUE = 0.3
_LARGEST_WHOLE_PATCH = 512
_REASONS = ("kept", "low tissue")
_SUFFIX = {"hdf5": ".h5", "zarr": ".zarr"}


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """What became of one image: a row of images.csv. `error` is "" where all went well."""

    file: str
    label: str
    group: str
    store: str
    width: int = 0
    height: int = 0
    candidates: int = 0
    kept: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """The stores an import wrote, and what became of each image.

    `ignored` counts files that are no images, `unlisted` images without a row in the label table (or below
    a folder that holds images itself). `grouped` is false where no groups were given.
    """

    stores: tuple[Path, ...]
    images: tuple[ImageResult, ...]
    classes: tuple[str, ...]
    patch_size: int
    ignored: int
    unlisted: int
    grouped: bool

    @property
    def patches(self) -> int:
        """Patches in all stores."""
        return sum(image.kept for image in self.images if image.store)

    @property
    def failed(self) -> tuple[ImageResult, ...]:
        """The images that gave no patch because of an error."""
        return tuple(image for image in self.images if image.error)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How every image of one import is cut and stored."""

    folder: Path
    out_dir: Path
    classes: tuple[str, ...]
    patch_size: int
    stride: int
    mpp: float | None
    min_tissue: float
    codec: Codec
    quality: int
    suffix: str
    overwrite: bool


def import_images(
    folder: str | Path,
    out_dir: str | Path,
    *,
    labels_csv: str | Path | None = None,
    patch_size: int | None = None,
    stride: int | None = None,
    mpp: float | None = None,
    min_tissue: float = DEFAULT_MIN_TISSUE,
    codec: Codec = "jpeg",
    quality: int = 90,
    format: Literal["hdf5", "zarr"] = "hdf5",
    group_regex: str | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> ImportResult:
    """Write one store per group from the images of `folder`, and OUT/images.csv saying what became of each.

    Labels and groups: see `read_image_table`. Images are cut on a grid of `patch_size` with `stride` (px,
    default the patch size) from their top-left corner; `patch_size` None is chosen by `choose_patch_size`.
    A patch is kept where at least `min_tissue` of its pixels have min(R, G, B) < 215. `mpp` states the
    images' resolution in um/px; nothing is resampled. An image that cannot be read or is smaller than a patch
    is reported in the result and does not stop the others. Raises UsageError or LabelError before
    anything is written.
    """
    folder, out_dir = Path(folder), Path(out_dir)
    table = read_image_table(
        folder,
        labels_csv=None if labels_csv is None else Path(labels_csv),
        group_regex=group_regex,
        reporter=reporter,
    )
    if patch_size is None:
        patch_size = choose_patch_size([entry.path for entry in table.entries])
    plan = _Plan(
        folder=folder,
        out_dir=out_dir,
        classes=table.classes,
        patch_size=patch_size,
        stride=patch_size if stride is None else stride,
        mpp=mpp,
        min_tissue=min_tissue,
        codec=codec,
        quality=quality,
        suffix=_SUFFIX[format],
        overwrite=overwrite,
    )
    groups = _by_group(table.entries)
    _check(plan, list(groups))
    results = [_result(entry, "", error=entry.problem) for entry in table.unusable]
    with reporter.task("Importing", total=len(table.entries), unit="images") as task:
        for name, entries in groups.items():
            results += _import_group(plan, name, entries, task)
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_summary(out_dir / "images.csv", results)
    stores = sorted({out_dir / result.store for result in results if result.store})
    return ImportResult(
        stores=tuple(stores),
        images=tuple(results),
        classes=table.classes,
        patch_size=patch_size,
        ignored=table.ignored,
        unlisted=table.unlisted,
        grouped=table.grouped,
    )


def choose_patch_size(paths: Sequence[Path]) -> int:
    """The images' own size where all are squares of one size up to 512 px (ready-made patches), else 224."""
    sizes = set()
    for path in paths:
        try:
            with warnings.catch_warnings():
                # Only the header is read here; a huge image is cut, not refused.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path) as image:
                    sizes.add(image.size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # the import itself will say what is wrong with this one
        if len(sizes) > 1:
            return DEFAULT_PATCH_SIZE
    for width, height in sizes:
        if width == height <= _LARGEST_WHOLE_PATCH:
            return width
    return DEFAULT_PATCH_SIZE


def _by_group(entries: Sequence[ImageEntry]) -> dict[str, list[ImageEntry]]:
    """Entries by the file name their store will have, groups in alphabetical order."""
    ordered = sorted(entries, key=lambda entry: (entry.group, entry.name))
    groups: dict[str, list[ImageEntry]] = {}
    for group, members in groupby(ordered, key=lambda entry: entry.group):
        name = path_of(re.sub(r"[^\w.+-]+", "_", group).lstrip(".") or "group")
        if name in groups:
            raise UsageError(
                f"The groups '{groups[name][0].group}' and '{group}' would both be stored as '{name}': "
                "rename one."
            )
        groups[name] = list(members)
    return groups


def _check(plan: _Plan, names: Sequence[str]) -> None:
    for option, value, least in (("--patch-size", plan.patch_size, 8), ("--stride", plan.stride, 1)):
        if value < least:
            raise UsageError(f"{option} must be at least {least} pixels, got {value}.")
    if not 0 <= plan.min_tissue <= 1:
        raise UsageError(f"--min-tissue is a share from 0 to 1, got {plan.min_tissue:g}.")
    if plan.mpp is not None and not plan.mpp > 0:
        raise UsageError(f"--mpp is the images' resolution in um/px and must be positive, got {plan.mpp:g}.")
    present = [name for name in names if (plan.out_dir / f"{name}{plan.suffix}").exists()]
    if present and not plan.overwrite:
        raise UsageError(
            f"'{plan.out_dir}' already holds {present[0]}{plan.suffix}"
            + (f" and {len(present) - 1} more" if len(present) > 1 else "")
            + " of this import: pass --overwrite to replace them, or another --out."
        )


def _import_group(plan: _Plan, name: str, entries: Sequence[ImageEntry], task: Task) -> list[ImageResult]:
    """Write the store of one group; without any patch there is none, and every image says why."""
    store = f"{name}{plan.suffix}"
    results: list[ImageResult] = []
    found: list[Candidates] = []
    with create_store(plan.out_dir / store, _meta(plan, entries), overwrite=plan.overwrite) as writer:
        for entry in entries:
            try:
                candidates, size = _append_image(plan, writer, entry)
                found.append(candidates)
                kept = int((candidates.reason == 0).sum())
                results.append(_result(entry, store, size=size, candidates=len(candidates.coords), kept=kept))
            except SlideError as error:
                found.append(_no_candidates())
                message = str(error) if entry.path.name in str(error) else f"{entry.name}: {error}"
                results.append(_result(entry, "", error=message))
            task.advance(1, note=entry.name)
        if any(result.kept for result in results):
            joined = _join(found)
            kept = int((joined.reason == 0).sum())
            writer.finish(joined, counts={"kept": kept, "low tissue": len(joined.reason) - kept})
            return results
    empty = NoTissueError(
        f"No patch of group '{entries[0].group}' has at least {plan.min_tissue:.0%} of pixels with "
        f"min(R,G,B) < {INK_LIMIT}: lower --min-tissue."
    )
    return [
        ImageResult(**{**asdict(result), "store": "", "error": result.error or str(empty)})
        for result in results
    ]


def _append_image(plan: _Plan, writer: StoreWriter, entry: ImageEntry) -> tuple[Candidates, tuple[int, int]]:
    """Cut one image into the store; returns all its grid positions and its (width, height)."""
    size = plan.patch_size
    with open_slide(entry.path, reader="image") as slide:
        width, height = slide.info.width, slide.info.height
        if min(width, height) < size:
            raise SlideError(
                f"{entry.name} is {width} x {height} px, smaller than the patch size of {size} px: "
                f"pass --patch-size {min(width, height)} or less, or leave it out."
            )
        pixels = slide.read_region(0, 0, 0, width, height)
    corners = [
        (x, y)
        for y in range(0, height - size + 1, plan.stride)
        for x in range(0, width - size + 1, plan.stride)
    ]
    coords = np.array(corners, np.int64)
    tissue = tissue_mask_of_image(pixels).fraction(coords, size)
    keep = tissue >= plan.min_tissue
    if keep.any():
        patches = np.stack([pixels[y : y + size, x : x + size] for x, y in coords[keep]])
        writer.append(
            Rows(
                patches=patches,
                coords=coords[keep],
                tissue=tissue[keep],
                labels=_labels(plan, entry, len(patches)),
                sources=[entry.name] * len(patches),
            )
        )
    found = Candidates(coords=coords, tissue=tissue, reason=(~keep).astype(np.uint8), reasons=_REASONS)
    return found, (width, height)


def _labels(plan: _Plan, entry: ImageEntry, number: int) -> NDArray[np.int16] | None:
    if not plan.classes:
        return None
    label = UNLABELLED if entry.label is None else plan.classes.index(entry.label)
    return np.full(number, label, np.int16)


def _meta(plan: _Plan, entries: Sequence[ImageEntry]) -> StoreMeta:
    return StoreMeta(
        name=entries[0].group,
        group=entries[0].group,
        source=str(plan.folder),
        fingerprint=_fingerprint(entries),
        # Coordinates count from each image's own corner, so the store has no one slide size.
        level0_width=0,
        level0_height=0,
        patch_size=plan.patch_size,
        patch_size_level0=float(plan.patch_size),
        stride=plan.stride,
        stride_level0=float(plan.stride),
        level=0,
        mpp_level0=plan.mpp,
        mpp_requested=None,
        mpp_effective=plan.mpp,
        level0_magnification=None,
        target_magnification=None,
        codec=plan.codec,
        quality=plan.quality if plan.codec == "jpeg" else None,
        reader="image",
        classes=plan.classes,
        params={
            "command": "import",
            "min_tissue": plan.min_tissue,
            "ink_limit": INK_LIMIT,
            "images": [entry.name for entry in entries],
        },
    )


def _fingerprint(entries: Sequence[ImageEntry]) -> str:
    """One fingerprint of all images of a group: over their names and whole bytes, in hex."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(entry.name.encode())
        digest.update(hashlib.sha256(entry.path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _no_candidates() -> Candidates:
    return Candidates(
        coords=np.zeros((0, 2), np.int64),
        tissue=np.zeros(0, np.float32),
        reason=np.zeros(0, np.uint8),
        reasons=_REASONS,
    )


def _join(found: Sequence[Candidates]) -> Candidates:
    """Candidates of all images of a group; the score "image" is the image's place in params["images"]."""
    numbers = np.repeat(np.arange(len(found), dtype=np.float32), [len(one.coords) for one in found])
    return Candidates(
        coords=np.concatenate([one.coords for one in found]),
        tissue=np.concatenate([one.tissue for one in found]),
        reason=np.concatenate([one.reason for one in found]),
        reasons=_REASONS,
        scores={"image": numbers},
    )


def _result(
    entry: ImageEntry,
    store: str,
    *,
    size: tuple[int, int] = (0, 0),
    candidates: int = 0,
    kept: int = 0,
    error: str = "",
) -> ImageResult:
    return ImageResult(
        file=entry.name,
        label=entry.label or "",
        group=entry.group,
        store=store,
        width=size[0],
        height=size[1],
        candidates=candidates,
        kept=kept,
        error=error,
    )


def _write_summary(path: Path, results: Sequence[ImageResult]) -> None:
    header = [field.name for field in fields(ImageResult)]
    replace_file(path, table_bytes([header, *(list(asdict(result).values()) for result in results)]))
