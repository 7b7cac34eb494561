"""Labels of patches: one for the whole slide, or from outlined regions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import shapely
from numpy.typing import NDArray

from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import LabelError, UsageError
from wsitool.slides.annotation_files import ANNOTATION_SUFFIXES
from wsitool.slides.annotations import (
    Annotations,
    LabelMap,
    Region,
    find_annotations,
    label_patches,
    map_of_names,
    read_annotations,
    read_label_map,
)
from wsitool.slides.slide import SlideInfo
from wsitool.slides.slide_list import SlideInput
from wsitool.slides.spec import LabelRule
from wsitool.tiling.paip import disagreement

__all__ = ["LabelPlan", "Labelled", "SlideAnnotation", "count_labels", "plan_outlines"]

_NAMED_AT_MOST = 8


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The labels of candidates (M,) int16, -1 outside all regions; `note` is what the user should know."""

    labels: NDArray[np.int16]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class SlideAnnotation:
    """The annotation file of one slide, and how its regions become labels."""

    path: str
    label_map: LabelMap
    rule: LabelRule = "area"
    masks: Mapping[str, str] = field(default_factory=dict)  # of PAIP, by Id; compared with the outlines

    def label(
        self,
        classes: Sequence[str],
        coords: NDArray[np.int64],
        size_level0: float,
        *,
        kept: NDArray[np.bool_],
        slide: SlideInfo,
    ) -> Labelled:
        """Label the candidates at `coords`; LabelError where not one that is `kept` (M,) gets a class.

        That some have none is as it should be only where all outlines of the slide mean "no class".
        """
        # Read again in the worker: outlines of a large file are slow to send and quick to read.
        regions = read_annotations(self.path).on(slide).regions
        slide_size = (slide.width, slide.height)
        labels = label_patches(regions, self.label_map, classes, coords, size_level0, rule=self.rule)
        # Only kept ones: a label on glass says nothing.
        if (labels[kept] >= 0).any():
            outside = len(_outside(regions, slide_size))
            note = f"{outside} of {len(regions)} outlines lie outside the slide" if outside else ""
            notes = (note, disagreement(self.masks, regions, slide))
            return Labelled(labels=labels, note="; ".join(filter(None, notes)))
        # "No class" for all outlines is a wish, not a mistake.
        layers = {self.label_map.layer_of(region) for region in regions} - {None}
        if layers and not any(self.label_map.entries[layer][1] for layer in layers if layer is not None):
            return Labelled(labels=labels, note="all its outlines mean no class in the label map")
        raise LabelError(self._why_none(regions, int(kept.sum()), slide_size))

    # Which of three mistakes it most likely is: other names, another slide's coordinates, too large patches.
    def _why_none(self, regions: Sequence[Region], kept: int, slide_size: tuple[int, int]) -> str:
        mapped = [region for region in regions if self.label_map.layer_of(region) is not None]
        if not mapped:
            return (
                f"No outline in '{self.path}' has a name of the label map: they are called "
                f"{_names_of(regions)}, and the map names "
                f"{_some(name for name, _ in self.label_map.entries)}."
            )
        if len(_outside(mapped, slide_size)) == len(mapped):
            width, height = slide_size
            return (
                f"All outlines in '{self.path}' lie outside the slide of {width} x {height} px: they must be "
                "of this slide, in level-0 pixels."
            )
        within = "is at least half covered by" if self.rule == "area" else "has its centre in"
        return (
            f"None of the {kept} patches kept {within} an outline with a class in '{self.path}': use a "
            "smaller patch size or stride, another --label-rule, or outlines of this slide."
        )

    def params(self) -> dict[str, Any]:
        """What decides the labels, as JSON holds it: a changed file shows in its hash."""
        # The content, not the path: moved annotations are the same, edited ones are not.
        digest = hashlib.sha256(Path(self.path).read_bytes()).hexdigest()[:16]
        entries = [list(entry) for entry in self.label_map.entries]
        return {"annotations": digest, "label_map": entries, "label_rule": self.rule}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, after JSON."""
        entries = tuple((name, label) for name, label in values["label_map"]["entries"])
        return cls(
            path=values["path"],
            label_map=LabelMap(entries=entries),
            rule=values["rule"],
            masks=values["masks"],
        )


def count_labels(labels: NDArray[np.int16] | None, classes: Sequence[str]) -> dict[str, int]:
    """How many patches have which class, "unlabelled" last; empty where the store has no labels.

    `labels` (N,) int16 indices into `classes`, -1 = unlabelled.
    """
    if labels is None:
        return {}
    # Shifted by one, so that -1 has a place; rolled back to have it last.
    counts = np.bincount(labels + 1, minlength=len(classes) + 1)
    return {
        name: int(count) for name, count in zip((*classes, "unlabelled"), np.roll(counts, -1), strict=True)
    }


@dataclass(frozen=True, kw_only=True)
class LabelPlan:
    """How the slides of a run are labelled; all their stores have the same `classes`.

    By slide name: `outlines`, `problems` (why a slide that has a file cannot be labelled) and `notes`.
    """

    classes: tuple[str, ...]
    outlines: Mapping[str, SlideAnnotation]
    problems: Mapping[str, str]
    notes: Mapping[str, str]


def plan_outlines(
    slides: Sequence[SlideInput],
    location: str | Path | None,
    label_map: str | Path | None,
    rule: LabelRule,
    *,
    reporter: Reporter = SILENT,
) -> LabelPlan:
    """Find and read the annotations of each slide, at `location` or beside it, and decide on the classes.

    Without a label map every name that occurs in any of the files is a class. A damaged file only stops its
    slide, and its names are then none. Raises LabelError where no file holds a region or the label map names
    none of them, UsageError where no slide has a file or slides have labels of their own.
    """
    # Nothing to look for: each slide fails with its own problem.
    if all(slide.problem for slide in slides):
        return LabelPlan(classes=(), outlines={}, problems={}, notes={})
    files = _files(slides, location)
    annotations, problems = _read(files)
    if label_map is None:
        mapping = map_of_names(annotations.values())
    else:
        mapping = read_label_map(label_map, reporter=reporter)
        _compare(
            mapping, label_map, [region for one in annotations.values() for region in one.regions], reporter
        )
    _say_dropped(annotations, reporter)
    # The first two suffixes, which are the usual ones.
    expected = " or ".join(f"<slide>{suffix}" for suffix in ANNOTATION_SUFFIXES[:2])
    where = "beside it" if location is None else f"in '{location}'"
    without = f"no outlines of it {where} (expected {expected}), so its patches are unlabelled"
    return LabelPlan(
        classes=mapping.classes,
        outlines={
            name: SlideAnnotation(path=str(files[name]), label_map=mapping, rule=rule) for name in annotations
        },
        problems=problems,
        notes={slide.name: without for slide in slides if slide.name not in files},
    )


def _read(files: Mapping[str, Path]) -> tuple[dict[str, Annotations], dict[str, str]]:
    """The annotations with regions, and what is wrong with the others, by slide name.

    LabelError where no file has any.
    """
    annotations: dict[str, Annotations] = {}
    problems: dict[str, str] = {}
    for name, path in files.items():
        try:
            read = read_annotations(path)
        except LabelError as error:
            problems[name] = str(error)
            continue
        if read.regions:
            annotations[name] = read
        else:
            problems[name] = (
                f"'{path}' ({read.format}) holds no outline with an area, and {read.skipped} annotations "
                "without: draw areas, or take the file away to leave the slide unlabelled."
            )
    if not annotations:
        more = f", and so for {len(files) - 1} more slides" if len(files) > 1 else ""
        raise LabelError(f"{next(iter(problems.values())).rstrip('.')}{more}.")
    return annotations, problems


def _files(slides: Sequence[SlideInput], location: str | Path | None) -> dict[str, Path]:
    """The annotation file of each slide that has one, by slide name."""
    if any(slide.label is not None for slide in slides):
        raise UsageError("Slides have labels in the CSV and --annotations is given: use one of the two.")
    # A location that is one file answers to any name.
    if location is not None and len(slides) > 1 and find_annotations(location, "") == Path(location):
        raise UsageError(
            f"{len(slides)} slides cannot share the annotations '{location}': give a folder with one file "
            "per slide, named as the slide."
        )
    paths = {
        slide.name: find_annotations(location or Path(slide.path).parent, slide.name)
        for slide in slides
        if not slide.problem
    }
    files = {name: path for name, path in paths.items() if path is not None}
    if not files:
        location = location or Path(slides[0].path).parent
        there = sorted(path.name for path in Path(location).iterdir()) if Path(location).is_dir() else []
        raise UsageError(
            f"No annotations for any slide in '{location}': expected files named as the slides, as in "
            f"{slides[0].name}.xml or {slides[0].name}.geojson, and it holds {_some(there) or 'nothing'}."
        )
    return files


def _compare(mapping: LabelMap, path: str | Path, regions: Sequence[Region], reporter: Reporter) -> None:
    """LabelError where the map at `path` names none of the regions; says which of either are alone."""
    names = {name for region in regions for name in region.names}
    unused = [name for name, _ in mapping.entries if name not in names]
    if len(unused) == len(mapping.entries):
        raise LabelError(
            f"The label map '{path}' names {_some(unused)}, and no outline is called so: they are called "
            f"{_names_of(regions)}."
        )
    if unused:
        reporter.warn(f"No outline is called {_some(unused)}, which the label map '{path}' names.")
    left = [region for region in regions if mapping.layer_of(region) is None]
    if left:
        reporter.say(f"Outlines that the label map does not name are left out: {_names_of(left)}.")


def _say_dropped(annotations: Mapping[str, Annotations], reporter: Reporter) -> None:
    counts: Counter[str] = Counter()
    for one in annotations.values():
        for dropped in one.dropped:
            counts[f"{dropped.reason} ('{dropped.name}')"] += dropped.count
    if counts:
        each = _some(f"{count} x {what}" for what, count in counts.most_common())
        where = _some(name for name, one in annotations.items() if one.dropped)
        reporter.say(f"Left out of the annotations of {where}: {each}.")


def _outside(regions: Sequence[Region], slide_size: tuple[int, int]) -> list[Region]:
    slide = shapely.box(0, 0, *slide_size)
    # Touching the slide is enough.
    return [region for region in regions if not shapely.intersects(region.area, slide)]


def _names_of(regions: Sequence[Region]) -> str:
    """The regions' first names, each with how often it occurs."""
    return _some(f"{name} ({number})" for name, number in Counter(r.names[0] for r in regions).most_common())


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _NAMED_AT_MOST} more" if len(every) > _NAMED_AT_MOST else ""
    return ", ".join(every[:_NAMED_AT_MOST]) + more
