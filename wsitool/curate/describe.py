"""What a path is: a slide, a patch store, what a command wrote into a folder, or encoder weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from safetensors import SafetensorError, safe_open

from wsitool.base.json_files import parse_json, read_json
from wsitool.base.lock import is_locked
from wsitool.base.tables import read_table
from wsitool.base.urls import as_path, is_url
from wsitool.curate.folders import FolderKind, kind_of_folder
from wsitool.curate.foreign_files import foreign_facts, foreign_files
from wsitool.curate.splitting import SIDES, SPLIT_JSON
from wsitool.errors import EncoderError, NotAStoreError, StoreError, UsageError
from wsitool.slides.readers import open_slide
from wsitool.slides.readers.folders import entry_file, image_attributes, zarr_metadata
from wsitool.slides.readers.icc import profile_name
from wsitool.slides.slide import BLANK_TILES, NOT_SQUARE
from wsitool.store.collection import open_collection
from wsitool.store.foreign import features_folder
from wsitool.store.opening import SUFFIXES, find_stores, open_store
from wsitool.store.schema import PatchStore

__all__ = ["Description", "describe"]


@dataclass(frozen=True, kw_only=True)
class Description:
    """`kind` of the thing at `path` and its `facts`, which JSON can hold, most important first."""

    kind: str
    path: str
    facts: dict[str, Any]


def describe(path: str | Path) -> Description:
    """Say what `path`, or the URL of a slide or store, is; UsageError if nothing is there.

    Else what its reader raises.

    Folders are told apart by `kind_of_folder`, files by their suffix; nothing is changed. A damaged store,
    slide or weights file raises its reader's error.
    """
    if is_url(path):
        if str(path).endswith(SUFFIXES):
            with suppress(NotAStoreError):  # an OME-Zarr image has the same ending
                return Description(kind="store", path=str(path), facts=_store(as_path(path)))
        return Description(kind="slide", path=str(path), facts=_slide(path))
    path = Path(path)
    if not path.exists():
        raise UsageError(f"There is no file or folder '{path}': check the spelling.")
    others = foreign_files(path)
    # hs2p's are no store's nor slide's.
    if others and others[0].suffix == ".npz" and kind_of_folder(path) is None:
        return _foreign(path)
    try:
        kind, read_facts = _reader(path)
        return Description(kind=kind, path=str(path), facts=read_facts(path))
    except NotAStoreError:
        # Beside a store of ours it is the one file that is to be told.
        if not others or (path.is_dir() and any(map(_is_store, find_stores(path)))):
            raise
        return _foreign(path)


def _reader(path: Path) -> tuple[str, Callable[[Path], dict[str, Any]]]:
    # In this order: a run folder may hold stores, a store may be a folder.
    kind = kind_of_folder(path) if path.suffix not in SUFFIXES else None
    if kind in _OF_FOLDERS:
        return _OF_FOLDERS[kind]
    if (path / SPLIT_JSON).is_file():
        return "split", _split
    metadata = zarr_metadata(path)
    if (metadata and image_attributes(metadata.read_bytes())) or (not metadata and entry_file(path)):
        return "slide", _slide
    if path.suffix in (*SUFFIXES, ".hdf5"):
        return "store", _store
    if path.is_dir():
        if find_stores(path):
            return "collection", _collection
        if foreign_files(path):
            raise NotAStoreError(f"'{path}' is a folder of another program's files.")
        raise UsageError(
            f"'{path}' is a folder without patch stores (.h5, .zarr) or anything else of wsitool; "
            "'wsitool audit' says what slides are in it."
        )
    if path.suffix == ".safetensors":
        return "weights", _weights
    return "slide", _slide


def _slide(path: str | Path) -> dict[str, Any]:
    # Closed at once: everything is in the header.
    with open_slide(path) as slide:
        info = slide.info
    return {
        "name": info.name,
        "format": info.format,
        "reader": info.reader,
        "reader because": info.properties.get("reader_reason"),
        "size": [info.width, info.height],
        "mpp": info.mpp,
        "mpp from": info.mpp_source,
        "objective power": info.objective_power,
        **{name: info.properties[name] for name in (NOT_SQUARE, BLANK_TILES) if name in info.properties},
        "levels": [[level.width, level.height, round(level.downsample, 4)] for level in info.levels],
        **({"icc profile": profile_name(info.icc_profile)} if info.icc_profile else {}),
        "fingerprint": info.fingerprint,
    }


def _store(path: Path) -> dict[str, Any]:
    with open_store(path) as store:
        return {
            "patches": len(store),
            **asdict(store.meta),
            "labels": _label_counts(store),
            "counts": store.counts,
            "failures": len(store.failures),
            **({} if store.psnr is None else {"psnr": store.psnr}),
            **({} if store.note is None else {"note": store.note}),
            "content hash": store.content_hash,
        }


def _is_store(path: Path) -> bool:
    try:
        open_store(path).close()
    except NotAStoreError:
        return False
    except StoreError:
        return True  # damaged, and ours
    return True


def _foreign(path: Path) -> Description:
    """What another program has written, file or folder, or features of ours."""
    kind, facts = foreign_facts(foreign_files(path))
    return Description(kind=kind, path=str(path), facts=facts)


def _label_counts(store: PatchStore) -> dict[str, int]:
    if store.labels is None:
        return {}
    names = (*store.meta.classes, "unlabelled")  # -1 is the last one
    return {names[index]: int(n) for index, n in sorted(Counter(store.labels.tolist()).items())}


def _collection(path: Path) -> dict[str, Any]:
    collection = open_collection(path)
    labels = collection.labels
    return {
        "stores": len(collection.stores),
        "patches": len(collection),
        "patch size": collection.patch_size,
        "mpp": collection.mpp,
        "groups": len(collection.groups),
        "labels": {name: int(np.sum(labels == index)) for index, name in enumerate(collection.classes)},
        "fingerprint": collection.fingerprint,
    }


def _split(path: Path) -> dict[str, Any]:
    return {side: _collection(path / side) for side in SIDES}


def _run(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path / "run.json")
    except ValueError as error:
        raise UsageError(f"'{path / 'run.json'}' is not a run's ({error}): was it cut short?") from None
    if not isinstance(record, dict):
        raise UsageError(f"'{path / 'run.json'}' is not a run's: it must hold names and values.")
    if record.get("status") == "running" and not is_locked(path):
        # Killed: whoever wrote that had no time to write more.
        advice = "run the same command again with --resume auto"
        return {**record, "status": "interrupted", "to go on": advice}
    return record


def _predictions(path: Path) -> dict[str, Any]:
    rows = read_table(path / "summary.csv", needs=("slide", "status", "verdict"), knows=("patches",)).rows
    done = [row for row in rows if row["status"] == "done"]
    return {
        "slides": len(done),
        "failed": len(rows) - len(done),
        "patches": sum(int(row["patches"]) for row in done if row["patches"].isdigit()),
        "verdicts": dict(Counter(row["verdict"] for row in done)),
    }


def _features(path: Path) -> dict[str, Any]:
    files = find_stores(features_folder(path))
    shapes, attributes = [], {}
    for one in files:
        try:
            with h5py.File(one, "r") as file:
                shapes.append(file["features"].shape)
                attributes = dict(file["features"].attrs)
        except (OSError, KeyError, RuntimeError) as error:
            raise UsageError(
                f"'{one}' is no file of features ({error}): write it again with embed."
            ) from None
    return {
        "files": len(files),
        "patches": sum(int(shape[0]) for shape in shapes),
        "features": int(shapes[0][1]),
        "encoder": str(attributes.get("encoder", "")),
        "lineage": str(attributes.get("lineage", "")),
    }


def _experiment(path: Path) -> dict[str, Any]:
    try:
        plan = read_json(path / "plan.json")
    except ValueError as error:
        raise UsageError(f"'{path / 'plan.json'}' is not an experiment's ({error}).") from None
    finished = (path / "results.json").is_file()
    on = {} if finished else {"to go on": "run the same command again"}
    return {"finished": finished, "cells": len(list(path.glob("cells/*.npz"))), **on, "plan": plan}


_OF_FOLDERS: Mapping[FolderKind | None, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    **dict.fromkeys(("run", "pretrain", "classify"), ("run", _run)),
    "predict": ("predictions", _predictions),
    "embed": ("features", _features),
    "experiment": ("experiment", _experiment),
}


def _weights(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            # Only the header is read.
            metadata = file.metadata() or {}
            tensors = len(file.keys())
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"'{path}' is not a safetensors file ({error}): it may be truncated.") from None
    return {"tensors": tensors, **{key: _from_json(text) for key, text in metadata.items()}}


def _from_json(text: str) -> Any:
    # Cards are JSON, other programs' metadata plain text.
    try:
        return parse_json(text)
    except ValueError:
        return text
