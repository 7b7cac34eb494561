"""Creating, opening and finding stores, whatever their format: the suffix says which."""

from __future__ import annotations

import copyreg
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsitool import __version__
from wsitool.base.objects import complete_in, names_in
from wsitool.base.paths import AnyPath, as_list, shown
from wsitool.base.urls import RemotePath, as_path, refuse_url
from wsitool.errors import StoreError, UsageError
from wsitool.store.attributes import problem_of
from wsitool.store.damage import damaged
from wsitool.store.hdf5 import Hdf5Writer
from wsitool.store.hdf5_reading import open_hdf5
from wsitool.store.reader import Reader
from wsitool.store.schema import SUFFIX_OF, StoreMeta, StoreWriter
from wsitool.store.zarr import ZarrWriter
from wsitool.store.zarr_reading import open_zarr

__all__ = ["SUFFIXES", "as_read_back", "create_store", "find_stores", "open_store", "stores_at"]

SUFFIXES = tuple(SUFFIX_OF.values())


def create_store(
    path: str | Path, meta: StoreMeta, *, overwrite: bool = False, expected: int = 0
) -> StoreWriter:
    """Begin a store at `path`, HDF5 or zarr by its suffix; nothing appears there before `finish`.

    Where the number of patches is known, `expected` spares a raw HDF5 file unused room.
    Raises StoreError if the path exists and `overwrite` is false, UsageError for another suffix.

    >>> import numpy as np
    >>> from wsitool.store.schema import Candidates, Rows
    >>> meta, coords = wsitool.open_store("stores/a.h5").meta, np.array([[0, 0], [16, 0]])
    >>> tissue, pixels = np.ones(2, np.float32), np.zeros((2, 16, 16, 3), np.uint8)
    >>> with wsitool.create_store("mine.h5", meta) as writer:
    ...     writer.append(Rows(patches=pixels, coords=coords, tissue=tissue))
    ...     _ = writer.finish(
    ...         Candidates(coords=coords, tissue=tissue, reason=np.zeros(2, np.uint8)), counts={"kept": 2}
    ...     )
    >>> len(wsitool.open_store("mine.h5"))
    2
    """
    refuse_url(path)
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UsageError(f"A store's name ends in .h5 or .zarr, got '{path.name}'.")
    if meta.codec == "jpeg" and not 1 <= (meta.quality or 0) <= 100:
        raise UsageError(f"A store of codec 'jpeg' needs a quality of 1 to 100, got {meta.quality!r}.")
    # So that the hash made while writing is the one of reading.
    meta = as_read_back(meta)
    # Here and not at `finish`: hours of tiling should not end in a store that cannot be opened.
    problem = problem_of(meta)
    if problem:
        raise StoreError(f"{path} would not be a store that can be read again: {problem}.")
    writer = Hdf5Writer if path.suffix == ".h5" else ZarrWriter
    return writer(path, meta, overwrite=overwrite, expected=expected)


def as_read_back(meta: StoreMeta) -> StoreMeta:
    """The attributes as a store keeps them: texts as UTF-8 can hold them, and this version's name."""
    return replace(
        meta,
        name=shown(meta.name),
        group=shown(meta.group),
        source=shown(meta.source),
        classes=tuple(shown(name) for name in meta.classes),
        wsitool_version=meta.wsitool_version or __version__,
    )


def open_store(path: str | Path) -> Reader:
    """Open a finished store; StoreError if there is none, CorruptStoreError if it is damaged.

    NotAStoreError for another program's file, SchemaVersionError for another schema. Any number of threads
    may read the store; the patches' pixels are not checked here, but for the size of three.

    >>> store = wsitool.open_store("stores/a.h5")
    >>> store
    <store a.h5: 6 patches of 16 px, raw>
    >>> store[0].shape, store[3:9].shape, store[[1, 5]].shape, sum(1 for _ in store)
    ((16, 16, 3), (3, 16, 16, 3), (2, 16, 16, 3), 6)
    """
    path = as_path(path)
    # Of a URL it is found out by reading it.
    if not isinstance(path, RemotePath) and not path.exists():
        raise StoreError(
            f"There is no patch store at {path}: check the path, or write one with 'wsitool tile'."
        )
    if path.suffix not in SUFFIXES:
        raise StoreError(f"{path} is no patch store: expected a name that ends in .h5 or .zarr.")
    # The suffix decides, not the contents, so that finding the stores of a folder opens no file.
    store = open_hdf5(path) if path.suffix == ".h5" else open_zarr(path)
    problem = store.problem_of_pixels()
    store.close()  # of the many stores of a collection none keeps a file open before it is read
    if problem:
        raise damaged(path, problem)
    return store


def find_stores(paths: AnyPath | Iterable[AnyPath]) -> list[Path]:
    """The store at a path or URL, or the stores directly in that folder, sorted by name; no hidden ones.

    Nothing is opened. A path that is neither a store nor a folder gives none. Of a URL the server is asked:
    RemoteError (a StoreError) where it does not answer.

    >>> [path.name for path in wsitool.find_stores("stores")]
    ['a.h5', 'b.h5']
    """
    return [store for path in as_list(paths) for store in _stores_at(as_path(path))]


def stores_at(paths: AnyPath | Iterable[AnyPath]) -> list[Path]:
    """The stores that `open_collection` opens, each once; StoreError if a path holds none."""
    store_paths: list[Path] = []
    for path in as_list(paths):
        stores = find_stores(path)
        if not stores:
            raise StoreError(
                f"{path} holds no patch store (.h5 or .zarr): give a store, a folder of stores, "
                "or write some with 'wsitool tile' or 'wsitool import'."
            )
        store_paths += stores
    return list(dict.fromkeys(store_paths))


def _stores_at(path: Path) -> list[Path]:
    if isinstance(path, RemotePath):
        return _remote_stores_at(path)
    if path.suffix in SUFFIXES:
        return [path] if os.path.exists(path) else []  # noqa: PTH110 - Path's raises for long names
    if not os.path.isdir(path):  # noqa: PTH112
        return []
    # Hidden names are stores being written (see `base.partial`) or lock files.
    return sorted(
        entry for entry in path.iterdir() if entry.suffix in SUFFIXES and not entry.name.startswith(".")
    )


def _remote_stores_at(path: RemotePath) -> list[Path]:
    if path.suffix in SUFFIXES:
        return [path] if path.exists() else []
    if str(path).startswith(("http://", "https://")):
        return []  # to list a page a server may have to send a slide of gigabytes
    names = [name for name in names_in(str(path)) if name.endswith(SUFFIXES) and not name.startswith(".")]
    return [path / name for name in complete_in(str(path), names)]


def _reopened(store: Reader) -> tuple[Any, ...]:
    return open_store, (store.path,)


copyreg.pickle(Reader, _reopened)  # another process opens the store again: a reader is its files
