"""Patch positions for other programs: CLAM, TRIDENT, QuPath. No pixels are copied."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wsitool.base.files import replace_file, replace_file_in_parts
from wsitool.curate.export.parts import ExportOutcome, ExportPart, ExportPlan, ExportSource, part_per_store
from wsitool.curate.export.tables import clam_tables, trident_table
from wsitool.errors import StoreError
from wsitool.report.colors import Rgb
from wsitool.report.geojson import Tiles, class_colors, collection_of, rejected_features, tissue_features
from wsitool.slides.tissue import TissueMask
from wsitool.store.attributes import clam_attributes, coords_attributes, magnifications
from wsitool.store.opening import open_store
from wsitool.store.reader import Reader
from wsitool.store.schema import UNLABELLED
from wsitool.tiling.reopening import tissue_of_store

__all__ = ["plan_clam", "plan_geojson", "plan_trident"]

_LAYERS = 3  # of the GeoJSON: an export of an earlier version is written again


def plan_clam(sources: Sequence[ExportSource], *, classes: Sequence[str], shard_size: int) -> ExportPlan:
    """A file of positions per store, for CLAM, and its lists of slides."""
    return _with_tables(part_per_store(sources, _clam_file), sources, clam_tables)


def plan_trident(sources: Sequence[ExportSource], *, classes: Sequence[str], shard_size: int) -> ExportPlan:
    """A file of positions per store, for TRIDENT, in a folder for each resolution, and a list of slides."""
    plan = _with_tables(part_per_store(sources, _trident_file), sources, trident_table)
    folders = sorted({part.made_of["file"].partition("/")[0] for part in plan.parts if not part.renewed})
    if len(folders) < 2:
        return plan
    note = (
        f"the stores are of several sizes or resolutions, so there are {len(folders)} folders, of which "
        f"TRIDENT takes one at a time (--coords_dir): {', '.join(folders)}"
    )
    return replace(plan, notes=(note,))


def _with_tables(
    plan: ExportPlan,
    sources: Sequence[ExportSource],
    tables: Callable[[Sequence[ExportSource]], list[ExportPart]],
) -> ExportPlan:
    """The plan with tables of those stores that are in it."""
    failed = {name for name, _ in plan.failed}
    listed = [source for source in sources if source.name not in failed]
    return replace(plan, parts=[*plan.parts, *tables(listed)]) if listed else plan


def plan_geojson(sources: Sequence[ExportSource], *, classes: Sequence[str], shard_size: int) -> ExportPlan:
    """A file of squares per store, for QuPath; classes keep one number and colour in all of them."""
    numbers = {name: number for number, name in enumerate(classes)}
    return part_per_store(sources, lambda source: _geojson_file(source, classes), numbers=numbers)


def _clam_file(source: ExportSource) -> ExportPart:
    """`patches/<slide>.h5` as CLAM's create_patches_fp writes it: `/coords` (N, 2) level-0 x, y."""
    attributes = clam_attributes(_of_slide(source).meta, "patches")
    return _h5_part(source, f"patches/{source.slide}.h5", attributes)


def _trident_file(source: ExportSource) -> ExportPart:
    """`<mag>x_<px>px_<overlap>px_overlap/patches/<slide>_patches.h5` in TRIDENT's convention.

    There `patch_size` counts pixels at the target magnification, see `magnifications`. StoreError where the
    store states no magnification and no mpp to derive it from.
    """
    meta = _of_slide(source).meta
    stated = magnifications(meta)
    if stated is None:
        raise StoreError(
            f"The store of '{meta.name}' states no magnification and no mpp, which TRIDENT needs: tile the "
            "slide with --default-mpp."
        )
    overlap = max(0, meta.patch_size - meta.stride)
    folder = f"{stated[1]:.3g}x_{meta.patch_size}px_{overlap}px_overlap"
    return _h5_part(source, f"{folder}/patches/{source.slide}_patches.h5", coords_attributes(meta, folder))


def _h5_part(source: ExportSource, name: str, attributes: Mapping[str, Any]) -> ExportPart:
    def write(out: Path) -> ExportOutcome:
        buffer = io.BytesIO()
        with open_store(source.path) as store, h5py.File(buffer, "w") as file:
            coords = file.create_dataset("coords", data=store.coords)
            for key, value in attributes.items():
                coords.attrs[key] = value
        replace_file(out / name, buffer.getvalue())
        return ExportOutcome(patches=source.patches)

    return ExportPart(
        name=source.name,
        made_of={"file": name, "store": source.identity, "attributes": attributes},
        files=lambda: [name],
        write=write,
        patches=source.patches,
    )


def _geojson_file(source: ExportSource, classes: Sequence[str]) -> ExportPart:
    """`<slide>.geojson` for QuPath: tissue outline, a square per patch and one per rejected position.

    `classes` are those of all stores exported: each has one colour in all files. The outline is found again
    in the slide; where that is away the member "wsitool" of the file says so.
    """
    colors = class_colors(classes)
    name = f"{_of_slide(source).slide}.geojson"

    def write(out: Path) -> ExportOutcome:
        with open_store(source.path) as store:
            mask = tissue_of_store(store.meta)
            about = {
                "slide": store.meta.name,
                "tissue": "left out: the slide is away" if mask is None else "outlined",
            }
            replace_file_in_parts(out / name, collection_of(_features(store, colors, mask), about))
        return ExportOutcome(patches=source.patches)

    return ExportPart(
        name=source.name,
        made_of={
            "file": name,
            "store": source.identity,
            "colors": {label: colors[label] for label in source.meta.classes},
            "layers": _LAYERS,
        },
        files=lambda: [name],
        write=write,
        patches=source.patches,
    )


def _features(store: Reader, colors: Mapping[str, Rgb], mask: TissueMask | None) -> Iterator[dict[str, Any]]:
    meta, candidates = store.meta, store.candidates
    if mask is not None:
        yield from tissue_features(meta.name, mask.mask, mask.downsample)
    tiles = Tiles(meta.name, meta.patch_size_level0)
    kept = candidates.reason == 0
    scores = {"tissue": store.tissue}
    scores |= {name: values[kept] for name, values in candidates.scores.items() if kept.sum() == len(store)}
    labels = np.full(len(store), UNLABELLED) if store.labels is None else store.labels
    for row, ((x, y), label) in enumerate(zip(store.coords.tolist(), labels.tolist(), strict=True)):
        measured = {n: v[row] for n, v in scores.items() if np.isfinite(v[row])}
        if label == UNLABELLED:
            yield tiles.feature(x, y, measured)
        else:
            yield tiles.feature(x, y, measured, (meta.classes[label],), colors[meta.classes[label]])
    all_scores = {"tissue": candidates.tissue, **candidates.scores}
    yield from rejected_features(tiles, candidates.coords, candidates.reason, candidates.reasons, all_scores)


def _of_slide(source: ExportSource) -> ExportSource:
    if source.of_images:
        raise source.has_no_slide()
    return source
