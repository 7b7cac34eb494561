"""What a path is: a slide, a patch store, a collection of stores, a run, or encoder weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from wsitool.base.json_files import parse_json, read_json
from wsitool.base.lock import is_locked
from wsitool.errors import EncoderError, UsageError
from wsitool.slides.readers import open_slide
from wsitool.slides.readers.byte_source import is_url
from wsitool.slides.readers.folders import entry_file, image_attributes, zarr_metadata
from wsitool.slides.readers.icc import profile_name
from wsitool.slides.slide import BLANK_TILES, NOT_SQUARE
from wsitool.store.collection import open_collection
from wsitool.store.opening import find_stores, open_store
from wsitool.store.schema import PatchStore

__all__ = ["Description", "describe"]


@dataclass(frozen=True, kw_only=True)
class Description:
    """`kind` of the thing at `path` and its `facts`, which JSON can hold, most important first."""

    kind: str
    path: str
    facts: dict[str, Any]


def describe(path: str | Path) -> Description:
    """Say what `path`, or a slide's URL, is; UsageError if nothing is there, else what its reader raises.

    Decided by content where a folder has a run.json, else by suffix; nothing is changed. A damaged store,
    slide or weights file raises its reader's error.
    """
    if is_url(path):
        return Description(kind="slide", path=str(path), facts=_slide(path))
    path = Path(path)
    if not path.exists():
        raise UsageError(f"There is no file or folder '{path}': check the spelling.")
    kind, read_facts = _reader(path)
    return Description(kind=kind, path=str(path), facts=read_facts(path))


def _reader(path: Path) -> tuple[str, Callable[[Path], dict[str, Any]]]:
    # In this order: a run folder may hold stores, a store may be a folder.
    if (path / "run.json").is_file():
        return "run", _run
    metadata = zarr_metadata(path)
    if (metadata and image_attributes(metadata.read_bytes())) or (not metadata and entry_file(path)):
        return "slide", _slide
    if path.suffix in (".h5", ".hdf5", ".zarr"):
        return "store", _store
    if path.is_dir():
        if find_stores(path):
            return "collection", _collection
        raise UsageError(f"'{path}' is a folder without patch stores (.h5, .zarr) or a run.json.")
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
            "content hash": store.content_hash,
        }


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
