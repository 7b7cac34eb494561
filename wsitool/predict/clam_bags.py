"""Features as CLAM trains on them: a bag per slide (per image of an import), and the table of bags.

`h5_files/<bag>.h5` holds `features` and `coords`, `pt_files/<bag>.pt` the features as a tensor, dataset.csv
the columns case_id, slide_id, label: what CLAM's README and its dataset classes describe.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from wsitool.base.file_names import file_names
from wsitool.base.files import replace_file, replace_file_in_parts
from wsitool.base.progress import Reporter
from wsitool.base.tables import read_table, table_bytes
from wsitool.errors import LabelError
from wsitool.evaluation.labels import LabelTable, label_patches
from wsitool.store.attributes import clam_attributes
from wsitool.store.collection import Collection
from wsitool.store.reader import Reader
from wsitool.store.schema import PatchStore

__all__ = ["BAGS_CSV", "ClamBags"]

BAGS_CSV = "dataset.csv"
_COLUMNS = ("case_id", "slide_id", "label")
Features = NDArray[np.float32]
Fill = Callable[[h5py.File, NDArray[np.int64]], None]


@dataclass(frozen=True, kw_only=True)
class _Bag:
    """Rows of a store that are one slide, or one of its images; `name` is what CLAM calls the slide."""

    name: str
    rows: NDArray[np.int64]


class ClamBags:
    """The bags of all `stores` below `folder`, one store at a time in, the table last.

    Labels are those of `table`, or the stores' own. Reads the image names of stores that hold several.
    `names` are those of the bags of the one store, where others of the same folder are not known here.
    """

    def __init__(
        self,
        folder: Path,
        stores: Sequence[Reader],
        table: LabelTable | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> None:
        self._folder, self._table = folder, table
        images = [_images(store) for store in stores]
        # Over all stores: no two bags share a file. CLAM's names of slides have no suffix.
        all_images = [(store, name) for store, own in zip(stores, images, strict=True) for name, _ in own]
        plain = [_without_suffix(name, store) for store, name in all_images]
        given = names or file_names(plain, [f"{store.meta.name}/{name}" for store, name in all_images])
        each = iter(given)
        self._bags: dict[Path, tuple[_Bag, ...]] = {
            store.path: tuple(_Bag(name=next(each), rows=rows) for _, rows in own)
            for store, own in zip(stores, images, strict=True)
        }

    def names(self, store: PatchStore) -> tuple[str, ...]:
        """What CLAM calls the bags of a store."""
        return tuple(bag.name for bag in self._bags[store.path])

    def files(self, store: PatchStore) -> tuple[Path, ...]:
        """The HDF5 files of a store's bags."""
        return tuple(self._h5(bag) for bag in self._bags[store.path])

    def other(self, store: PatchStore, made_from: str) -> Path | None:
        """A file of the store's bags that is there and was made of other patches, or otherwise."""
        return next(
            (path for path in self.files(store) if path.exists() and _made_from(path) != made_from), None
        )

    def kept(self, store: PatchStore, made_from: str) -> bool:
        """Whether an earlier run wrote every file of the same; of the features nothing is read."""
        return all(
            _made_from(self._h5(bag)) == made_from and self._pt(bag).is_file()
            for bag in self._bags[store.path]
        )

    def read(self, store: PatchStore, rows: NDArray[np.int64]) -> Features:
        """Features (n, F) of some rows of a store, which must rise, from the files."""
        parts, places = [], []
        for bag in self._bags[store.path]:
            inside = np.flatnonzero(np.isin(rows, bag.rows))
            if len(inside):
                with h5py.File(self._h5(bag), "r") as file:
                    own = np.searchsorted(bag.rows, rows[inside])
                    parts.append(np.asarray(file["features"][own], np.float32))
                places.append(inside)
        features: Features = np.concatenate(parts)[np.argsort(np.concatenate(places))]
        return features

    def write(self, store: PatchStore, features: NDArray[np.floating[Any]], fill: Fill) -> None:
        """Write the bags of one store of `features` (N, F).

        `fill(file, rows)` writes what else is known of these rows, after `features` and `coords`.
        """
        coords = store.coords
        for bag in self._bags[store.path]:
            own = np.ascontiguousarray(features[bag.rows])
            tensor = io.BytesIO()
            torch.save(torch.from_numpy(own), tensor)
            replace_file_in_parts(self._pt(bag), (tensor.getbuffer(),))
            buffer = io.BytesIO()  # on a full disk the HDF5 library ends the process
            with h5py.File(buffer, "w") as file:
                data = file.create_dataset("coords", data=coords[bag.rows])
                data.attrs.update(clam_attributes(store.meta, "h5_files") | {"name": bag.name})
                file.create_dataset("features", data=own)
                fill(file, bag.rows)
            # Last, as it says of what both were made.
            replace_file_in_parts(self._h5(bag), (buffer.getbuffer(),))

    def write_table(self, collection: Collection, done: Sequence[int], reporter: Reporter) -> None:
        """Write dataset.csv: the bags of the stores `done`, after those of other runs that are there."""
        rows = [row for index in done for row in self._rows(collection, index, reporter)]
        path, own = self._folder / BAGS_CSV, {row[1] for row in rows}
        earlier = read_table(path, needs=_COLUMNS, exact=True).rows if path.is_file() else ()
        others = [
            tuple(row[name] for name in _COLUMNS)
            for row in earlier
            if row["slide_id"] not in own and (self._folder / "pt_files" / f"{row['slide_id']}.pt").is_file()
        ]
        replace_file(path, table_bytes([_COLUMNS, *sorted([*others, *rows], key=lambda row: row[1])]))

    def _rows(self, collection: Collection, index: int, reporter: Reporter) -> Iterator[tuple[str, str, str]]:
        store = collection.stores[index]
        labels, groups = self._labels(collection, index)
        for bag in self._bags[store.path]:
            names = sorted(set(labels[bag.rows].tolist()) - {""})
            if len(names) > 1:
                reporter.warn(
                    f"{bag.name} has no label in {BAGS_CSV}, as its patches are of several classes "
                    f"({', '.join(names)}): name one with --labels."
                )
            yield str(groups[bag.rows[0]]), bag.name, names[0] if len(names) == 1 else ""

    def _labels(self, collection: Collection, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Class ("" = none) and patient of each row (N,) of a store."""
        store = collection.stores[index]
        labels, groups = np.full(len(store), "", object), np.full(len(store), store.meta.group, object)
        try:
            known = label_patches(
                collection.subset(np.flatnonzero(collection.store_index == index)), table=self._table
            )
        except LabelError:  # none of them is labelled
            return labels, groups
        rows = known.collection.row
        labels[rows] = np.array(known.classes, object)[known.labels]
        groups[rows] = known.groups
        return labels, groups

    def _h5(self, bag: _Bag) -> Path:
        return self._folder / "h5_files" / f"{bag.name}.h5"

    def _pt(self, bag: _Bag) -> Path:
        return self._folder / "pt_files" / f"{bag.name}.pt"


def _made_from(path: Path) -> str:
    """What a file of features says it was made of; "" where it does not, or is none."""
    try:
        with h5py.File(path, "r") as file:
            return str(file["features"].attrs.get("made_from", ""))
    except (OSError, KeyError, AttributeError, RuntimeError):
        return ""


def _images(store: Reader) -> list[tuple[str, NDArray[np.int64]]]:
    """Name and rows of each image of a store, of a slide its own name and all."""
    sources = store.sources
    if sources is None:
        return [(store.meta.name, np.arange(len(store)))]
    names, index = np.unique(sources, return_inverse=True)
    return [(str(name), np.flatnonzero(index == number)) for number, name in enumerate(names)]


def _without_suffix(name: str, store: Reader) -> str:
    return name if store.sources is None else str(PurePosixPath(name).with_suffix(""))
