"""Labels out, as `classify --labels` and QuPath take them, and in, from outlines and from predictions."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsitool.base.file_names import file_names
from wsitool.base.files import replace_file
from wsitool.base.tables import read_table, table_bytes
from wsitool.errors import UsageError
from wsitool.labelling.patches import Patches, columns_of
from wsitool.labelling.session import Session
from wsitool.labelling.votes import IMPORT
from wsitool.predict.outcomes import SUMMARY
from wsitool.report.geojson import Tiles, class_colors, collection_of
from wsitool.slides.annotations import find_annotations, label_patches, map_of_names, read_annotations

__all__ = [
    "geojson_download",
    "import_outlines",
    "labels_csv",
    "selection_of",
    "suggestions_of",
    "write_geojson_of",
]

_HEADER = ("file", "slide", "x", "y", "label", "group", "annotators", "note")


def labels_csv(session: Session) -> bytes:
    """A table of all labels, a row for each labelled patch, that `read_label_table` reads.

    Patches that were called unsure, or one thing by as many as another, are not in it.
    """
    return table_bytes([_HEADER, *_rows(session)])


def write_geojson_of(session: Session, out: str | Path) -> list[Path]:
    """Write the labels of slides as QuPath opens them: `out` itself for one slide, else a file each in it.

    UsageError where no patch of a slide is labelled, or `out` is a file's name for several slides.
    """
    files = dict(_geojson(session))
    out = Path(out)
    if not files:
        raise UsageError("No patch of a slide is labelled: patches of loose images have no place in a slide.")
    if len(files) > 1 and out.suffix:
        raise UsageError(
            f"The labels are of {len(files)} slides, each of which QuPath opens a file of its own with: give "
            f"a folder, such as --geojson {out.with_suffix('')}."
        )
    if len(files) == 1 and out.suffix:
        replace_file(out, next(iter(files.values())))
        return [out]
    paths = [out / f"{name}.geojson" for name in files]
    for path, data in zip(paths, files.values(), strict=True):
        replace_file(path, data)
    return paths


def geojson_download(session: Session) -> tuple[str, bytes]:
    """Name and bytes of one file with the labels of all slides: GeoJSON of one, a zip of several."""
    files = dict(_geojson(session))
    if len(files) == 1:
        [(name, data)] = files.items()
        return f"{name}.geojson", data
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.geojson", data)
    return "labels.zip", buffer.getvalue()


def import_outlines(session: Session, location: str | Path) -> int:
    """Give patches whose centre lies in an outline its class, as the annotator "import"; how many there were.

    `location` is a file of outlines of one slide, or a folder with <slide>.geojson and the like. UsageError
    where there is none for any slide given, or no outline is of a class that is labelled.
    """
    patches, classes = session.patches, session.plan.classes
    stores = [store for store in patches.collection.stores if store.sources is None]
    found = {store.meta.name: find_annotations(location, store.meta.name) for store in stores}
    files = {name: path for name, path in found.items() if path is not None}
    if Path(location).is_file() and len(files) > 1:
        files = {name: path for name, path in files.items() if Path(location).name.startswith(f"{name}.")}
    if not files:
        raise UsageError(
            f"'{location}' has no outlines of any slide given: name the file as its slide, or give a folder "
            "with <slide>.geojson."
        )
    count, strange = 0, set()
    for index, store in enumerate(patches.collection.stores):
        path = files.get(store.meta.name)
        if path is None or store.sources is not None:
            continue
        annotations = read_annotations(path)
        if annotations.unit != "px":
            raise UsageError(f"'{path}' is not in pixels of the slide: convert it to GeoJSON.")
        label_map = map_of_names([annotations])
        strange |= {*label_map.classes} - {*classes}
        meta = store.meta
        labels = label_patches(
            annotations.regions, label_map, classes, store.coords, meta.patch_size_level0, rule="centre"
        )
        first = int(np.searchsorted(patches.collection.store_index, index))
        inside = {first + row: int(labels[row]) for row in np.flatnonzero(labels >= 0).tolist()}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        count += session.take_in(inside, digest)
    if not count:
        of = f" (they are {', '.join(sorted(strange)[:5])})" if strange else ""
        raise UsageError(
            f"No patch has its centre in an outline of {', '.join(classes)} in '{location}'{of}: the classes "
            "of outlines are to be named as in --classes."
        )
    return count


def selection_of(patches: Patches, path: str | Path) -> list[int | None]:
    """The patches that the lines of a table name, by content hash and row; None of other stores.

    UsageError where the table cannot be read, or names none of these patches.
    """
    table = read_table(Path(path), needs=("row", "content_hash"), knows=("slide",), what="selection")
    ids = {store.content_hash: id for store, id in zip(patches.collection.stores, patches.ids, strict=True)}
    found: list[int | None] = []
    for line in table.rows:
        if line.problem or not line["row"].isdecimal():
            raise UsageError(f"{path}, line {line.line}: {line.problem or 'row is to be a number'}.")
        id = ids.get(line["content_hash"])
        found.append(None if id is None else patches.number(id, int(line["row"])))
    if not any(patch is not None for patch in found):
        raise UsageError(
            f"'{path}' names none of these patches as they are now: save the selection from `wsitool view` "
            "of the stores that are labelled."
        )
    return found


def suggestions_of(
    patches: Patches, folder: str | Path, classes: tuple[str, ...]
) -> dict[int, tuple[int, float]]:
    """What `predict` called patches, by number: class and its probability.

    UsageError where the folder is none of `predict`, or fits no patch or class.
    """
    folder = Path(folder)
    rows = read_table(folder / SUMMARY, needs=("slide", "files"), what="summary of predict").rows
    tables = {row["slide"]: folder / f"{row['files']}.csv" for row in rows if row["files"]}
    numbers = {name: number for number, name in enumerate(classes)}
    found: dict[int, tuple[int, float]] = {}
    for index, store in enumerate(patches.collection.stores):
        path = tables.get(store.meta.name)
        # Of loose images predict knows no place.
        if path is None or not path.is_file() or store.sources is not None:
            continue
        first = int(np.searchsorted(patches.collection.store_index, index))
        row_of = {tuple(place): first + row for row, place in enumerate(store.coords.tolist())}
        try:
            for row in read_table(
                path, needs=("x", "y", "predicted"), what="table of predict", exact=True
            ).rows:
                patch = row_of.get((int(row["x"]), int(row["y"])))
                label = numbers.get(row["predicted"])
                if patch is not None and label is not None:
                    found[patch] = (label, float(row[f"p_{row['predicted']}".lower()]))
        except ValueError as error:
            raise UsageError(f"'{path}' is no table of `wsitool predict` ({error}): run it again.") from None
    if not found:
        raise UsageError(
            f"The predictions in '{folder}' are of none of these patches, or of other classes than "
            f"{', '.join(classes)}: predict on the stores that are labelled."
        )
    return found


def _rows(session: Session) -> Iterator[tuple[Any, ...]]:
    patches = session.patches
    for patch, label in session.labels().items():
        store, row = patches.store(patch), int(patches.collection.row[patch])
        coords, sources = columns_of(store)
        said = session.heard.said[patch]
        # What came from a file is named only where it decided.
        people = sorted(said.keys() - {IMPORT}) or [IMPORT]
        yield (
            store.meta.name if sources is None else sources[row],
            store.meta.name,
            *coords[row].tolist(),
            session.plan.classes[label],
            patches.groups[patch],
            "; ".join(people),
            "; ".join(said[name].note for name in people if said[name].note),
        )


def _geojson(session: Session) -> Iterator[tuple[str, bytes]]:
    """File name (without suffix) and bytes of each slide that has labels."""
    patches = session.patches
    by_store: dict[int, dict[int, int]] = {}
    for patch, label in session.labels().items():
        by_store.setdefault(int(patches.collection.store_index[patch]), {})[patch] = label
    stores = [index for index in by_store if patches.collection.stores[index].sources is None]
    names = file_names([patches.collection.stores[index].meta.name for index in stores])
    for index, name in zip(stores, names, strict=True):
        yield name, b"".join(collection_of(_features(session, by_store[index])))


def _features(session: Session, labels: Mapping[int, int]) -> Iterator[dict[str, Any]]:
    """The tiles of one slide's labelled patches."""
    patches, classes = session.patches, session.plan.classes
    colors = class_colors(classes)
    store = patches.store(next(iter(labels)))
    tiles, coords = Tiles(store.meta.name, round(store.meta.patch_size_level0)), store.coords
    for patch, label in labels.items():
        x, y = coords[patches.collection.row[patch]].tolist()
        yield tiles.feature(x, y, {}, (classes[label],), colors[classes[label]])
