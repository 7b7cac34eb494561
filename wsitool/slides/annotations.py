"""From outlined regions to a label per patch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from wsitool.base.paths import located
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.tables import read_table
from wsitool.base.text_files import decode_text, read_bytes
from wsitool.errors import LabelError, UsageError
from wsitool.slides.annotation_files import ANNOTATION_SUFFIXES, Annotations, Region, read_annotations
from wsitool.slides.painting import cover_of_centers, cover_of_patches
from wsitool.slides.spec import LabelRule
from wsitool.store.schema import UNLABELLED

_OWN_LAYER = "wsitool: "
# A share just reached, but for the rounding of its parts.
_ROUNDING = 1e-9

__all__ = [
    "Annotations",
    "LabelMap",
    "Region",
    "find_annotations",
    "label_patches",
    "map_of_names",
    "read_annotations",
    "read_label_map",
]


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """Which class each region name means, in order: later entries are painted over earlier ones.

    None as class erases: patches there are unlabelled. Regions whose names are not listed do not count.
    """

    entries: tuple[tuple[str, str | None], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, sorted."""
        return tuple(sorted({label for _, label in self.entries if label is not None}))

    def layer_of(self, region: Region) -> int | None:
        """The place in `entries` of the first of the region's names that is listed there."""
        # The map's order decides what is painted over what, the region's which of its names counts.
        names = [name for name, _ in self.entries]
        return next((names.index(name) for name in region.names if name in names), None)


def map_of_names(annotations: Iterable[Annotations]) -> LabelMap:
    """The label map used where none is given: every region's first name is its class.

    But for the layers that `export` and `predict` add for QuPath, which are subclasses of "wsitool".
    """
    # Sorted names: without a map the classes and their numbers do not depend on the order of files.
    names = {region.names[0] for annotation in annotations for region in annotation.regions}
    names = {name for name in names if not name.startswith(_OWN_LAYER)}
    return LabelMap(entries=tuple((name, name) for name in sorted(names)))


def read_label_map(path: str | Path, *, reporter: Reporter = SILENT) -> LabelMap:
    """Read a label map: JSON {name: class or null}, or a table with the columns name and label.

    Names are those of regions (class, group, or an ImageScope Id). LabelError if it is neither, or a name is
    empty or there twice.
    """
    path = Path(path)
    data = read_bytes(path, what="label map", error=LabelError)
    # By suffix or by its first letter, since tables are named .txt and .csv.
    is_json = path.suffix.lower() == ".json" or data.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] in (b"{", b"[")
    entries = _json_entries(path, data) if is_json else _table_entries(path, reporter)
    names = [name for name, _ in entries]
    if "" in names:
        raise LabelError(f"The label map '{path}' has an entry without a name: name the region it is of.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabelError(f"The label map '{path}' has the name '{twice[0]}' more than once: keep one entry.")
    if not any(label for _, label in entries):
        raise LabelError(f"The label map '{path}' gives no name a class: add at least one.")
    return LabelMap(entries=tuple(entries))


def find_annotations(location: str | Path, slide_name: str) -> Path | None:
    """The file that annotates a slide: `location` itself, or <slide>.xml, .geojson, ... in that folder.

    None where the folder has none for this slide; UsageError where there is neither file nor folder.
    """
    location = Path(location)
    if os.path.isfile(location):  # noqa: PTH113 - Path's raises for a name that is too long
        return location
    if not os.path.isdir(location):  # noqa: PTH112
        raise UsageError(f"There is no annotation file or folder '{location}': check --annotations.")
    paths = (located(location, f"{slide_name}{suffix}") for suffix in ANNOTATION_SUFFIXES)
    # The first suffix that exists; `located` also finds other spellings of the name.
    return next((path for path in paths if path.is_file()), None)


def label_patches(
    regions: Sequence[Region],
    label_map: LabelMap,
    classes: Sequence[str],
    coords: NDArray[np.int64],
    size_level0: float,
    *,
    rule: LabelRule = "area",
    min_share: float = 0.5,
) -> NDArray[np.int16]:
    """Label the patches at level-0 `coords` (M, 2): (M,) int16 indexing `classes`, -1 = unlabelled.

    Rule "area": the class that covers most of the patch, if at least `min_share` of it. Rule "centre": the
    class at the patch's centre. Where regions overlap the later entry of the label map counts.
    """
    if rule not in get_args(LabelRule):
        raise UsageError(f"The label rule is one of {', '.join(get_args(LabelRule))}, got '{rule}'.")
    labels = np.full(len(coords), UNLABELLED, np.int16)
    layers = [label_map.layer_of(region) for region in regions]
    painted = [(one.area, layer) for one, layer in zip(regions, layers, strict=True) if layer is not None]
    if not (len(classes) and len(coords) and painted):
        return labels
    areas, numbers = zip(*painted, strict=True)
    cover = (cover_of_patches if rule == "area" else cover_of_centers)(areas, numbers, coords, size_level0)
    # By layer; -1 for one that erases, or whose class the run does not have.
    number_of = {name: number for number, name in enumerate(classes)}
    number = np.array([number_of.get(name or "", UNLABELLED) for _, name in label_map.entries])[cover.layer]
    counts = number >= 0
    # A class may have several layers; classes that a patch does not touch take no memory.
    key, where = np.unique((cover.row * len(classes) + number)[counts], return_inverse=True)
    share = np.bincount(where, cover.share[counts])
    row, index = np.divmod(key, len(classes))
    # Of equal shares the class that comes first; the largest is written last.
    order = np.lexsort((-index, share))
    order = order[share[order] >= (min_share if rule == "area" else 0.5) - _ROUNDING]
    labels[row[order]] = index[order]
    return labels


def _json_entries(path: Path, data: bytes) -> list[tuple[str, str | None]]:
    try:
        # As pairs, so that a name that is there twice is noticed.
        values = json.loads(decode_text(data)[0], object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"The label map '{path}' is no JSON: {error}.") from error
    if not isinstance(values, _Pairs):
        raise LabelError(f"The label map '{path}' must be a JSON object of name: class (text or null).")
    for name, label in values:
        if not (label is None or isinstance(label, str)):
            raise LabelError(
                f"The label map '{path}' must give each name a class (text or null), but gives '{name}' "
                f"{json.dumps(label)[:40]}."
            )
    return [(name.strip(), (label or "").strip() or None) for name, label in values]


class _Pairs(list[Any]):
    """The names and values of a JSON object, in order."""


def _table_entries(path: Path, reporter: Reporter) -> list[tuple[str, str | None]]:
    needs = ("name", "label")
    rows = read_table(path, needs=needs, what="label map", error=LabelError, reporter=reporter).rows
    for row in rows:
        if row.problem:
            raise LabelError(f"Line {row.line} of the label map '{path}' cannot be used: {row.problem}.")
    return [(row["name"], row["label"] or None) for row in rows]
