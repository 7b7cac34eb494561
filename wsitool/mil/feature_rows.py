"""Features of one file, whoever wrote it: `embed`, CLAM, TRIDENT, or a run of this room on the way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.errors import StoreError

__all__ = ["FeatureHeader", "Features", "content_of", "is_feature_file", "read_header", "read_rows"]

Features = NDArray[np.float32]
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16
_ROWS = 8192  # whose sums are looked at together


@dataclass(frozen=True, kw_only=True)
class FeatureHeader:
    """What a file says of itself: features (rows, width), the slide's `name` and `encoder`, "" if not said.

    `digest` is a hash of weights, image size and stain norm (`features_digest`), which `embed` writes.
    `sources` (rows,) are the images its patches are of, `labels` (rows,) their classes, "" for none; None
    where the file has no such column.
    """

    rows: int
    width: int
    name: str
    encoder: str
    digest: str
    sources: NDArray[np.str_] | None
    labels: NDArray[np.str_] | None


def is_feature_file(path: Path) -> bool:
    """Whether a file holds features: a .pt of CLAM, or HDF5 with a dataset of that name."""
    if path.suffix in (".pt", ".npy"):
        return path.is_file()
    try:
        with h5py.File(path, "r") as file:
            return isinstance(file.get("features"), h5py.Dataset)
    except (OSError, KeyError, RuntimeError):
        return False


def read_header(path: Path) -> FeatureHeader:
    """The header of a feature file; StoreError where it cannot be read as one."""
    if path.suffix != ".h5":
        shape, header = _array(path).shape, {}
    else:
        try:
            with h5py.File(path, "r") as file:
                shape, header = file["features"].shape, _columns(file)
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise StoreError(f"'{path}' cannot be read as a feature file ({error}).") from None
    # TRIDENT and older CLAM keep an axis of one slide in front.
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(shape) != 2:
        raise StoreError(f"'{path}' must hold features (N, D), got {shape}.")
    values: dict[str, Any] = {
        "name": "",
        "encoder": "",
        "digest": "",
        "sources": None,
        "labels": None,
        **header,
    }
    for name in ("sources", "labels"):
        if values[name] is not None and len(values[name]) != shape[0]:
            raise StoreError(
                f"'{path}' has {shape[0]} features and {len(values[name])} {name}: make it again."
            )
    return FeatureHeader(rows=shape[0], width=shape[1], **values)


def _columns(file: h5py.File) -> dict[str, Any]:
    attributes = file["features"].attrs
    # embed says both; what others call an encoder is enough to tell two apart.
    told = [str(attributes[name]) for name in ("encoder", "lineage", "model_name") if name in attributes]
    labels = None
    if "label" in file and "classes" in file["label"].attrs:
        # -1, unlabelled, is the last of the list.
        names = np.array([*map(str, file["label"].attrs["classes"]), ""], np.str_)
        labels = names[file["label"][()]]
    return {
        "name": str(attributes.get("name", "")) if "made_from" in attributes else "",
        "encoder": ", ".join(told),
        "digest": str(attributes.get("features_digest", "")),
        "sources": np.array(file["source"].asstr()[()], np.str_) if "source" in file else None,
        "labels": labels,
    }


def content_of(path: Path) -> str:
    """What is in a file, in hex: of its size and of blocks spread evenly over it, as it may be gigabytes."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in sorted({round(at) for at in np.linspace(0, max(0, size - _SAMPLE_BYTES), _SAMPLES)}):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def read_rows(path: Path, rows: NDArray[np.int64] | None) -> Features:
    """Features (n, D) float32 of the `rows` of a file, sorted, or of all; StoreError if one is not finite.

    Of an .npy all rows are a view of the file, whose pages the system can drop.
    """
    if path.suffix != ".h5":
        features = _array(path)
        features = features[0] if features.ndim == 3 else features
        features = features if rows is None else features[rows]
    else:
        try:
            with h5py.File(path, "r") as file:
                features = _of_dataset(file["features"], rows)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise StoreError(f"'{path}' cannot be read as a feature file ({error}).") from None
    features = np.ascontiguousarray(features, np.float32)
    for start in range(0, len(features), _ROWS):
        if not np.isfinite(features[start : start + _ROWS]).all():
            raise StoreError(f"'{path}' holds features that are not finite: make it again.")
    return features


def _of_dataset(stored: h5py.Dataset, rows: NDArray[np.int64] | None) -> NDArray[Any]:
    of_slide = (0,) if stored.ndim == 3 else ()
    if rows is None or not len(rows):
        part = slice(None) if rows is None else slice(0, 0)
        return np.asarray(stored[(*of_slide, part)])
    # One read of what lies between: HDF5 takes a list of rows one at a time.
    first, last = int(rows[0]), int(rows[-1])
    return np.asarray(stored[(*of_slide, slice(first, last + 1))])[rows - first]


def _array(path: Path) -> NDArray[Any]:
    try:
        if path.suffix == ".npy":
            # Copy on write, as torch wants arrays that may be written; nobody writes.
            return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
        import torch

        tensor = torch.load(path, map_location="cpu", weights_only=True)
        return np.asarray(tensor.detach().numpy())
    except Exception as error:  # noqa: BLE001 - of a .pt anything may come: torch raises what pickle does
        reason = (str(error).splitlines() or [""])[0]
        raise StoreError(f"'{path}' cannot be read as features ({type(error).__name__}: {reason}).") from None
