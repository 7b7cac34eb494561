"""Labels of patches: one for the whole slide, or from outlined regions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsitool.annotations import (
    LabelMap,
    LabelRule,
    find_annotations,
    label_patches,
    map_of_names,
    read_annotations,
    read_label_map,
)
from wsitool.errors import UsageError
from wsitool.tiling.inputs import SlideInput

__all__ = ["Outlines", "count_labels", "plan_outlines"]


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """The annotation file of one slide, and how its regions become labels."""

    path: str
    label_map: LabelMap
    rule: LabelRule = "area"

    def labels(
        self, classes: Sequence[str], coords: NDArray[np.int64], size_level0: float
    ) -> NDArray[np.int16]:
        """(M,) int16 labels of the patches at `coords`, -1 outside all regions; LabelError."""
        regions = read_annotations(self.path).regions
        return label_patches(regions, self.label_map, classes, coords, size_level0, rule=self.rule)

    def params(self) -> dict[str, Any]:
        """What decides the labels, as JSON holds it: a changed file shows in its hash."""
        digest = hashlib.sha256(Path(self.path).read_bytes()).hexdigest()[:16]
        entries = [list(entry) for entry in self.label_map.entries]
        return {"annotations": digest, "label_map": entries, "label_rule": self.rule}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, after JSON."""
        entries = tuple((name, label) for name, label in values["label_map"]["entries"])
        return cls(path=values["path"], label_map=LabelMap(entries=entries), rule=values["rule"])


def count_labels(labels: NDArray[np.int16] | None, classes: Sequence[str]) -> dict[str, int]:
    """How many patches have which class, "unlabelled" last; empty where the store has no labels."""
    if labels is None:
        return {}
    counts = np.bincount(labels + 1, minlength=len(classes) + 1)
    return {
        name: int(count) for name, count in zip((*classes, "unlabelled"), np.roll(counts, -1), strict=True)
    }


def plan_outlines(
    slides: Sequence[SlideInput], place: str | Path, label_map: str | Path | None, rule: LabelRule
) -> tuple[dict[str, Outlines], tuple[str, ...]]:
    """The annotations of each slide by slide name, and the class names all stores of the run share.

    Without a label map every name that occurs in any of the files is a class. Raises LabelError for a damaged
    file, UsageError where no slide has a file or slides have labels of their own.
    """
    if any(slide.label is not None for slide in slides):
        raise UsageError("Slides have labels in the CSV and --annotations is given: use one of the two.")
    if Path(place).is_file() and len(slides) > 1:
        raise UsageError(
            f"{len(slides)} slides cannot share the annotations '{place}': give a folder with one file per "
            "slide, named as the slide."
        )
    found = {slide.name: find_annotations(place, slide.name) for slide in slides}
    files = {name: path for name, path in found.items() if path is not None}
    if not files:
        raise UsageError(
            f"No annotations for any slide in '{place}': expected files named as the slides, as in "
            f"{slides[0].name}.xml or {slides[0].name}.geojson."
        )
    read = [read_annotations(path) for path in files.values()]
    mapping = map_of_names(read) if label_map is None else read_label_map(label_map)
    outlines = {name: Outlines(path=str(path), label_map=mapping, rule=rule) for name, path in files.items()}
    return outlines, mapping.classes
