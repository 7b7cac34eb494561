"""Small unlabelled stores of real-looking patches for the tests of pretraining."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wsitool.store.opening import create_store
from wsitool.store.schema import UNLABELLED, Candidates, Rows, StoreMeta
from wsitool.testing.stores import write_example


def patch_folder(folder: Path, *, stores: int = 2, each: int = 12, size: int = 32, seed: int = 0) -> Path:
    """A folder of raw stores, one patient each: blobs of two colours on a pale ground, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(stores):
        name = f"{folder.name}-{index}"
        ground = rng.normal(215, 12, (each, size, size, 3))
        low = rng.random((each, 4, 4, 1)).repeat(size // 4, axis=1).repeat(size // 4, axis=2)
        patches = np.where(low < 0.4, ground - rng.uniform(40, 120, (each, 1, 1, 3)), ground)
        coords = np.stack([np.arange(each) * size, np.zeros(each, int)], axis=1).astype(np.int64)
        tissue = np.ones(each, np.float32)
        rows = Rows(patches=patches.clip(0, 255).astype(np.uint8), coords=coords, tissue=tissue)
        kept = Candidates(coords=coords, tissue=tissue, reason=np.zeros(each, np.uint8))
        with create_store(folder / f"{name}.h5", patch_meta(name, size, each)) as writer:
            writer.append(rows)
            writer.finish(kept, counts={"kept": each})
    return folder


def patch_meta(name: str, size: int, count: int) -> StoreMeta:
    """What a raw store of `count` patches of `size` px in one row says of itself."""
    return StoreMeta(
        name=name,
        group=f"patient-{name}",
        source=f"{name}.png",
        fingerprint=name,
        level0_width=size * count,
        level0_height=size,
        patch_size=size,
        patch_size_level0=size,
        stride=size,
        stride_level0=size,
        level=0,
        mpp_level0=0.5,
        mpp_requested=None,
        mpp_effective=0.5,
        level0_magnification=None,
        target_magnification=None,
        codec="raw",
        quality=None,
        reader="image",
    )


def small_store(
    path: Path,
    labels: tuple[str | None, ...],
    *,
    classes: tuple[str, ...] | None = None,
    name: str = "",
    sources: tuple[str, ...] = (),
    **changes: Any,
) -> Path:
    """A raw store of one 16-px patch for each label, its pixels all different."""
    number, size = len(labels), 16
    own = tuple(sorted({label for label in labels if label})) if classes is None else classes
    rng = np.random.default_rng(number)
    coords = np.stack([np.arange(number) * size, np.zeros(number, int)], axis=1).astype(np.int64)
    tissue = np.linspace(0.5, 1, number, dtype=np.float32)
    rows = Rows(
        patches=rng.integers(0, 255, (number, size, size, 3)).astype(np.uint8),
        coords=coords,
        tissue=tissue,
        labels=np.array([own.index(n) if n else UNLABELLED for n in labels], np.int16) if own else None,
        sources=[sources[row % len(sources)] for row in range(number)] if sources else None,
    )
    meta = replace(patch_meta(name or path.stem, size, number), classes=own, **changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with create_store(path, meta) as writer:
        writer.append(rows)
        kept = Candidates(coords=coords, tissue=tissue, reason=np.zeros(number, np.uint8))
        writer.finish(kept, counts={"kept": number})
    return path


def damaged_folder(folder: Path) -> Path:
    """A folder of one store of 40 JPEG patches, `a.h5`, whose row 3 cannot be decoded."""
    folder.mkdir()
    write_example(folder / "a.h5", "jpeg", 40)
    with h5py.File(folder / "a.h5", "r+") as file:
        offsets = file["encoded/offsets"][:].tolist()
        file["encoded/blob"][offsets[3] : offsets[4]] = 0
    return folder
