"""Patch positions for other programs: CLAM, TRIDENT and QuPath. No pixels are copied."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wsitool.errors import StoreError
from wsitool.report.files import replace_file
from wsitool.store.reader import Reader
from wsitool.store.schema import StoreMeta

__all__ = ["to_clam", "to_geojson", "to_trident"]

_MPP_AT_1X = 10.0
_PALETTE = ((0, 122, 92), (213, 94, 0), (0, 114, 178), (204, 121, 167), (230, 159, 0), (86, 180, 233))


def to_clam(store: Reader, out: Path) -> list[str]:
    """Write `patches/<slide>.h5` as CLAM's create_patches_fp does: `/coords` (N, 2) level-0 x, y.

    CLAM's `patch_size` counts pixels of `patch_level`. Level 0 is the one level that fits every resolution
    exactly, so it is used always; CLAM then resizes to its encoder's input.
    """
    meta = _of_slide(store)
    size = round(meta.patch_size_level0)
    dims = np.array([meta.level0_width, meta.level0_height])
    attributes = {
        "patch_size": size,
        "patch_level": 0,
        "downsample": np.array([1.0, 1.0]),
        "downsampled_level_dim": dims,
        "level_dim": dims,
        "name": meta.name,
        "save_path": "patches",
    }
    return [_write_h5(store, out, f"patches/{meta.name}.h5", attributes)]


def to_trident(store: Reader, out: Path) -> list[str]:
    """Write `<mag>x_<px>px_<overlap>px_overlap/patches/<slide>_patches.h5` in TRIDENT's convention.

    There `patch_size` counts pixels at the target magnification. StoreError where the store states no
    magnification and no mpp to derive it from.
    """
    meta = _of_slide(store)
    target, level0 = _magnifications(meta)
    overlap = max(0, meta.patch_size - meta.stride)
    folder = f"{target}x_{meta.patch_size}px_{overlap}px_overlap"
    attributes = {
        "patch_size": meta.patch_size,
        "patch_size_level0": round(meta.patch_size_level0),
        "level0_magnification": level0,
        "target_magnification": target,
        "overlap": overlap,
        "name": meta.name,
        "savetodir": folder,
        "level0_width": meta.level0_width,
        "level0_height": meta.level0_height,
    }
    return [_write_h5(store, out, f"{folder}/patches/{meta.name}_patches.h5", attributes)]


def to_geojson(store: Reader, out: Path) -> list[str]:
    """Write `<slide>.geojson` for QuPath: a square per patch, with its class and scores as measurements."""
    meta = _of_slide(store)
    found = store.candidates
    kept = found.reason == 0
    measurements = {"tissue": store.tissue}
    measurements |= {name: values[kept] for name, values in found.scores.items() if kept.sum() == len(store)}
    labels = store.labels
    features = []
    for row, (x, y) in enumerate(store.coords.tolist()):
        label = -1 if labels is None else int(labels[row])
        properties: dict[str, Any] = {
            "objectType": "tile",
            "measurements": {n: float(v[row]) for n, v in measurements.items() if np.isfinite(v[row])},
        }
        if label >= 0:
            color = list(_PALETTE[label % len(_PALETTE)])
            properties["classification"] = {"name": meta.classes[label], "color": color}
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [_ring(x, y, meta.patch_size_level0)]},
                "properties": properties,
            }
        )
    name = f"{meta.name}.geojson"
    text = json.dumps({"type": "FeatureCollection", "features": features})
    replace_file(out / name, text.encode())
    return [name]


def _ring(x: int, y: int, size: float) -> list[list[float]]:
    return [[x, y], [x + size, y], [x + size, y + size], [x, y + size], [x, y]]


def _of_slide(store: Reader) -> StoreMeta:
    if store.sources is not None:
        raise StoreError(
            f"{store.path} holds patches of imported images, which have no place on a slide: export it to "
            "imagefolder or webdataset."
        )
    return store.meta


def _magnifications(meta: StoreMeta) -> tuple[int, int]:
    """Target and level-0 magnification as TRIDENT names them, whole numbers."""
    pairs = ((meta.target_magnification, meta.mpp_effective), (meta.level0_magnification, meta.mpp_level0))
    found = [power or (_MPP_AT_1X / mpp if mpp else 0.0) for power, mpp in pairs]
    if not all(found):
        raise StoreError(
            f"The store of '{meta.name}' states no magnification and no mpp, which TRIDENT needs: tile the "
            "slide with --default-mpp."
        )
    return max(1, round(found[0])), max(1, round(found[1]))


def _write_h5(store: Reader, out: Path, name: str, attributes: dict[str, Any]) -> str:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        coords = file.create_dataset("coords", data=store.coords)
        for key, value in attributes.items():
            coords.attrs[key] = value
    replace_file(out / name, buffer.getvalue())
    return name
