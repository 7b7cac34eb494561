"""Small labelled stores whose classes a tiny network can tell apart, for the tests of classification."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from patch_stores import patch_meta

from wsitool.store.opening import create_store
from wsitool.store.schema import Candidates, Rows

CLASSES = ("plain", "dotted", "striped")


def labelled_store(
    path: Path,
    *,
    per_class: int = 8,
    size: int = 32,
    seed: int = 0,
    group: str | None = None,
    classes: tuple[str, ...] = CLASSES,
    mpp: float = 0.5,
) -> Path:
    """A raw store of `per_class` patches of each class; the group is the file's stem unless given."""
    rng = np.random.default_rng(seed)
    names = [name for name in classes for _ in range(per_class)]
    patches = np.stack([_patch(name, size, rng) for name in names])
    count = len(names)
    coords = np.stack([np.arange(count) * size, np.zeros(count, int)], axis=1).astype(np.int64)
    tissue = np.ones(count, np.float32)
    rows = Rows(
        patches=patches,
        coords=coords,
        tissue=tissue,
        labels=np.array([classes.index(name) for name in names], np.int16),
        sources=[f"{path.stem}_{name}_{index % per_class}.png" for index, name in enumerate(names)],
    )
    candidates = Candidates(coords=coords, tissue=tissue, reason=np.zeros(count, np.uint8))
    meta = replace(
        patch_meta(path.stem, size, count),
        group=group or path.stem,
        classes=classes,
        mpp_requested=mpp,
        mpp_effective=mpp,
        level0_magnification=20.0,
        target_magnification=20.0,
    )
    with create_store(path, meta) as writer:
        writer.append(rows)
        writer.finish(candidates, counts={"kept": count})
    return path


def _patch(name: str, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    image = np.full((size, size, 3), (225, 190, 215), float) + rng.normal(0, 6, (size, size, 3))
    if name == "dotted":
        image[rng.random((size, size)) < 0.3] = (90, 40, 130)
    elif name == "striped":
        image[rng.integers(0, 4) :: 4] = (200, 60, 120)
    return image.clip(0, 255).astype(np.uint8)
