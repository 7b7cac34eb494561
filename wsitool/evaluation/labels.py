"""What each patch is: labels and patients from the stores, or from a table that overrides them."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsitool.base.groups import group_name
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.tables import Row, decimal, read_table
from wsitool.errors import LabelError
from wsitool.store.collection import Collection

__all__ = [
    "LabelRow",
    "LabelTable",
    "Labelled",
    "LabelledPatches",
    "check_names",
    "check_table",
    "class_order",
    "label_patches",
    "read_label_table",
    "shared_patches",
]

_NAMED_AT_MOST = 5


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """One row of a label table: the class of an image or slide, and its patient where the table says so."""

    label: str
    group: str | None


# Image or slide, slide or "" where the table does not say, level-0 x and y.
Place = tuple[str, str, int, int]


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The rows of a label table: of whole images or slides by name, of single patches by place.

    A patch's own row wins over that of its image, and that over its slide's.
    """

    files: Mapping[str, LabelRow]
    patches: Mapping[Place, LabelRow]

    @property
    def classes(self) -> set[str]:
        """All that the rows name."""
        return {row.label for row in (*self.files.values(), *self.patches.values())}

    @cached_property
    def _by_spelling(self) -> dict[str, LabelRow]:
        # A name that is spelled by two rows takes the later one; whole names come first in `row_of`.
        return {spelling: row for name, row in self.files.items() for spelling in _spellings(name)}

    def row_of(self, *names: str) -> LabelRow | None:
        """The row of a whole image or slide: that of the first of its `names` that has one."""
        rows = self._by_spelling
        for name in names:
            # As written first, so that a/x.png and b/x.png stay apart where the table says which.
            row = rows.get(name) or next((rows[key] for key in _spellings(name) if key in rows), None)
            if row is not None:
                return row
        return None


class Labelled(Protocol):
    """What is judged: N patches, slides or patients; see `LabelledPatches`."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def groups(self) -> NDArray[np.str_]: ...

    @property
    def images(self) -> NDArray[np.str_]: ...

    @property
    def group_index(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class LabelledPatches:
    """Labelled patches of a collection.

    `labels` (N,) int64 index `classes`; `groups` and `images` (N,) name the patient and the image or slide.
    """

    collection: Collection
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: NDArray[np.str_]
    images: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def group_index(self) -> NDArray[np.int64]:
        """(N,) the groups as numbers, in the order of their names."""
        # Recomputed at each call: a sort of N names.
        index: NDArray[np.int64] = np.unique(self.groups, return_inverse=True)[1]
        return index

    def subset(self, indices: NDArray[np.integer]) -> LabelledPatches:
        """Only the patches at `indices`, in that order."""
        return LabelledPatches(
            collection=self.collection.subset(indices),
            classes=self.classes,
            labels=self.labels[indices],
            groups=self.groups[indices],
            images=self.images[indices],
        )

    def identity_hash(self, before_group: str | None = None) -> str:
        """SHA-256 over the sorted `identities`, a line each: which patches, in any order.

        Each is followed by `before_group` and its group where that is given. Made store by store: the texts
        of ten million patches would take gigabytes.
        """
        digest, between = hashlib.sha256(), ""
        # By content, as a store and its copy count as one.
        places: dict[str, list[NDArray[np.int64]]] = {}
        for number, rows in self.collection.rows_by_store():
            places.setdefault(f"{self.collection.stores[number].content_hash}:", []).append(rows)
        for beginning in sorted(places):
            rows = np.concatenate(places[beginning])
            classes = [f":{name}" for name in self.classes]
            names = [
                f"{beginning}{row}{classes[label]}"
                for row, label in zip(
                    self.collection.row[rows].tolist(), self.labels[rows].tolist(), strict=True
                )
            ]
            if before_group is not None:
                groups = self.groups[rows].tolist()
                names = [f"{name}{before_group}{group}" for name, group in zip(names, groups, strict=True)]
            digest.update((between + "\n".join(sorted(names))).encode())
            between = "\n"
        return digest.hexdigest()

    def identities(self) -> list[str]:
        """What each patch is, whoever reads it: content hash of its store, row and class.

        Independent of paths and of the order of stores, so that two runs, or two sides of a split, can be
        compared.
        """
        hashes = [store.content_hash for store in self.collection.stores]
        columns = (self.collection.store_index, self.collection.row, self.labels)
        places = zip(*(column.tolist() for column in columns), strict=True)
        return [f"{hashes[store]}:{row}:{self.classes[label]}" for store, row, label in places]


def shared_patches(a: LabelledPatches, b: LabelledPatches) -> int:
    """How many patches of `a` and `b`, whose classes are the same, are alike in content, row and class."""
    keys = []
    for side in (a, b):
        of_store: dict[str, NDArray[np.int64]] = {}
        for number, rows in side.collection.rows_by_store():
            # By content hash and row, since a copied store has another path.
            of_side = side.collection.row[rows].astype(np.int64) * len(side.classes) + side.labels[rows]
            name = side.collection.stores[number].content_hash
            of_store[name] = np.union1d(of_store.get(name, np.empty(0, np.int64)), of_side)
        keys.append(of_store)
    one, other = keys
    return sum(len(np.intersect1d(one[name], other[name])) for name in one.keys() & other.keys())


def read_label_table(path: str | Path, *, reporter: Reporter = SILENT) -> LabelTable:
    """Read a table with the columns file, label and optionally group, x and y, slide.

    A row with x and y is of the patch whose upper left corner lies there in its image or slide (level-0
    pixels); slide tells images of one name apart. LabelError if a column is missing, a row cannot be read, a
    label is empty, or one file or patch has two labels.
    """
    path = Path(path)
    needs, knows = ("file", "label"), ("group", "x", "y", "slide")
    table = read_table(
        path, needs=needs, knows=knows, what="label table", error=LabelError, reporter=reporter
    )
    files: dict[str, LabelRow] = {}
    patches: dict[Place, LabelRow] = {}
    for line in table.rows:
        name = line["file"]
        # Any row that cannot be read stops all: a label that is silently lost changes the figures.
        problem = line.problem or ("" if name else "it names no file")
        if not problem and not line["label"]:
            problem = f"{name} has no label"
        corner = _corner(line)
        if not problem and isinstance(corner, str):
            problem = corner
        if problem or isinstance(corner, str):
            raise LabelError(f"{path}, line {line.line}: {problem}.")
        row = LabelRow(label=line["label"], group=group_name(line["group"]) or None)
        # The same row twice is harmless.
        if corner is None:
            same, what = files.setdefault(name, row) == row, name
        else:
            place = (name, line["slide"], *corner)
            same, what = patches.setdefault(place, row) == row, f"the patch of {name} at {corner}"
        if not same:
            raise LabelError(f"{path}, line {line.line}, gives {what} two different labels or groups.")
    if not files and not patches:
        raise LabelError(f"{path} names no file: it needs one row for each labelled image, slide or patch.")
    return LabelTable(files=files, patches=patches)


def _corner(line: Row) -> tuple[int, int] | str | None:
    """A patch's corner, None where the row is of a whole image or slide, or what is wrong with it."""
    if not line["x"] and not line["y"]:
        return None
    try:
        x, y = decimal(line["x"]), decimal(line["y"])
    except ValueError:
        x = y = 0.5
    if x != int(x) or y != int(y):
        return f"x and y must be whole level-0 pixels or both empty, got '{line['x']}' and '{line['y']}'"
    return int(x), int(y)


def label_patches(
    collection: Collection,
    *,
    table: LabelTable | None = None,
    classes: Sequence[str] | None = None,
) -> LabelledPatches:
    """The labelled patches of `collection`, by its own labels or by `table`.

    `classes` fixes the classes and their order (those of a trained classifier); by default they are the
    collection's, or the sorted ones of the table. Patches the table does not name are left out. LabelError if
    nothing is labelled or a class is not among `classes`.
    """
    images = collection.sources
    # Stores of others may have what is stripped here when stores are made.
    groups = np.array([group_name(group) for group in collection.groups], dtype=np.str_)[
        collection.group_index
    ]
    if table is None:
        # -1, unlabelled, takes the last entry: "".
        names = np.array([*collection.classes, ""], dtype=np.str_)[collection.labels]
    else:
        names, groups = _from_table(collection, images, groups, table)
    present = sorted(set(names.tolist()) - {""})
    if not present:
        raise LabelError(
            "None of the patches is labelled: give --labels CSV (file,label[,group]), or tile with "
            "--annotations, or import class folders."
        )
    # A trained classifier's order wins: its outputs are in it.
    order = class_order(present, classes, declared=collection.classes)
    labelled = np.flatnonzero(names != "")
    number = {name: index for index, name in enumerate(order)}
    return LabelledPatches(
        collection=collection.subset(labelled),
        classes=order,
        labels=np.array([number[name] for name in names[labelled]], dtype=np.int64),
        groups=groups[labelled],
        images=images[labelled],
    )


def check_table(table: LabelTable, collections: Iterable[Collection]) -> None:
    """LabelError naming the files or places of `table` that none of `collections` holds.

    Names are compared with and without folder and suffix, in composed Unicode form; places exactly.
    """
    collections = list(collections)
    check_names(
        table,
        (
            name
            for collection in collections
            for name in {*collection.sources.tolist(), *(store.meta.name for store in collection.stores)}
        ),
    )
    if not table.patches:
        return
    matched: set[Place] = set()
    for collection in collections:
        matched |= set(_patches_of(collection, table.patches).values())
    astray = [place for place in table.patches if place not in matched]
    if astray:
        shown = ", ".join(f"{name} at ({x}, {y})" for name, _, x, y in astray[:_NAMED_AT_MOST])
        raise LabelError(
            f"The label table has {len(astray)} row(s) with x and y where no store has a patch, such as "
            f"{shown}: pass the stores that were labelled, or leave x and y out if they mean another thing."
        )


def check_names(table: LabelTable, names: Iterable[str]) -> None:
    """LabelError naming the files of `table` that are none of `names`, in whatever spelling."""
    spellings = {spelling for name in names for spelling in _spellings(name)}
    named = dict.fromkeys([*table.files, *(place[0] for place in table.patches)])
    unknown = [name for name in named if not _spellings(name) & spellings]
    if unknown:
        raise LabelError(
            f"The label table names {len(unknown)} file(s) that no store holds, such as "
            f"{', '.join(unknown[:_NAMED_AT_MOST])}: use the names of the images or slides they came from."
        )


def _from_table(
    collection: Collection, images: NDArray[np.str_], groups: NDArray[np.str_], table: LabelTable
) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Class name ("" = none) and group of each patch; its own row wins, then its image's."""
    slides = np.array([store.meta.name for store in collection.stores], dtype=np.str_)[collection.store_index]
    # (2, N) pairs of image and slide; looked up once each, not once a patch.
    pairs, index = np.unique(np.stack([images, slides]), axis=1, return_inverse=True)
    # Its shape differs between versions of numpy.
    index = index.reshape(-1)
    rows = [table.row_of(str(image), str(slide)) for image, slide in pairs.T]
    # Objects: a longer name of a single patch would be cut.
    names = np.array([row.label if row else "" for row in rows], dtype=object)[index]
    stated = np.array([(row.group or "") if row else "" for row in rows], dtype=object)[index]
    for patch, place in _patches_of(collection, table.patches).items():
        row = table.patches[place]
        names[patch], stated[patch] = row.label, row.group or stated[patch]
    # A group in the table overrides the store's, an empty one does not.
    return names.astype(np.str_), np.where(stated != "", stated, groups).astype(np.str_)


def _patches_of(collection: Collection, rows: Mapping[Place, LabelRow]) -> dict[int, Place]:
    """For each patch of `collection` (its number) that one of `rows` is of, that row's place."""
    by_name: dict[str, dict[tuple[int, int], list[Place]]] = {}
    for place in rows:
        for spelling in _spellings(place[0]):
            by_name.setdefault(spelling, {}).setdefault(place[2:], []).append(place)
    found: dict[int, Place] = {}
    if not by_name:
        return found
    for number, patches in collection.rows_by_store():
        store = collection.stores[number]
        inside = collection.row[patches]
        corners = store.coords[inside].tolist()
        sources = store.sources
        names = [store.meta.name] * len(patches) if sources is None else sources[inside].tolist()
        keys = {name: sorted(_spellings(name) & by_name.keys()) for name in set(names)}
        for patch, name, (x, y) in zip(patches.tolist(), names, corners, strict=True):
            fitting = [
                place
                for key in keys[name]
                for place in by_name[key].get((x, y), ())
                if not place[1] or _spellings(place[1]) & _spellings(store.meta.name)
            ]
            if fitting:
                # As written first, as for whole files; then the one that says which slide.
                exact = [place for place in fitting if place[0] == name] or fitting
                found[patch] = next((place for place in exact if place[1]), exact[0])
    return found


def _spellings(name: str) -> set[str]:
    """A file may be named with or without its folder and suffix, and its letters composed or not."""
    # NFC: macOS hands out decomposed letters, tables typed elsewhere have composed ones.
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    last = Path(name).name
    return {name, last, Path(last).stem}


def class_order(
    present: Sequence[str], fixed: Sequence[str] | None, *, declared: Sequence[str] = ()
) -> tuple[str, ...]:
    """The classes `present`, sorted, as they are numbered: `fixed`, else `declared` where it has all of them.

    LabelError for one that is not among `fixed`, those of a trained classifier.
    """
    if fixed is None:
        known = set(present) <= set(declared)
        return tuple(name for name in declared if name in present) if known else tuple(present)
    strange = sorted(set(present) - set(fixed))
    if strange:
        raise LabelError(
            f"Unknown class {', '.join(strange)}: the classifier's classes are {', '.join(fixed)}."
        )
    return tuple(fixed)
