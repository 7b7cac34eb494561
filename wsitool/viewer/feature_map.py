"""Features of `embed` as points of a plane: their first two principal components."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.errors import WsitoolError
from wsitool.store.opening import find_stores
from wsitool.viewer.cells import packed
from wsitool.viewer.library import Library
from wsitool.viewer.predicted import predicted_classes

__all__ = ["feature_map"]

# Rows that the axes are found from, evenly spread: more would not turn them by anything to be seen.
_FOR_AXES = 20_000
_AT_ONCE = 8192


def feature_map(folder: Path, library: Library) -> bytes:
    """The points of all files in `folder`, in units of a standard deviation, and what is known of each.

    Columns: x, y, file, row, label, and what was predicted: by the library's predictions of the slide, else
    by the runs of `classify` that were judged on it. The header names the classes and the files' slides, with
    ids where the library has their stores unchanged. WsitoolError where a file is damaged, or files hold
    features of different encoders.
    """
    files = find_stores(folder)
    try:
        lengths = [_length(path) for path in files]
        mean, axes = _axes(files, lengths)
        points = [(block - mean) @ axes for path in files for block in _blocks(path, 1)]
        told = [_told(path, library) for path in files]
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise WsitoolError(
            f"The features in '{folder.name}' cannot be read ({error}): run embed again."
        ) from None
    predicted = [predicted_classes(one["slide"], n, library) for one, n in zip(told, lengths, strict=True)]
    for one in told:
        one["slide"] = one["slide"] and one["slide"].id
    classes = list(dict.fromkeys(name for one in told for name in one["classes"]))
    classes += sorted({name for names in predicted for name in names if name} - set(classes))
    numbers = {"": -1, **{name: number for number, name in enumerate(classes)}}
    plane = np.concatenate(points).astype(np.float32)
    label = np.concatenate([_renumbered(one.pop("label"), one.pop("classes"), classes) for one in told])
    columns: dict[str, NDArray[Any]] = {
        "x": plane[:, 0],
        "y": plane[:, 1],
        "file": np.repeat(np.arange(len(files), dtype=np.int32), lengths),
        "row": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        "label": label.astype(np.int16),
        "predicted": np.array([numbers[name] for names in predicted for name in names], np.int16),
    }
    return packed({"files": told, "classes": classes}, columns)


def _length(path: Path) -> int:
    with h5py.File(path, "r") as file:
        return int(file["features"].shape[0])


def _blocks(path: Path, step: int) -> Iterator[NDArray[np.float64]]:
    """Every `step`-th row of a file, (n, F), a few thousand at a time."""
    with h5py.File(path, "r") as file:
        data = file["features"]
        for first in range(0, len(data), _AT_ONCE * step):
            yield np.asarray(data[first : first + _AT_ONCE * step : step], np.float64)


def _axes(files: Sequence[Path], lengths: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean (F,) and the two axes (F, 2) of largest variance, scaled by it; signs fixed."""
    step = max(1, sum(lengths) // _FOR_AXES)
    rows = np.concatenate([block for path in files for block in _blocks(path, step)])
    mean = rows.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
    best = vectors[:, :-3:-1]
    best = best * np.sign(best[np.abs(best).argmax(axis=0), np.arange(best.shape[1])])
    return mean, best / np.sqrt(np.maximum(values[:-3:-1], 1e-12))


def _told(path: Path, library: Library) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        name = str(file["features"].attrs.get("name", path.stem))
        label = file.get("label")
        labels = np.full(len(file["features"]), -1) if label is None else np.asarray(label[:])
        classes = [] if label is None else [str(one) for one in label.attrs["classes"]]
        content_hash = str(file["features"].attrs.get("content_hash", ""))
    slide = library.slide_of_store(name, content_hash)
    about = {"name": name, "slide": slide, "group": slide.group if slide else name}
    return about | {"content_hash": content_hash, "label": labels, "classes": classes}


def _renumbered(labels: NDArray[Any], classes: Sequence[str], union: Sequence[str]) -> NDArray[Any]:
    numbers = np.array([*(union.index(name) for name in classes), -1])
    renumbered: NDArray[Any] = numbers[labels]
    return renumbered
