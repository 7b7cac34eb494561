"""What annotation files hold: counts and areas by class, and what of them is no area."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from wsitool.base.paths import AnyPath, as_list
from wsitool.errors import LabelError, SlideError, UsageError
from wsitool.slides.annotation_files import (
    ANNOTATION_SUFFIXES,
    Annotations,
    Dropped,
    Region,
    read_annotations,
)
from wsitool.slides.readers import open_slide
from wsitool.slides.slide_folder import SLIDE_SUFFIXES
from wsitool.slides.slide_list import slide_name

__all__ = ["AnnotationFile", "ClassArea", "annotation_table", "to_dict"]


@dataclass(frozen=True, kw_only=True)
class ClassArea:
    """The outlines of one class: how many, and what they cover together, overlaps once.

    `area` is in level-0 pixels (nm2 where the file has nanometres and no slide), `area_mm2` None where the
    resolution is not known.
    """

    name: str
    outlines: int
    area: float
    area_mm2: float | None


@dataclass(frozen=True, kw_only=True)
class AnnotationFile:
    """One file: its classes by size, what was dropped, its slide and resolution; or the `problem`."""

    path: str
    format: str = ""
    classes: tuple[ClassArea, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    slide: str = ""
    mpp: float | None = None
    unit: str = "px"
    note: str = ""
    problem: str = ""


def annotation_table(
    paths: AnyPath | Iterable[AnyPath], *, slides: str | Path | None = None
) -> tuple[AnnotationFile, ...]:
    """Read annotation files, or all in folders. A file's slide, of its name, lies in `slides` or beside it.

    A file that cannot be read is told in its `problem`. UsageError where there is none.
    """
    files: list[Path] = []
    for item in map(Path, as_list(paths)):
        if not os.path.exists(item):  # noqa: PTH110 - Path's raises for a name that is too long
            raise UsageError(f"There is no annotation file or folder '{item}': check the spelling.")
        inside = sorted(path for path in item.rglob("*") if path.suffix.lower() in ANNOTATION_SUFFIXES)
        files += inside if item.is_dir() else [item]
    if not files:
        raise UsageError(f"There is no annotation file, of {', '.join(ANNOTATION_SUFFIXES)}: name one.")
    return tuple(_read(path, slides) for path in dict.fromkeys(files))


def to_dict(files: Sequence[AnnotationFile]) -> list[dict[str, Any]]:
    """As JSON holds it."""
    return [asdict(file) for file in files]


def _read(path: Path, slides: str | Path | None) -> AnnotationFile:
    try:
        annotations = read_annotations(path)
    except LabelError as error:
        return AnnotationFile(path=str(path), problem=str(error))
    slide, note = _slide_of(path, slides), ""
    if slide is not None:
        try:
            with open_slide(slide) as handle:
                annotations = annotations.on(handle.info)
                # The slide's own: what a drawing program says of it may be older.
                annotations = replace(annotations, mpp=handle.info.mpp or annotations.mpp)
        except (SlideError, LabelError) as error:
            note = str(error)
    elif annotations.unit == "nm":
        note = "its outlines are in nanometres, and the slide that says where they lie was not found"
    by_name: dict[str, list[Region]] = {}
    for region in annotations.regions:
        by_name.setdefault(region.names[0], []).append(region)
    classes = [_class(name, regions, annotations) for name, regions in by_name.items()]
    return AnnotationFile(
        path=str(path),
        format=annotations.format,
        classes=tuple(sorted(classes, key=lambda one: (-one.area, one.name))),
        dropped=annotations.dropped,
        slide="" if slide is None else str(slide),
        mpp=annotations.mpp,
        unit=annotations.unit,
        note=note,
    )


def _class(name: str, regions: Sequence[Region], annotations: Annotations) -> ClassArea:
    area = _covered(regions)
    side = 1e-6 if annotations.unit == "nm" else annotations.mpp and annotations.mpp / 1000  # mm
    return ClassArea(
        name=name, outlines=len(regions), area=area, area_mm2=None if side is None else area * side**2
    )


def _covered(regions: Sequence[Region]) -> float:
    areas = np.array([region.area for region in regions], object)
    first, second = shapely.STRtree(areas).query(areas, predicate="intersects")
    # To unite all would take as long as to read them; few touch each other.
    touching = np.zeros(len(areas), bool)
    touching[first[first != second]] = True
    return float(shapely.area(areas[~touching]).sum() + shapely.union_all(areas[touching]).area)


def _slide_of(path: Path, slides: str | Path | None) -> Path | None:
    """The slide of the same name, in `slides` (a folder, or it itself) or beside the file."""
    if slides is not None and Path(slides).is_file():
        return Path(slides)
    folder = path.parent if slides is None else Path(slides)
    if not folder.is_dir():
        raise UsageError(f"There is no slide or folder '{folder}': check --slides.")
    name = path.name
    for suffix in sorted(ANNOTATION_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return next(
        (
            other
            for other in sorted(folder.iterdir())
            if other.suffix.lower() in SLIDE_SUFFIXES and slide_name(other) == name
        ),
        None,
    )
