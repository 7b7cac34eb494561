"""Patch stores: create, open, find, and join them to a collection."""

from wsitool.store.collection import Collection, open_collection
from wsitool.store.opening import SUFFIXES, create_store, find_stores, open_store
from wsitool.store.preparing import prepare
from wsitool.store.reader import Reader, Tally, content_hash
from wsitool.store.schema import (
    SCHEMA_VERSION,
    UNLABELLED,
    Candidates,
    Codec,
    Failure,
    PatchStore,
    Prepared,
    Rows,
    StoreMeta,
    StoreWriter,
)

__all__ = [
    "SCHEMA_VERSION",
    "SUFFIXES",
    "UNLABELLED",
    "Candidates",
    "Codec",
    "Collection",
    "Failure",
    "PatchStore",
    "Prepared",
    "Reader",
    "Rows",
    "StoreMeta",
    "StoreWriter",
    "Tally",
    "content_hash",
    "create_store",
    "find_stores",
    "open_collection",
    "open_store",
    "prepare",
]
