"""Patches as images for training code: a folder per class, or tar shards. Nothing is compressed again."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsitool.base.file_names import file_names
from wsitool.curate.export.parts import ExportOutcome, ExportPart, ExportPlan, ExportSource
from wsitool.store.files import Pending
from wsitool.store.opening import open_store
from wsitool.store.reader import Reader, Tally
from wsitool.store.schema import UNLABELLED

__all__ = ["plan_image_folders", "plan_webdataset"]

_BATCH = 256
_UNLABELLED = "unlabelled"


def plan_image_folders(
    sources: Sequence[ExportSource], *, classes: Sequence[str], shard_size: int
) -> ExportPlan:
    """An image per patch in a folder per class, a part per store; numbers are those ImageFolder will give."""
    parts, folders = _image_folders(sources), _class_folders(sources)
    order = sorted(folders, key=folders.__getitem__)  # ImageFolder numbers sorted folder names
    return ExportPlan(
        parts=parts,
        numbers={name: number for number, name in enumerate(order)},
        left_out=sum(source.patches for source in sources) - sum(part.patches for part in parts),
    )


def plan_webdataset(
    sources: Sequence[ExportSource], *, classes: Sequence[str], shard_size: int
) -> ExportPlan:
    """Tar shards over all stores, a part each."""
    numbers = {name: number for number, name in enumerate(classes)}
    return ExportPlan(parts=_webdataset_shards(sources, numbers, shard_size), numbers=numbers, unit="shards")


def _class_folders(sources: Sequence[ExportSource]) -> dict[str, str]:
    """The folder of each class that has patches; {} where no patch is labelled.

    A class without patches has none: torchvision's ImageFolder refuses empty folders.
    """
    classes = sorted({name for source in sources for name in source.labels})
    return dict(zip(classes, file_names(classes), strict=True))


def _image_folders(sources: Sequence[ExportSource]) -> list[ExportPart]:
    """An image per patch in a folder per class, a part per store.

    Where some patches have a label, those that have none are left out: their folder would count as a class.
    """
    folders = _class_folders(sources)
    return [
        ExportPart(
            name=source.name,
            made_of={"to": "imagefolder", "store": source.identity, "key": source.key, "folders": folders},
            files=lambda source=source: list(_places(source, folders).values()),  # type: ignore[misc]
            write=lambda out, source=source: _write_folders(source, folders, out),  # type: ignore[misc]
            patches=sum(source.labels.values()) if folders else source.patches,
        )
        for source in sources
    ]


def _places(source: ExportSource, folders: Mapping[str, str]) -> dict[int, str]:
    """The file of each row that is exported."""
    with open_store(source.path) as store:
        names = _labels_of(store, range(len(store)))
        paths = {}
        for row, ((x, y), name) in enumerate(zip(store.coords.tolist(), names, strict=True)):
            if name is not None or not folders:
                folder = _UNLABELLED if name is None else folders[name]
                paths[row] = f"{folder}/{_key(source, row, x, y)}.{_suffix(store)}"
        return paths


def _write_folders(source: ExportSource, folders: Mapping[str, str], out: Path) -> ExportOutcome:
    places = _places(source, folders)
    for folder in {name.partition("/")[0] for name in places.values()}:
        (out / folder).mkdir(exist_ok=True)
    bad: dict[int, str] = {}
    with open_store(source.path) as store:
        for row, image in _images(store, sorted(places), bad):
            (out / places[row]).write_bytes(image)
    return ExportOutcome(patches=len(places) - len(bad), problem=_problem(source, bad))


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Some rows of a store, in a shard."""

    source: ExportSource
    first: int
    stop: int


def _webdataset_shards(
    sources: Sequence[ExportSource], numbers: Mapping[str, int], shard_size: int
) -> list[ExportPart]:
    """Tar files of `shard_size` samples over all stores in order, a part each; `numbers` are the classes'.

    A sample is .jpg or .png and .json, and .cls where it has a label.
    """
    ends = np.cumsum([0, *(source.patches for source in sources)])
    parts = []
    for index, (first, stop) in enumerate(pairwise([*range(0, int(ends[-1]), shard_size), int(ends[-1])])):
        rows = [
            _Rows(source=source, first=max(0, first - begin), stop=min(end, stop) - begin)
            for source, (begin, end) in zip(sources, pairwise(ends.tolist()), strict=True)
            if begin < stop and end > first
        ]
        parts.append(_shard(f"shard-{index:06d}.tar", rows, numbers))
    return parts


def _shard(name: str, rows: Sequence[_Rows], numbers: Mapping[str, int]) -> ExportPart:
    classes = {label for part in rows for label in part.source.labels}
    return ExportPart(
        name=name,
        made_of={
            "to": "webdataset",
            "rows": [(part.source.identity, part.source.key, part.first, part.stop) for part in rows],
            "classes": {label: numbers[label] for label in classes},
        },
        files=lambda: [name],
        write=lambda out: _write_shard(out / name, rows, numbers),
        patches=sum(part.stop - part.first for part in rows),
    )


def _write_shard(path: Path, rows: Sequence[_Rows], numbers: Mapping[str, int]) -> ExportOutcome:
    problems, patches = [], 0
    pending = Pending(path, overwrite=True)
    try:
        # PAX: the older format has no names of more than 100 bytes, 33 Korean letters
        with tarfile.open(pending.temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for part in rows:
                bad: dict[int, str] = {}
                for key, members in _samples(part, numbers, bad):
                    _append(tar, key, members)
                    patches += 1
                problems += [_problem(part.source, bad)] if bad else []
        pending.commit()
    finally:
        pending.discard()
    return ExportOutcome(patches=patches, problem="; ".join(problems))


def _append(tar: tarfile.TarFile, key: str, members: Mapping[str, bytes]) -> None:
    for suffix, data in members.items():
        entry = tarfile.TarInfo(f"{key}.{suffix}")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))


def _samples(
    part: _Rows, numbers: Mapping[str, int], bad: dict[int, str]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and files of each row that can be read; the others are noted in `bad`."""
    meta = part.source.meta
    with open_store(part.source.path) as store:
        coords, tissue, sources = store.coords, store.tissue, store.sources
        rows = range(part.first, part.stop)
        labels = dict(zip(rows, _labels_of(store, rows), strict=True))
        for row, image in _images(store, rows, bad):
            x, y = coords[row].tolist()
            about: dict[str, Any] = {
                "slide": meta.name,
                "group": meta.group,
                "x": x,
                "y": y,
                "patch_size_level0": meta.patch_size_level0,
                "mpp": meta.mpp_effective,
                "tissue": round(float(tissue[row]), 4),
                "label": labels[row],
            }
            if sources is not None:
                about["source"] = str(sources[row])
            members = {_suffix(store): image, "json": json.dumps(about).encode()}
            label = labels[row]
            if label is not None:
                members["cls"] = str(numbers[label]).encode()
            yield _key(part.source, row, x, y), members


def _images(store: Reader, rows: Sequence[int], bad: dict[int, str]) -> Iterator[tuple[int, bytes]]:
    """The row and the encoded image of each patch; each is decoded once, so that no damaged one goes out."""
    size, raw = store.meta.patch_size, store.meta.codec == "raw"
    pixels = np.empty((_BATCH, size, size, 3), np.uint8)
    for first in range(0, len(rows), _BATCH):
        batch, tally = list(rows[first : first + _BATCH]), Tally()
        store.read_into(batch, pixels[: len(batch)], tally=tally)
        bad.update({batch[position]: reason for position, reason in tally.bad})
        good = [(position, row) for position, row in enumerate(batch) if row not in bad]
        if raw:
            yield from ((row, _png(pixels[position])) for position, row in good)
        else:
            yield from zip([row for _, row in good], store.encoded([row for _, row in good]), strict=True)


def _labels_of(store: Reader, rows: range) -> list[str | None]:
    if store.labels is None:
        return [None] * len(rows)
    numbers = store.labels[rows.start : rows.stop].tolist()
    return [None if number == UNLABELLED else store.meta.classes[number] for number in numbers]


def _key(source: ExportSource, row: int, x: int, y: int) -> str:
    # The row keeps apart patches of several images at the same place.
    return f"{source.key}_{row:06d}_x{x}_y{y}"


def _suffix(store: Reader) -> str:
    return "png" if store.meta.codec == "raw" else "jpg"


def _png(patch: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(patch).save(buffer, format="PNG")
    return buffer.getvalue()


def _problem(source: ExportSource, bad: Mapping[int, str]) -> str:
    if not bad:
        return ""
    reason, _ = Counter(bad.values()).most_common(1)[0]
    return f"{len(bad)} patches of {source.path.name} cannot be read and are left out ({reason})"
