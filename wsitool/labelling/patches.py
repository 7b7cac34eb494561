"""The patches that can be asked for: those of all stores that can be opened, but for the test patients'."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.base.groups import group_name
from wsitool.base.paths import AnyPath, shown
from wsitool.base.sentences import one_sentence
from wsitool.base.tables import read_table
from wsitool.errors import CorruptStoreError, LabelError, UsageError
from wsitool.labelling.database import StoreRecord
from wsitool.store.collection import Collection, open_readable
from wsitool.store.layout import Tally
from wsitool.store.opening import find_stores, open_store
from wsitool.store.reader import Reader

__all__ = ["Patches", "columns_of", "groups_of_test", "numbered", "open_patches", "unreadable"]

_AT_ONCE = 256
_KEPT = 8  # stores whose columns are kept
_NAMED_AT_MOST = 3


@dataclass(frozen=True, kw_only=True)
class Patches:
    """All patches of the opened stores, numbered as in `collection`.

    `groups` (N,) names the patient of each. `ids` numbers the stores as the database does; `problems` are
    (store, sentence) of those that could not be opened.
    """

    collection: Collection
    ids: tuple[int, ...]
    groups: NDArray[np.str_]
    problems: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.collection)

    def place(self, patch: int) -> tuple[int, int]:
        """The store's id and the row of a patch."""
        return self.ids[self.collection.store_index[patch]], int(self.collection.row[patch])

    def number(self, store: int, row: int) -> int | None:
        """The patch at a place; None where its store is away, or shorter."""
        if store not in self.ids:
            return None
        index = self.ids.index(store)
        first = int(np.searchsorted(self.collection.store_index, index))
        return first + row if 0 <= row < len(self.collection.stores[index]) else None

    def store(self, patch: int) -> Reader:
        store: Reader = self.collection.stores[self.collection.store_index[patch]]
        return store


def open_patches(stores: AnyPath | Iterable[AnyPath]) -> Patches:
    """Open `stores`; StoreError where none can be opened. Their ids are their places, see `numbered`."""
    collection, problems = open_readable(stores)
    names = np.array([group_name(group) for group in collection.groups], np.str_)
    return Patches(
        collection=collection,
        ids=tuple(range(len(collection.stores))),
        groups=names[collection.group_index],
        problems=tuple(problems),
    )


def numbered(patches: Patches, records: Sequence[StoreRecord]) -> tuple[Patches, list[StoreRecord]]:
    """The same with a database's numbers, and those of its `records` that could not be opened before.

    Without records the stores are numbered here, and all are returned. UsageError where the records are of
    other stores.
    """
    opened, broken = patches.collection.stores, [name for name, _ in patches.problems]
    keys = [(shown(store.path.name), store.content_hash) for store in opened]
    if len(set(keys)) < len(keys):
        raise UsageError("A store was given twice: give each once.")
    known = {(record.name, record.content_hash): record.id for record in records}
    new: list[StoreRecord] = []
    if not known:
        everything = sorted([*keys, *((name, "") for name in broken)])
        known = {key: number for number, key in enumerate(everything)}
        new = [StoreRecord(id=number, name=name, content_hash=of) for (name, of), number in known.items()]
    for name, content in keys:
        # It was damaged when the labels were begun.
        if (name, content) not in known and (name, "") in known:
            id = known[name, content] = known.pop((name, ""))
            new.append(StoreRecord(id=id, name=name, content_hash=content))
    strange = [name for name, content in keys if (name, content) not in known]
    lacking = [name for name, content in known if (name, content) not in keys and name not in broken]
    if strange or lacking:
        said = [f"{what} {_named(names)}" for what, names in (("lack", lacking), ("have", strange)) if names]
        raise UsageError(
            f"The labels in --out are of other stores (those given {' and '.join(said)}): give the stores "
            "they were made with, unchanged, or another --out."
        )
    return replace(patches, ids=tuple(known[key] for key in keys)), new


@lru_cache(maxsize=_KEPT)
def columns_of(store: Reader) -> tuple[NDArray[np.int64], NDArray[np.str_] | None]:
    """Coordinates (n, 2) and, of loose images, their names (n,); those of few stores are kept."""
    return store.coords, store.sources


def unreadable(collection: Collection) -> dict[int, str]:
    """Why patches cannot be read, by number: every patch is read and decoded once."""
    found: dict[int, str] = {}
    size = collection.patch_size
    for first in range(0, len(collection), _AT_ONCE):
        rows = np.arange(first, min(first + _AT_ONCE, len(collection)))
        tally = Tally()
        try:
            collection.read_into(rows, np.empty((len(rows), size, size, 3), np.uint8), tally=tally)
            found |= {first + row: reason for row, reason in tally.bad}
        except CorruptStoreError as error:
            # The file itself: which of its patches are meant is not known.
            found |= {int(row): one_sentence(error) for row in rows}
    return found


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(names[:_NAMED_AT_MOST]) + more


def groups_of_test(test: Sequence[str], collection: Collection) -> set[str]:
    """The patients that `test` names: of stores, folders of stores, or a CSV with group or file."""
    groups: set[str] = set()
    for path in test:
        if stores := find_stores(path):
            groups |= {group_name(open_store(store).meta.group) for store in stores}
        elif Path(path).is_file():
            groups |= _groups_in_table(Path(path), collection)
        else:
            raise UsageError(f"--test '{path}' is neither a store, nor a folder of stores, nor a CSV.")
    return groups


def _groups_in_table(path: Path, collection: Collection) -> set[str]:
    """The groups a table names, and those of the files it names."""
    table = read_table(
        path, needs=(), knows=("group", "file"), what="table of test patients", error=LabelError
    )
    if not {"group", "file"} & table.headers.keys():
        raise LabelError(f"The table of test patients '{path}' needs a column group or file.")
    # A row that is lost here would be asked for, and a test patient in training.
    for line in table.rows:
        if line.problem or not (line["group"] or line["file"]):
            raise LabelError(f"{path}, line {line.line}: {line.problem or 'it names no group and no file'}.")
    groups = {group_name(line["group"]) for line in table.rows} - {""}
    files = {Path(line["file"]).stem for line in table.rows if not line["group"]}
    if files:
        for store in collection.stores:
            names = {
                Path(name).stem
                for name in (store.meta.name, *(() if store.sources is None else store.sources))
            }
            groups |= {group_name(store.meta.group)} if names & files else set()
    return groups
