"""Where bags come from: slides of patch stores, or of files of features, before anybody has labelled them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.base.groups import group_name
from wsitool.base.paths import AnyPath, as_list
from wsitool.classify.data import Paths
from wsitool.errors import StoreError, UsageError
from wsitool.mil.bags import Part
from wsitool.mil.feature_rows import FeatureHeader, content_of, is_feature_file, read_header
from wsitool.store.collection import Collection, open_collection
from wsitool.store.reader import Reader

__all__ = ["Side", "SlideRows", "feature_files", "images_of", "open_side"]

_SUFFIXES = (".h5", ".pt")
# CLAM keeps the same features twice; h5 files also say where a patch lies.
_FOLDERS = ("h5_files", "pt_files")


@dataclass(frozen=True, kw_only=True)
class SlideRows:
    """The patches of one image or slide: `own` are the labels that they carry themselves, each once.

    `store` is what the file is called by its maker: the slide, or the patient whose images it holds.
    """

    name: str
    store: str
    group: str
    own: tuple[str, ...]
    part: Part


@dataclass(frozen=True, kw_only=True)
class Side:
    """What training, or the test, is given: slides of a `collection`, or of files of features of one kind.

    `width`, `encoder` and `digest` (if all say one) are those of the files; of stores, whose features are
    still to be made, 0 and "".
    """

    slides: tuple[SlideRows, ...]
    collection: Collection | None
    width: int = 0
    encoder: str = ""
    digest: str = ""
    classes: tuple[str, ...] = ()


def open_side(paths: Paths | Collection) -> Side:
    """The slides of stores or of feature files; UsageError where they are mixed or of several encoders.

    StoreError for a file that cannot be read.
    """
    if isinstance(paths, Collection):
        return _of_collection(paths)
    items = as_list(paths)
    files = [feature_files(item) for item in items]
    if not any(files):
        return _of_collection(open_collection(items))
    if not all(files):
        store = next(item for item, found in zip(items, files, strict=True) if not found)
        raise UsageError(f"'{store}' is no folder or file of features, as the others are: pass one kind.")
    return _of_files([path for found in files for path in found])


def feature_files(item: AnyPath) -> list[Path]:
    """The feature files at a path, none where it is of stores: the first whole file of a folder tells."""
    path = Path(os.fsdecode(item))
    if not path.is_dir():
        return [path] if path.suffix in _SUFFIXES and is_feature_file(path) else []
    inner = next((path / name for name in _FOLDERS if (path / name).is_dir()), path)
    for suffix in _SUFFIXES:
        # Hidden names are files being written.
        files = [file for file in sorted(inner.glob(f"*{suffix}")) if not file.name.startswith(".")]
        first = next((file for file in files if suffix == ".pt" or h5py.is_hdf5(file)), None)
        if first is not None and is_feature_file(first):
            return files
    return []


def _of_collection(collection: Collection) -> Side:
    labels, classes = collection.labels, np.array([*collection.classes, ""], np.str_)
    slides: list[SlideRows] = []
    # Once over all patches, not once for each store.
    order = np.argsort(collection.store_index, kind="stable")
    ends = np.searchsorted(collection.store_index[order], np.arange(len(collection.stores) + 1))
    for number, store in enumerate(collection.stores):
        mine = order[ends[number] : ends[number + 1]]
        rows = collection.row[mine].astype(np.int64)
        for name, inside in _by_source(store, rows):
            part = Part(
                path=Path(store.path),
                rows=np.sort(rows[inside]),
                whole=False,
                content=store.content_hash,
                slide=name,
            )
            slides.append(
                SlideRows(
                    name=name,
                    store=store.meta.name,
                    group=group_name(store.meta.group),
                    own=tuple(sorted(set(classes[labels[mine[inside]]].tolist()) - {""})),
                    part=part,
                )
            )
    return Side(slides=tuple(slides), collection=collection, classes=collection.classes)


def _by_source(store: Reader, rows: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Name and places among `rows` of each image of a store, or of its slide."""
    sources = store.sources
    if sources is None or not len(rows):
        yield store.meta.name, np.arange(len(rows))
        return
    yield from _each(np.asarray(sources[rows], np.str_))


def images_of(header: FeatureHeader, store: str) -> list[tuple[str, NDArray[np.int64]]]:
    """Name and rows of each image of a file of features, or of its slide, which is called `store`."""
    if header.sources is None:
        return [(store, np.arange(header.rows))]
    return list(_each(header.sources))


def _each(names: NDArray[np.str_]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    for name in np.unique(names).tolist():
        yield name, np.flatnonzero(names == name)


def _of_files(paths: Sequence[Path]) -> Side:
    headers = [read_header(path) for path in paths]
    widths, encoders = {header.width for header in headers}, {header.encoder for header in headers}
    if len(widths) > 1:
        raise UsageError(
            f"The feature files have {' and '.join(map(str, sorted(widths)))} values a patch: they are of "
            "different encoders; pass files of one."
        )
    if len(encoders) > 1:
        names = " and ".join(f"'{name or 'not said'}'" for name in sorted(encoders))
        raise UsageError(f"The feature files are of different encoders ({names}): pass files of one.")
    digests = {header.digest for header in headers}
    if len(digests - {""}) > 1:
        raise UsageError(
            "The feature files are of different weights, image sizes or stain norms, whatever their encoder "
            "is called: make them by one 'wsitool embed'."
        )
    slides: list[SlideRows] = []
    for path, header in zip(paths, headers, strict=True):
        store, content = header.name or path.stem, content_of(path)
        for name, rows in images_of(header, store):
            own = () if header.labels is None else tuple(sorted(set(header.labels[rows].tolist()) - {""}))
            part = Part(path=path, rows=rows, whole=len(rows) == header.rows, content=content, slide=name)
            slides.append(SlideRows(name=name, store=store, group=group_name(store), own=own, part=part))
    if not slides:
        raise StoreError(f"'{paths[0].parent}' holds files without a patch: make the features again.")
    return Side(
        slides=tuple(slides),
        collection=None,
        width=widths.pop(),
        encoder=encoders.pop(),
        digest=digests.pop() if len(digests) == 1 else "",
    )
