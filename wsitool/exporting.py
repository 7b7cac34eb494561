"""Stores for other programs: positions for slide tools, images for training code."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from wsitool.errors import StoreError, UsageError
from wsitool.export_coords import to_clam, to_geojson, to_trident
from wsitool.paths import AnyPath, as_list
from wsitool.progress import SILENT, Reporter
from wsitool.store import find_stores, open_store
from wsitool.store.reader import Reader
from wsitool.store.schema import UNLABELLED

__all__ = ["ExportResult", "Target", "export_stores"]

Target = Literal["clam", "trident", "geojson", "imagefolder", "webdataset"]
_BATCH = 256
_UNLABELLED = "unlabelled"


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """Where the export is, the stores and patches it speaks of, and its files relative to `out`."""

    out: Path
    stores: int
    patches: int
    files: tuple[str, ...]


def export_stores(
    path: AnyPath | Iterable[AnyPath],
    out_dir: str | Path,
    to: Target,
    *,
    shard_size: int = 10_000,
    reporter: Reporter = SILENT,
) -> ExportResult:
    """Export the store at `path`, or all stores in that folder (or several), into the new folder `out_dir`.

    `clam`, `trident`, `geojson`: positions, see `wsitool.export_coords`. `imagefolder`: an image per patch in
    a folder per class, as torchvision's ImageFolder reads. `webdataset`: tar shards of at most `shard_size`
    samples (.jpg or .png, .json, and .cls where labelled). JPEG patches are written as stored, never
    compressed again; raw ones become PNG. The folder appears when complete. Raises UsageError if it has
    content already, StoreError if the stores do not suit the target.
    """
    out = Path(out_dir)
    if to not in get_args(Target):
        raise UsageError(f"--to must be one of {', '.join(get_args(Target))}, got '{to}'.")
    if shard_size < 1:
        raise UsageError(f"--shard-size must be at least 1, got {shard_size}.")
    places = as_list(path)
    stores = find_stores(places)
    if not stores:
        where = ", ".join(f"'{place}'" for place in places) or "nowhere"
        raise StoreError(f"There is no patch store at {where}: expected a .h5 or .zarr, or a folder of them.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"'{out}' is not empty: delete it, or give another folder with --out.")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        patches, files = _write(stores, partial, to, shard_size, reporter)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ExportResult(out=out, stores=len(stores), patches=patches, files=tuple(sorted(files)))


def _write(
    stores: list[Path], out: Path, to: Target, shard_size: int, reporter: Reporter
) -> tuple[int, list[str]]:
    files: list[str] = []
    patches = 0
    positions: dict[str, Callable[[Reader, Path], list[str]]] = {
        "clam": to_clam,
        "trident": to_trident,
        "geojson": to_geojson,
    }
    shards = _Shards(out, shard_size)
    with reporter.task("Exporting", total=len(stores), unit="stores") as task:
        for path in stores:
            with open_store(path) as store:
                if to in positions:
                    files += positions[to](store, out)
                elif to == "imagefolder":
                    files += _to_folders(store, out)
                else:
                    for sample in _samples(store):
                        shards.add(sample)
                patches += len(store)
            task.advance(note=path.name)
    shards.close()
    return patches, files + shards.names


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """One patch as an encoded image with what is known of it."""

    key: str
    suffix: str
    image: bytes
    label: str | None
    class_index: int
    facts: dict[str, Any]


def _samples(store: Reader) -> Iterator[_Sample]:
    meta, coords, tissue = store.meta, store.coords, store.tissue
    labels, sources = store.labels, store.sources
    raw = meta.codec == "raw"
    for first in range(0, len(store), _BATCH):
        rows = np.arange(first, min(first + _BATCH, len(store)))
        images = [_png(patch) for patch in store.read(rows)] if raw else store.encoded(rows)
        for row, image in zip(rows.tolist(), images, strict=True):
            x, y = coords[row].tolist()
            index = UNLABELLED if labels is None else int(labels[row])
            label = meta.classes[index] if index != UNLABELLED else None
            facts = {
                "slide": meta.name,
                "group": meta.group,
                "x": x,
                "y": y,
                "patch_size_level0": meta.patch_size_level0,
                "mpp": meta.mpp_effective,
                "tissue": round(float(tissue[row]), 4),
                "label": label,
            }
            if sources is not None:
                facts["source"] = str(sources[row])
            # The row keeps keys apart where patches of several images share positions. A key has no dot:
            # webdataset takes all after the first one as the suffix.
            yield _Sample(
                key=f"{store.path.stem.replace('.', '_')}_{row:06d}_x{x}_y{y}",
                suffix="png" if raw else "jpg",
                image=image,
                label=label,
                class_index=index,
                facts=facts,
            )


def _png(patch: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(patch).save(buffer, format="PNG")
    return buffer.getvalue()


def _to_folders(store: Reader, out: Path) -> list[str]:
    files = []
    for name in store.meta.classes or (_UNLABELLED,):
        (out / _folder(name)).mkdir(exist_ok=True)
    for sample in _samples(store):
        name = f"{_folder(sample.label or _UNLABELLED)}/{sample.key}.{sample.suffix}"
        path = out / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sample.image)
        files.append(name)
    return files


def _folder(label: str) -> str:
    """A class name as a folder name."""
    return label.replace("/", "_").replace("\\", "_").lstrip(".") or "_"


class _Shards:
    """Tar files of a limited number of samples, the same bytes for the same stores."""

    def __init__(self, out: Path, size: int) -> None:
        self._out, self._size, self._count = out, size, 0
        self._tar: tarfile.TarFile | None = None
        self.names: list[str] = []

    def add(self, sample: _Sample) -> None:
        """Append one sample, in a new shard if the last one is full."""
        if self._tar is None or self._count == self._size:
            self.close()
            self.names.append(f"shard-{len(self.names):06d}.tar")
            self._tar = tarfile.open(self._out / self.names[-1], "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self._count = 0
        members = {sample.suffix: sample.image, "json": json.dumps(sample.facts).encode()}
        if sample.label is not None:
            members["cls"] = str(sample.class_index).encode()
        for suffix, data in members.items():
            entry = tarfile.TarInfo(f"{sample.key}.{suffix}")
            entry.size = len(data)
            self._tar.addfile(entry, io.BytesIO(data))
        self._count += 1

    def close(self) -> None:
        """Finish the shard being written."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None
