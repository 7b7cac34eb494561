"""A collection: the patches of many stores as one sequence; a folder of stores is one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsitool.base.paths import AnyPath, shown
from wsitool.base.sentences import one_sentence
from wsitool.base.urls import RemotePath
from wsitool.errors import LabelError, StoreError, UsageError
from wsitool.store import jpeg
from wsitool.store.classes import renumbered, union_of_classes
from wsitool.store.indexing import IndexedPatches
from wsitool.store.layout import Tally
from wsitool.store.opening import open_store, stores_at
from wsitool.store.options import SplitBy
from wsitool.store.reader import Place, Reader
from wsitool.store.schema import UNLABELLED
from wsitool.store.splits import holdout
from wsitool.store.stain_table import StainTable

__all__ = ["Collection", "open_collection", "open_readable"]

_REMOTE_AT_ONCE = 16  # stores of which something is asked for at the same time


class Collection(IndexedPatches):
    """Patches of `stores`, all of one patch size; 14 bytes of index a patch beside the stores' own.

    `store_index` (N,) int32 and `row` (N,) int32 say where patch i is; `labels` (N,) int16 index `classes`,
    -1 = unlabelled; `group_index` (N,) int32 indexes `groups`, the patients. `stain` is how loaders
    normalise patches; `read` gives them as they are.

    >>> collection = wsitool.open_collection("stores")
    >>> collection
    <collection: 12 patches of 16 px in 2 stores>
    >>> collection[3].shape, collection[2:4].shape, collection[[0, -1]].shape
    ((16, 16, 3), (2, 16, 16, 3), (2, 16, 16, 3))
    >>> train, test = collection.split(by="group", test=0.5, seed=0)
    >>> len(train), len(test), len(wsitool.Collection.concat([train, test.sample(2)]))
    (6, 6, 8)
    """

    def __init__(
        self,
        stores: Sequence[Reader],
        *,
        store_index: NDArray[np.int32],
        row: NDArray[np.int32],
        labels: NDArray[np.int16],
        classes: tuple[str, ...],
        stain: StainTable | None = None,
    ) -> None:
        self.stores, self.stain = tuple(stores), stain
        self.store_index, self.row = store_index, row
        self.labels, self.classes = labels, classes
        # Groups are numbered over all stores, also those of which a subset keeps no patch, so that a group's
        # number means the same patient in every subset.
        self.groups = tuple(dict.fromkeys(store.meta.group for store in self.stores))
        number = {group: index for index, group in enumerate(self.groups)}
        self._group_of_store = np.array([number[store.meta.group] for store in self.stores], dtype=np.int32)
        self._streamed = any(store.streamed for store in self.stores)

    @classmethod
    def of(cls, stores: Sequence[Reader]) -> Self:
        """All patches of `stores`, in order; StoreError if patch sizes differ or there is none.

        Opens nothing; it reads the labels of each store. Closing the collection closes the stores.
        """
        _check_sizes(stores)
        # In the order of the stores, so that the same list of stores always numbers the classes alike.
        classes = union_of_classes([store.meta for store in stores])
        lengths = [len(store) for store in stores]
        labels = [_labels(store, classes) for store in stores]
        return cls(
            stores,
            store_index=np.repeat(np.arange(len(stores), dtype=np.int32), lengths),
            row=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
            labels=np.concatenate(labels),
            classes=classes,
        )

    def __len__(self) -> int:
        return len(self.row)

    def __repr__(self) -> str:
        return f"<collection: {len(self)} patches of {self.patch_size} px in {len(self.stores)} stores>"

    @property
    def patch_size(self) -> int:
        """Side of every patch in pixels."""
        # Any store will do: `of` has compared them all.
        return self.stores[0].meta.patch_size

    @property
    def mpp(self) -> float | None:
        """um/px of the patches, None where a store states none or they differ by more than 5 %."""
        # O(stores), not O(patches): every patch of a store has its resolution.
        stated = [store.meta.mpp_effective for store in self.stores]
        numbers = [mpp for mpp in stated if mpp is not None]
        if len(numbers) < len(stated) or max(numbers) > 1.05 * min(numbers):
            return None
        return float(np.mean(numbers))

    @property
    def group_index(self) -> NDArray[np.int32]:
        # (N,) int32, gathered anew at each call: what can be computed from 4 bytes a store is not kept a
        # patch.
        return self._group_of_store[self.store_index]

    @property
    def sources(self) -> NDArray[np.str_]:
        """(N,) name of the image each patch was cut from: the source column, else the slide's name."""
        # Objects and not fixed-width text: an array of "<U5" would cut the sixth letter of a later store's
        # name.
        names = np.empty(len(self), dtype=object)
        for number, rows in self.rows_by_store():
            store = self.stores[number]
            column = store.sources
            names[rows] = store.meta.name if column is None else column[self.row[rows]]
        return names.astype(np.str_)

    def rows_by_store(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """(number, where in this collection its patches are) of each store that has any here.

        Stores in their order, rows rising. One sort for all: to compare `store_index` with each of 10,000
        stores costs more than most things that are then done.
        """
        order = np.argsort(self.store_index, kind="stable")
        numbers, first = np.unique(self.store_index[order], return_index=True)
        # Of nothing there is one empty part.
        yield from zip(numbers.tolist(), np.split(order, first[1:]), strict=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the stores' content hashes and which of their patches are in the collection.

        Cached: it hashes 8 bytes a patch. The order of the stores counts; labels given by `with_labels` do
        not.
        """
        digest = hashlib.sha256()
        for store in self.stores:
            digest.update(f"{store.meta.name}\0{store.content_hash}\0".encode())
        digest.update(self.store_index.tobytes())
        digest.update(self.row.tobytes())
        if self.stain is not None:
            digest.update(self.stain.key.encode())
        return digest.hexdigest()

    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Patches at `indices`, in the order asked, duplicates allowed: (B, P, P, 3) uint8."""
        out = np.empty((len(indices), self.patch_size, self.patch_size, 3), dtype=np.uint8)
        self.read_into(indices, out)
        return out

    def read_into(
        self,
        indices: Sequence[int] | NDArray[np.integer[Any]],
        out: NDArray[np.uint8],
        *,
        tally: Tally | None = None,
        place: Place = jpeg.problem_of_decoding,
    ) -> None:
        """Read into `out`, C-contiguous (B, P, P, 3) uint8; bad patches and `place` as in `Reader.read_into`.

        Store by store, whatever the order asked for, so that each store's files are leased once a call.
        """
        # Indices of one store side by side, each with its target row; stable, so that neighbours on the disk
        # that were asked for one after the other still are, and one read serves them.
        picked = np.asarray(indices, dtype=np.int64)
        numbers, rows = self.store_index[picked], self.row[picked]
        order = np.argsort(numbers, kind="stable")
        edges = np.flatnonzero(np.diff(numbers[order])) + 1
        parts = [targets for targets in np.split(order, edges) if len(targets)]

        def read(targets: NDArray[np.int64]) -> Tally | None:
            own = None if tally is None else Tally()
            store = self.stores[numbers[targets[0]]]
            store.read_into(rows[targets], out, rows=targets, tally=own, place=place)
            return own

        if any(self.stores[numbers[targets[0]]].is_remote for targets in parts):
            # One after the other they would wait for an answer each.
            with ThreadPoolExecutor(min(_REMOTE_AT_ONCE, len(parts))) as pool:
                costs = list(pool.map(read, parts))
        else:
            costs = [read(targets) for targets in parts]
        for cost in costs:
            if tally is not None and cost is not None:
                tally.add(cost)

    def prefetch(self, indices: NDArray[np.int64]) -> None:
        """Say which patches will be read soon: slides that are streamed decode them meanwhile."""
        numbers = self.store_index[indices]
        for number in np.unique(numbers).tolist():
            self.stores[number].prefetch(self.row[indices[numbers == number]])

    @property
    def streamed(self) -> bool:
        """Whether patches are cut from slides as they are read, and lie in no store."""
        return self._streamed

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Collection:
        """Only the patches at `indices`, in that order; stores, classes and groups stay as they are.

        Shares the stores with this one, so closing either closes both; duplicates are allowed.
        """
        rows = np.asarray(indices, dtype=np.int64)
        # All stores, with those that now have no patch: the store numbers stay valid, and so does `check`.
        return self._changed(store_index=self.store_index[rows], row=self.row[rows], labels=self.labels[rows])

    def sample(self, number: int, *, seed: int = 0) -> Collection:
        """`number` of the patches, drawn by `seed` without replacement, in the order they have here.

        UsageError for a number below 1 or above that of the patches.
        """
        if not 1 <= number <= len(self):
            raise UsageError(f"A sample must be of 1 to {len(self)} patches, got {number}.")
        drawn = np.random.default_rng(seed).choice(len(self), number, replace=False)
        return self.subset(np.sort(drawn))

    def split(
        self, *, by: SplitBy = "group", test: float = 0.3, seed: int = 0
    ) -> tuple[Collection, Collection]:
        """Patches to train on and about a share `test` of them to judge by, every class in both.

        Groups (patients) stay together, or with `by` "patch" they do not. Unlabelled patches are parted as a
        class of their own. UsageError where no choice of whole groups has every class on both sides,
        LabelError where a class has one patch.
        """
        if by not in ("group", "patch"):
            raise UsageError(f"A split is by group or by patch, got {by!r}.")
        if len(self) < 2:
            raise LabelError(f"A split needs at least 2 patches, got {len(self)}.")
        parted = holdout(self.labels, self.group_index, share=test, seed=seed, by=by)
        if parted.by != by:
            count = len(np.unique(self.group_index))
            raise UsageError(
                f"The {count} group(s) are too few, or too unlike, to have every class on both sides: give "
                'more groups, or part single patches with by="patch", which leaks.'
            )
        return self.subset(parted.train), self.subset(parted.held_out)

    @classmethod
    def concat(cls, collections: Iterable[Collection]) -> Self:
        """The patches of several collections, one after another; classes of one name are one class.

        Shares their stores, a store of two of them is there twice. StoreError if patch sizes differ, if there
        is no collection, or if some bring a stain, which is of a collection's stores.
        """
        parts = tuple(collections)
        _check_sizes([store for part in parts for store in part.stores])
        if any(part.stain is not None for part in parts):
            raise StoreError("Collections with a stain cannot be put together: call with_stain afterwards.")
        classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
        first = np.cumsum([0, *(len(part.stores) for part in parts)])
        return cls(
            [store for part in parts for store in part.stores],
            store_index=np.concatenate(
                [part.store_index + before for part, before in zip(parts, first[:-1], strict=True)]
            ).astype(np.int32),
            row=np.concatenate([part.row for part in parts]),
            labels=np.concatenate([renumbered(part.labels, part.classes, classes) for part in parts]),
            classes=classes,
        )

    @property
    def facts(self) -> dict[str, object]:
        """What a notebook shows of it: patches of each class, groups and stores that have any, resolution."""
        numbers = {name: int((self.labels == index).sum()) for index, name in enumerate(self.classes)}
        return {
            "patches": f"{len(self):,}",
            **{name: f"{number:,}" for name, number in numbers.items()},
            "groups": len(np.unique(self.group_index)),
            "stores": len(np.unique(self.store_index)),
            "um/px": "not known" if self.mpp is None else f"{self.mpp:.3g}",
        }

    def with_labels(self, labels: NDArray[np.integer[Any]], classes: Sequence[str]) -> Collection:
        """The same patches with other labels: (N,) indices into `classes`, -1 = unlabelled."""
        if len(labels) != len(self):
            raise StoreError(f"{len(self)} patches need as many labels, got {len(labels)}.")
        return self._changed(labels=np.asarray(labels, dtype=np.int16), classes=tuple(classes))

    def with_stain(self, stain: StainTable | None) -> Collection:
        """The same patches, which loaders normalise by `stain`: a row of it for each of `stores`."""
        return self._changed(stain=stain)

    def _changed(self, **values: Any) -> Collection:
        """The same with other values of its attributes; of 10,000 stores none is looked at again."""
        other = copy(self)
        vars(other).pop("fingerprint", None)
        vars(other).update(values)
        return other

    def capped(self, per_store: int, *, seed: int = 0) -> Collection:
        """At most `per_store` patches of each store, drawn by `seed`; the order of rows is kept.

        Depends on `seed` and the collection only. StoreError for a cap below 1.
        """
        if per_store < 1:
            raise StoreError(f"The cap per slide must be at least 1, got {per_store}.")
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(self))
        # Shuffled, then put together by store: within each the order stays random, so its first `per_store`
        # are a draw without replacement.
        by_store = shuffled[np.argsort(self.store_index[shuffled], kind="stable")]
        numbers = self.store_index[by_store]
        # Where in `by_store` each patch's store begins; the distance to it is the patch's rank in the draw.
        first = np.searchsorted(numbers, numbers, side="left")
        return self.subset(np.sort(by_store[np.arange(len(self)) - first < per_store]))

    def check(self) -> None:
        """Raise CorruptStoreError if a store of its patches is gone, replaced or changed since it was opened.

        Of a subset those alone: to look at all 10,000 for each one costs more than its patches.
        """
        for number in np.flatnonzero(np.bincount(self.store_index)).tolist():
            self.stores[number].check()

    def close(self) -> None:
        for store in self.stores:
            store.close()


def open_collection(paths: AnyPath | Iterable[AnyPath]) -> Collection:
    """Open stores and folders of stores as one collection, in the order given and by name within a folder.

    Raises StoreError if a path holds no store, or if the stores' patch sizes differ.

    >>> collection = wsitool.open_collection("stores")
    >>> collection.classes, collection.groups, len(collection)
    (('adh', 'benign'), ('patient-a', 'patient-b'), 12)
    """
    return Collection.of(_opened(stores_at(paths)))


def open_readable(stores: AnyPath | Iterable[AnyPath]) -> tuple[Collection, list[tuple[str, str]]]:
    """The stores that can be opened, and (store, reason) of the others; StoreError where none can."""
    opened: list[Reader] = []
    errors: dict[str, StoreError] = {}
    for path in stores_at(stores):
        try:
            opened.append(open_store(path))
        except StoreError as error:
            errors[shown(path.name)] = error
    if not opened:
        raise next(iter(errors.values()))
    return Collection.of(opened), [(name, one_sentence(error)) for name, error in errors.items()]


def _opened(paths: Sequence[Path]) -> list[Reader]:
    if not any(isinstance(path, RemotePath) for path in paths):
        return [open_store(path) for path in paths]
    # Each waits for several answers, one after the other.
    with ThreadPoolExecutor(_REMOTE_AT_ONCE) as pool:
        return list(pool.map(open_store, paths))


def _check_sizes(stores: Sequence[Reader]) -> None:
    if not stores:
        raise StoreError("A collection needs at least one patch store, got none.")
    first = stores[0]
    for store in stores:
        if store.meta.patch_size != first.meta.patch_size:
            raise StoreError(
                f"Stores of one collection need one patch size, but {first.path} has "
                f"{first.meta.patch_size} px and {store.path} has {store.meta.patch_size} px: "
                "tile them with the same --patch-size."
            )


def _labels(store: Reader, classes: tuple[str, ...]) -> NDArray[np.int16]:
    """A store's labels as indices into the collection's classes."""
    labels = store.labels
    if labels is None:
        return np.full(len(store), UNLABELLED, dtype=np.int16)
    return renumbered(labels, store.meta.classes, classes)
