"""Patches as images for training code: a folder per class, or tar shards. Nothing is compressed again."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsitool.base.file_names import file_names
from wsitool.curate.export.parts import ExportOutcome, ExportPart, ExportPlan, ExportSource
from wsitool.store.files import Pending
from wsitool.store.layout import Tally
from wsitool.store.opening import open_store
from wsitool.store.reader import Reader
from wsitool.store.schema import UNLABELLED

__all__ = ["plan_image_folders", "plan_webdataset"]

_BATCH = 256
_LEAST_SHARDS = 16  # each process that reads has its own shards
_SHUFFLED = 0x3D5A  # a constant of its own for each draw from one seed
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
    sources: Sequence[ExportSource], *, classes: Sequence[str], shard_size: int, seed: int = 0
) -> ExportPlan:
    """Tar shards over all stores, a part each: at least sixteen where there are so many patches.

    Every shard has samples of all stores, in an order drawn by `seed`: readers shuffle no more than a buffer.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    ends = np.cumsum([0, *(source.patches for source in sources)])
    total = int(ends[-1])
    shards = max(-(-total // shard_size), min(_LEAST_SHARDS, total))
    order = np.random.default_rng([seed, _SHUFFLED]).permutation(total)
    made_of = {
        "to": "webdataset",
        "order": [seed, shards],
        "stores": [(source.identity, source.key) for source in sources],
        "classes": numbers,
    }
    parts = [
        _shard(f"shard-{index:06d}.tar", sources, ends, own, numbers, made_of)
        for index, own in enumerate(np.array_split(order, shards) if total else ())
    ]
    return ExportPlan(parts=parts, numbers=numbers, unit="shards")


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
        names = _labels_of(store)
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


def _shard(
    name: str,
    sources: Sequence[ExportSource],
    ends: NDArray[np.int64],
    samples: NDArray[np.int64],
    numbers: Mapping[str, int],
    made_of: Mapping[str, Any],
) -> ExportPart:
    """The shard of `samples` (n,), which count the rows of all sources, whose first ones are at `ends`."""
    return ExportPart(
        name=name,
        made_of={**made_of, "name": name},
        files=lambda: [name],
        write=lambda out: _write_shard(out / name, sources, ends, samples, numbers),
        patches=len(samples),
    )


def _write_shard(
    path: Path,
    sources: Sequence[ExportSource],
    ends: NDArray[np.int64],
    samples: NDArray[np.int64],
    numbers: Mapping[str, int],
) -> ExportOutcome:
    """Read store by store, each opened once, into a file without a name; then write in the samples' order."""
    problems: list[str] = []
    places: dict[int, tuple[str, list[tuple[str, int, int]]]] = {}
    owner = np.searchsorted(ends, samples, side="right") - 1
    pending = Pending(path, overwrite=True)
    try:
        with tempfile.TemporaryFile(dir=path.parent) as spool:
            for index in np.unique(owner).tolist():
                rows = np.sort(samples[owner == index] - ends[index]).tolist()
                bad: dict[int, str] = {}
                for row, key, members in _samples(sources[index], rows, numbers, bad):
                    parts = []
                    for suffix, data in members.items():
                        parts.append((suffix, spool.tell(), len(data)))
                        spool.write(data)
                    places[int(ends[index]) + row] = key, parts
                problems += [_problem(sources[index], bad)] if bad else []
            # PAX: the older format has no names of more than 100 bytes, 33 Korean letters
            with tarfile.open(pending.temporary, "w", format=tarfile.PAX_FORMAT) as tar:
                for sample in samples.tolist():
                    if sample in places:
                        _append(tar, spool, *places[sample])
        pending.commit()
    finally:
        pending.discard()
    return ExportOutcome(patches=len(places), problem="; ".join(problems))


def _append(tar: tarfile.TarFile, spool: IO[bytes], key: str, parts: Sequence[tuple[str, int, int]]) -> None:
    for suffix, start, length in parts:
        entry = tarfile.TarInfo(f"{key}.{suffix}")
        entry.size = length
        spool.seek(start)
        tar.addfile(entry, spool)


def _samples(
    source: ExportSource, rows: Sequence[int], numbers: Mapping[str, int], bad: dict[int, str]
) -> Iterator[tuple[int, str, dict[str, bytes]]]:
    """Row, key and files of each of `rows` that can be read; the others are noted in `bad`."""
    meta = source.meta
    with open_store(source.path) as store:
        coords, tissue, sources = store.coords, store.tissue, store.sources
        labels = _labels_of(store)
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
            yield row, _key(source, row, x, y), members


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


def _labels_of(store: Reader) -> list[str | None]:
    if store.labels is None:
        return [None] * len(store)
    numbers = store.labels.tolist()
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
