"""What a page draws over a slide, as one block of bytes: a line of JSON, then the columns it names.

The line ends with a newline and is padded so that the columns begin at a multiple of eight; each column is
little-endian and padded likewise. A million cells are 20 MB and no text is parsed for them.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsitool.errors import WsitoolError
from wsitool.predict.attended import most_attended
from wsitool.slides.contours import outlines_of
from wsitool.slides.tissue import TissueMask
from wsitool.store.reader import Reader

_ATTENTION = "relative_attention"
__all__ = ["packed", "prediction_cells", "store_cells", "tissue_rings"]


def packed(about: dict[str, Any], columns: dict[str, NDArray[Any]]) -> bytes:
    """The block of `about` and `columns`, of which the line tells dtype and length by name."""
    told = {name: [column.dtype.newbyteorder("<").str, int(column.size)] for name, column in columns.items()}
    line = json.dumps(about | {"columns": told}).encode()
    parts = [line + b" " * (-(len(line) + 1) % 8) + b"\n"]
    for column in columns.values():
        data = np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes()
        parts.append(data + bytes(-len(data) % 8))
    return b"".join(parts)


def store_cells(store: Reader) -> bytes:
    """All positions that tiling considered: x, y, reason, and of kept ones their row and label, -1 else."""
    meta = store.meta
    candidates = store.candidates
    row = np.full(len(candidates.coords), -1, np.int32)
    # Both are sorted by (y, x): the kept candidates are the rows, unless patches could not be read.
    keys = {tuple(place): number for number, place in enumerate(store.coords.tolist())}
    for number in np.flatnonzero(candidates.reason == 0).tolist():
        row[number] = keys.get(tuple(candidates.coords[number].tolist()), -1)
    label = np.full(len(row), -1, np.int16)
    if store.labels is not None:
        label[row >= 0] = store.labels[row[row >= 0]]
    about = {
        "size": meta.patch_size_level0,
        "reasons": list(candidates.reasons),
        "classes": list(meta.classes),
        # Patches of loose images: each has coordinates of its own image, and there is no slide.
        "images": store.sources is not None,
    }
    columns: dict[str, NDArray[Any]] = {
        "x": candidates.coords[:, 0].astype(np.int32),
        "y": candidates.coords[:, 1].astype(np.int32),
        "reason": candidates.reason,
        "row": row,
        "label": label,
        "tissue": candidates.tissue,
        **{f"score:{name}": values for name, values in candidates.scores.items()},
    }
    return packed(about, columns)


def tissue_rings(tissue: TissueMask) -> bytes:
    """The edges of the tissue, holes' too: x and y of their points, and how many points each ring has."""
    areas = outlines_of(tissue.mask, tissue.downsample)
    rings = [shapely.get_coordinates(ring) for area in areas for ring in (area.exterior, *area.interiors)]
    points = np.concatenate([np.zeros((0, 2)), *rings]).astype(np.float32)
    columns: dict[str, NDArray[Any]] = {
        "x": points[:, 0],
        "y": points[:, 1],
        "length": np.array([len(ring) for ring in rings], np.int32),
    }
    return packed({}, columns)


def prediction_cells(table: Path) -> bytes:
    """The patches of a slide's table of `predict`: x, y and the probability of each class, (N, K) by row.

    Of a classifier of slides also `attention`, 1 where all patches had the same, and the most attended
    patches. WsitoolError where the table is none of `predict`, or of features that do not say where they lie.
    """
    try:
        with table.open(encoding="utf-8", newline="") as file:
            head = next(csv.reader([file.readline()]))
            if head[:1] == ["row"]:
                raise ValueError("the features do not say where their patches lie")
            attention = [head.index(_ATTENTION)] if _ATTENTION in head else []
            columns = [number for number, name in enumerate(head) if number > 3 and name.startswith("p_")]
            classes = [head[number].removeprefix("p_") for number in columns]
            wanted = (0, 1, 2, *columns, *attention)
            numbers = np.loadtxt(file, delimiter=",", quotechar='"', ndmin=2, usecols=wanted, comments=None)
    except (OSError, ValueError, StopIteration) as error:
        raise WsitoolError(
            f"'{table.name}' is no table of `wsitool predict` ({error}): run it again."
        ) from None
    about = {
        "size": float(numbers[0, 2]) if len(numbers) else 1.0,
        "classes": classes,
        "attended": [one.to_dict() for one in most_attended(table)] if attention else [],
    }
    end = 3 + len(classes)
    drawn: dict[str, NDArray[Any]] = {
        "x": numbers[:, 0].astype(np.int32),
        "y": numbers[:, 1].astype(np.int32),
        "probability": numbers[:, 3:end].astype(np.float32).reshape(-1),
    }
    return packed(about, drawn | ({"attention": numbers[:, end].astype(np.float32)} if attention else {}))
