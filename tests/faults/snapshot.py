"""What a command wrote, in a form in which two runs are equal if they say the same.

Left out is what a clock decides (seconds, rates, dates) and, of a table of slides, what only the run that cut
a slide can know.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wsitool.errors import WsitoolError
from wsitool.labelling.database import Database
from wsitool.store.opening import open_store

__all__ = ["difference", "leftovers", "snapshot"]

_OF_THE_CLOCK = {
    *("seconds", "images_per_s", "images_per_second", "time_shares", "wait_share", "host", "date", "command"),
    *("started", "finished", "patches_per_s", "patches_per_second", "elapsed", "created"),
}
_WAITED = "of the time was spent waiting for patches"  # a warning of `pretrain`
_OF_THE_RUN = {
    "status",
    "resampling",
    "needed_tiles",
    "decoded_tiles",
    "bytes",
}
# Pages and curves show seconds; a checkpoint holds them.
_ONLY_THERE = {".html", ".ckpt"}


def snapshot(out: Path) -> dict[str, str]:
    """What lies under `out`, by relative name, as text (in which NaN equals NaN)."""
    return {str(path.relative_to(out)): repr(_content(path, out)) for path in _items(out)}


def difference(left: dict[str, str], right: dict[str, str]) -> str:
    """The first thing that two snapshots say differently; "" if there is none."""
    for name in sorted(left.keys() | right.keys()):
        one, other = left.get(name, "not there"), right.get(name, "not there")
        if one != other:
            place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
            first = max(0, place - 100)
            return f"{name}: ...{one[first : place + 60]}... against ...{other[first : place + 60]}..."
    return ""


def leftovers(*folders: Path, stopped: bool = False) -> list[str]:
    """Hidden files and folders, and anything temporary by name, anywhere under `folders`.

    A run that was `stopped` may leave the list of what it planned, which `wsitool status` reads; the run that
    ends the work takes it back.
    """
    found: list[str] = []
    for folder in folders:
        for path in folder.rglob("*"):
            name = path.name
            if name.startswith(".") or name.endswith((".partial", ".lock", ".tmp", ".replaced")):
                found.append(str(path))
    return [name for name in found if not (stopped and name.endswith(".planned.json"))]


def _items(folder: Path) -> Iterator[Path]:
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if path.is_dir() and path.suffix != ".zarr":
            yield from _items(path)
        else:
            yield path


def _content(path: Path, out: Path) -> Any:
    if path.suffix in _ONLY_THERE:
        return "there"
    if path.suffix in (".h5", ".zarr"):
        return _store(path)
    if path.suffix == ".csv":
        table = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig").replace(str(out), "OUT")))
        left_out = _OF_THE_CLOCK | (_OF_THE_RUN if path.name == "slides.csv" else set())
        return [{key: _cell(value) for key, value in row.items() if key not in left_out} for row in table]
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text().replace(str(out), "OUT")))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name].tolist() for name in arrays.files}
    if path.suffix == ".db":
        with closing(Database(path, reading=True)) as database:
            return database.about, [replace(answer, at=0.0) for answer in database.answers()]
    if path.suffix in (".md", ".tex", ".txt"):
        return path.read_text().replace(str(out), "OUT")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _cell(text: str) -> Any:
    if not text.startswith("{"):
        return text
    return sorted(json.loads(text).items())


def _store(path: Path) -> Any:
    try:
        with open_store(path) as store:
            found = store.candidates
            columns = (
                found.coords,
                found.tissue,
                found.reason,
                *(found.scores[name] for name in sorted(found.scores)),
            )
            pixels = hashlib.sha256(store.read(range(len(store))).tobytes()).hexdigest()
            return store.content_hash, pixels, store.counts, [column.tolist() for column in columns]
    except WsitoolError:
        if path.suffix == ".zarr":
            raise
    values: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                values.update({name: item[()].tolist()}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return values


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in _OF_THE_CLOCK}
    if isinstance(value, list):
        return [_timeless(item) for item in value if not (isinstance(item, str) and _WAITED in item)]
    return value
