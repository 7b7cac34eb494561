"""What there is to see in some folders: collections, slides, features, predictions, runs, experiments.

Everything has an id, a hash of where it is; the page knows nothing else: no path comes from a request.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wsitool.base.json_files import parse_json
from wsitool.base.paths import located
from wsitool.base.sentences import one_sentence
from wsitool.base.tables import Row, read_table
from wsitool.curate.folders import holds_features
from wsitool.errors import UsageError, WsitoolError
from wsitool.predict.outcomes import SUMMARY
from wsitool.slides.slide_folder import slides_by_name
from wsitool.slides.slide_list import slide_name
from wsitool.store.opening import find_stores, open_store
from wsitool.store.schema import SUFFIX_OF
from wsitool.tiling.results import SLIDES_CSV

__all__ = ["Group", "Library", "SlideEntry", "feature_source"]

_DEEPEST = 4  # folders below one that was given
_RUN_FILE, _PATCHES_FILE, _PLAN_FILE = "run.json", "predictions.csv", "plan.json"
_KNOWN = ("path", "status", "reason", "group", "store", "width", "height", "mpp", "kept", "counts", "labels")


@dataclass(frozen=True, kw_only=True)
class SlideEntry:
    """A slide of a collection: what its table says, without opening anything; or one that was not tiled.

    `store` is None where none was written; `source` is where the slide was when it was cut, `problem` what
    went wrong. `counts` are candidates by reason, `labels` patches by class.
    """

    id: str
    collection: str
    name: str
    group: str
    status: str
    problem: str
    store: Path | None
    source: str
    width: int
    height: int
    mpp: float | None
    patches: int
    counts: dict[str, int]
    labels: dict[str, int]

    @property
    def preview(self) -> Path | None:
        """The picture that `tile` left of it, where there is one."""
        if self.store is None:
            return None
        name = self.store.name.removesuffix(self.store.suffix)
        path = self.store.parent / "previews" / f"{name}.jpg"
        return path if path.is_file() else None

    def to_dict(self) -> dict[str, Any]:
        """For the page: no path but the slide's own, as text."""
        return {name: value for name, value in vars(self).items() if name != "store"} | {
            "has_store": self.store is not None,
            "has_preview": self.preview is not None,
        }


@dataclass(frozen=True, kw_only=True)
class Group:
    """A folder that holds one thing: a "collection", "features", "predictions", an "experiment", or a "run".

    The last is one of `classify`; "slides" are files that no collection here was cut from.
    """

    id: str
    kind: str
    path: Path
    name: str
    problem: str = ""


class Library:
    """The collections, predictions and runs in `folders` and below, found once.

    UsageError where a folder is not there. What is damaged is kept with its sentence, and stops nothing else.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise UsageError(
                    f"'{folder}' is no folder: name folders that wsitool wrote, or that hold slides."
                )
        self._roots = tuple(folder.resolve() for folder in folders)
        self.groups: dict[str, Group] = {}
        self.slides: dict[str, SlideEntry] = {}
        self._predictions: dict[str, list[tuple[str, Path]]] = {}
        self._files: dict[str, list[Path]] = {}  # by name, all there are
        for folder in dict.fromkeys(self._folders()):
            self._add(folder)
        self._add_untiled()

    def readable_source(self, slide: SlideEntry) -> Path | None:
        """The slide's file where it is there and in the folders that were given, else None.

        A file of its name in these folders stands for one that is not where it was when it was cut; whether
        it is the same slide must be seen from its fingerprint.
        """
        if not slide.source:
            return None
        path = Path(slide.source)
        if os.path.exists(path) and self.holds(path):  # noqa: PTH110 - Path's raises for long names
            return path
        return max(self._files.get(path.name, ()), key=partial(_common_ending, path), default=None)

    def holds(self, path: Path) -> bool:
        """Whether a file lies in the folders that were given."""
        real = path.resolve()
        return any(real.is_relative_to(root) for root in self._roots)

    @cached_property
    def features_by_store(self) -> dict[tuple[str, str], dict[str, Path]]:
        """Name and content hash of a store -> the files of `embed` made of it, by the id of their group."""
        files: dict[tuple[str, str], dict[str, Path]] = {}
        for group in self.groups.values():
            for path in find_stores(group.path) if group.kind == "features" else ():
                with suppress(OSError, KeyError, RuntimeError):
                    files.setdefault(feature_source(path), {})[group.id] = path
        return files

    def predictions_of(self, slide: SlideEntry) -> list[tuple[str, Path]]:
        """(id of the predictions, table) of every prediction of a slide of that name.

        Where collections have slides of one name, a table is of that whose positions it has.
        """
        tables = self._predictions.get(slide.name, [])
        alike = [one for one in self.slides.values() if one.name == slide.name]
        if len(alike) == 1 or slide.store is None:
            return tables
        with suppress(WsitoolError), open_store(slide.store) as store:
            positions = {(x, y) for x, y in store.candidates.coords.tolist()}
            return [(id, table) for id, table in tables if _positions(table) <= positions]
        return []

    def slide_of_store(self, name: str, content_hash: str) -> SlideEntry | None:
        """The slide of that name whose store has that content: rows of a store cut anew are other patches."""
        for slide in self.slides.values():
            if slide.name == name and slide.store is not None:
                with suppress(WsitoolError), open_store(slide.store) as store:
                    if store.content_hash == content_hash:
                        return slide
        return None

    def _folders(self) -> Iterator[Path]:
        for root in self._roots:
            for folder, below, names in os.walk(root):
                path = Path(folder)
                for name in (*names, *below):  # some slides are folders
                    self._files.setdefault(name, []).append(path / name)
                deep = len(path.relative_to(root).parts)
                # A zarr store is a folder, and full of folders.
                below[:] = sorted(
                    name
                    for name in below
                    if deep < _DEEPEST and not name.startswith(".") and not name.endswith(SUFFIX_OF["zarr"])
                )
                yield path

    def _add(self, folder: Path) -> None:
        stores = find_stores(folder)
        if stores and holds_features(stores[0]):
            self._guarded(folder, "features", lambda group: None)
        elif stores or (folder / SLIDES_CSV).is_file():
            self._guarded(folder, "collection", self._add_slides)
        if (folder / SUMMARY).is_file():
            self._guarded(folder, "predictions", self._add_predictions)
        if (folder / _RUN_FILE).is_file() and (folder / _PATCHES_FILE).is_file():
            self._guarded(folder, "run", lambda group: None)
        if (folder / _PLAN_FILE).is_file() and (folder / "cells").is_dir():
            self._guarded(folder, "experiment", lambda group: None)

    def _add_untiled(self) -> None:
        """The slides that lie here and are in no collection, by their folders."""
        files = slides_by_name(path for paths in self._files.values() for path in paths)
        cut = {path.resolve() for path in map(self.readable_source, self.slides.values()) if path is not None}
        left: dict[Path, list[Path]] = {}
        for path in dict.fromkeys(files):
            if path.is_file() and path.resolve() not in cut and self.holds(path):
                left.setdefault(path.parent, []).append(path)
        for folder, paths in left.items():
            group = Group(id=_id("slides", folder), kind="slides", path=folder, name=self._shown(folder))
            self.groups[group.id] = group
            for path in paths:
                self._keep(_of_file(group, path))

    def _guarded(self, folder: Path, kind: str, add: Any) -> None:
        group = Group(id=_id(kind, folder), kind=kind, path=folder, name=self._shown(folder))
        try:
            add(group)
        except WsitoolError as error:
            group = Group(**{**vars(group), "problem": one_sentence(error)})
        self.groups[group.id] = group

    def _shown(self, folder: Path) -> str:
        root = next(root for root in self._roots if folder.is_relative_to(root))
        return "/".join((root.name, *folder.relative_to(root).parts))

    def _add_slides(self, group: Group) -> None:
        stores = {path.resolve(): path for path in find_stores(group.path)}
        table = group.path / SLIDES_CSV
        rows = read_table(table, needs=("name",), knows=_KNOWN).rows if table.is_file() else ()
        for row in rows:
            store = located(group.path, row["store"]).resolve() if row["store"] else None
            # A table that was moved with its folder still names the old one.
            here = stores.pop(store, None) if store in stores else _named_alike(stores, store)
            self._keep(_of_row(group, row, here))
        for path in stores.values():
            self._keep(_of_store(group, path))

    def _keep(self, slide: SlideEntry) -> None:
        self.slides[slide.id] = slide

    def _add_predictions(self, group: Group) -> None:
        for row in read_table(group.path / SUMMARY, needs=("slide", "files"), knows=("status",)).rows:
            table = group.path / f"{row['files']}.csv"
            if row["files"] and table.resolve().parent == group.path.resolve() and table.is_file():
                self._predictions.setdefault(row["slide"], []).append((group.id, table))


def _common_ending(a: Path, b: Path) -> int:
    """How many last parts of two paths are the same."""
    pairs = zip(reversed(a.parts), reversed(b.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def feature_source(path: Path) -> tuple[str, str]:
    """The name and content hash of the store that a file of `embed` was made from; OSError, KeyError."""
    with h5py.File(path, "r") as file:
        attrs = file["features"].attrs
        return str(attrs.get("name", path.stem)), str(attrs.get("content_hash", ""))


def _positions(table: Path) -> set[tuple[int, int]]:
    with suppress(OSError, ValueError):
        places = np.loadtxt(
            table, np.int64, delimiter=",", skiprows=1, usecols=(0, 1), ndmin=2, quotechar='"'
        )
        return {(x, y) for x, y in places.tolist()}
    return set()


def _named_alike(stores: dict[Path, Path], wanted: Path | None) -> Path | None:
    """Take the store of that file name out of `stores`."""
    for real in stores:
        if wanted is not None and real.name == wanted.name:
            return stores.pop(real)
    return None


def _of_row(group: Group, row: Row, store: Path | None) -> SlideEntry:
    return SlideEntry(
        id=_id("slide", group.path, row["name"], row["path"]),
        collection=group.id,
        name=row["name"],
        group=row["group"],
        status=row["status"] or "done",
        problem=row["reason"] or row.problem,
        store=store,
        source=row["path"],
        width=int(_number(row["width"]) or 0),
        height=int(_number(row["height"]) or 0),
        mpp=_number(row["mpp"]),
        patches=int(_number(row["kept"]) or 0),
        counts=_counts(row["counts"]),
        labels=_counts(row["labels"]),
    )


def _of_store(group: Group, path: Path) -> SlideEntry:
    """A store that no table names: imported, or its table is away."""
    shared: dict[str, Any] = {
        "id": _id("slide", group.path, path.name),
        "collection": group.id,
        "store": path,
    }
    try:
        with open_store(path) as store:
            meta, labels = store.meta, store.labels
            return SlideEntry(
                name=meta.name,
                group=meta.group,
                status="done",
                problem="",
                source=meta.source,
                width=meta.level0_width,
                height=meta.level0_height,
                mpp=meta.mpp_level0,
                patches=len(store),
                counts=store.counts,
                labels={}
                if labels is None
                else {name: int((labels == number).sum()) for number, name in enumerate(meta.classes)},
                **shared,
            )
    except WsitoolError as error:
        nothing: dict[str, Any] = {
            "group": "",
            "source": "",
            "width": 0,
            "height": 0,
            "mpp": None,
            "patches": 0,
        }
        return SlideEntry(
            name=path.stem,
            status="failed",
            problem=one_sentence(error),
            counts={},
            labels={},
            **nothing,
            **shared,
        )


def _of_file(group: Group, path: Path) -> SlideEntry:
    """A slide that is only there."""
    return SlideEntry(
        id=_id("slide", path),
        collection=group.id,
        name=slide_name(path),
        group="",
        status="not tiled",
        problem="",
        store=None,
        source=str(path),
        width=0,
        height=0,
        mpp=None,
        patches=0,
        counts={},
        labels={},
    )


def _id(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode(errors="surrogateescape")).hexdigest()[:16]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _counts(text: str) -> dict[str, int]:
    try:
        value = parse_json(text or "{}")
    except ValueError:
        return {}
    return {str(k): int(v) for k, v in value.items()} if isinstance(value, dict) else {}
