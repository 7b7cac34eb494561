"""What is done to a store: to its bytes, its attributes, its columns, in HDF5 and in zarr."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from fuzz.slide_damage import flip, truncate

__all__ = ["DAMAGE"]

Rng = np.random.Generator
_EVIL = (
    "../../evil",
    "/proc/self/evil",
    "a/b",
    "..",
    ".",
    "",
    "x\0y",
    "n" * 400,
    "=1+1",
    "zeile\nzwei",
    "\x1b[31mred\x07",
    "\ud55c" * 90,
)
_WRONG: tuple[Any, ...] = (
    -1,
    0,
    2**31,
    2**62,
    math.nan,
    math.inf,
    -0.5,
    1e300,
    "",
    "x",
    "null",
    "[]",
    "{}",
    "[1,",
    True,
)
_COMPOUND: tuple[Any, ...] = (
    "null",
    "[]",
    "{}",
    '"x"',
    "[1, 2",
    '{"a": NaN}',
    "[" * 5000,
    '["a", "a"]',
    "7",
    '{"kept": -1}',
)
_NAMES = ("name", "group", "source")
_JSON = ("params", "classes", "counts")


def _pick(rng: Rng, things: Any) -> Any:
    return things[int(rng.integers(len(things)))]


def _attribute(rng: Rng, attributes: dict[str, Any]) -> tuple[str, Any, str]:
    """Change one of `attributes` in place."""
    name = _pick(rng, sorted(attributes))
    if rng.random() < 0.35:
        name = _pick(rng, (*_NAMES, *_JSON))
    if rng.random() < 0.15:
        attributes.pop(name, None)
        return name, None, f"attribute {name} removed"
    values: Any = _EVIL if name in _NAMES else _COMPOUND if name in _JSON else _WRONG
    value = _pick(rng, values)
    attributes[name] = value
    return name, value, f"attribute {name} = {str(value)[:40]!r}"


# HDF5


def _flip_file(rng: Rng, path: Path) -> str:
    data = path.read_bytes()
    places = range(min(4096, len(data))) if rng.random() < 0.6 else None
    damaged, title = flip(rng, data, places)
    path.write_bytes(damaged)
    return title


def _truncate_file(rng: Rng, path: Path) -> str:
    damaged, title = truncate(rng, path.read_bytes())
    path.write_bytes(damaged)
    return title


def _h5_attribute(rng: Rng, path: Path) -> str:
    with h5py.File(path, "r+") as file:
        attributes = dict(file.attrs)
        name, value, title = _attribute(rng, attributes)
        if name in file.attrs:
            del file.attrs[name]
        if name in attributes:
            if isinstance(value, str) and "\0" in value:
                value = np.bytes_(value.encode())
            file.attrs[name] = value
    return title


def _datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _h5_column(rng: Rng, path: Path) -> str:
    """Replace a column by one of another type, shape or content."""
    with h5py.File(path, "r+") as file:
        name = _pick(rng, _datasets(file))
        old = file[name]
        attributes = dict(old.attrs)
        if name in ("patches", "encoded/blob") or old.dtype.kind == "O":
            values: Any = old[()]
        else:
            values = old[()].astype(np.float64)
        new, title = _other_column(rng, values)
        if rng.random() < 0.5 and old.dtype.kind in "iuf" and new.dtype.kind in "iuf":
            with np.errstate(invalid="ignore"):
                new = new.astype(old.dtype)
        del file[name]
        file[name] = new
        file[name].attrs.update(attributes)
    return f"column {name}: {title}"


def _other_column(rng: Rng, values: Any) -> tuple[Any, str]:
    numbers = values if values.dtype.kind in "iuf" else np.arange(len(values), dtype=np.float64)
    spoiled = numbers.astype(np.float64).copy()
    if spoiled.size:
        spoiled.flat[int(rng.integers(spoiled.size))] = _pick(rng, (math.nan, math.inf, -5, 1e18, 0.5))
    choices = (
        (spoiled, "one value spoiled"),
        (values[:-1], "a row less"),
        (np.concatenate([values, values[-1:]]), "a row more"),
        (values[:0], "no rows"),
        (values[None], "an axis more"),
        (np.float64(3), "a single number"),
        (values[::-1], "rows turned round"),
        (np.array([f"{v}" for v in range(len(values))], dtype=h5py.string_dtype()), "text"),
        (numbers.astype(np.complex128), "complex numbers"),
    )
    return _pick(rng, choices)


def _h5_link(rng: Rng, path: Path) -> str:
    """Put something else than a column where a column was."""
    with h5py.File(path, "r+") as file:
        name = _pick(rng, _datasets(file))
        shape, dtype = file[name].shape, file[name].dtype
        what = _pick(rng, ("nothing", "soft", "external", "group", "loop", "external storage", "huge"))
        del file[name]
        if what == "soft":
            file[name] = h5py.SoftLink("/nowhere")
        elif what == "external":
            file[name] = h5py.ExternalLink("/etc/passwd", "/x")
        elif what == "loop":
            file[name] = h5py.SoftLink(f"/{name}")
        elif what == "group":
            file.create_group(name)
        elif what == "external storage" and dtype.kind in "iuf":
            file.create_dataset(name, shape, dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
        elif what == "huge" and dtype.kind in "iuf":
            file.create_dataset(name, (300_000_000, *shape[1:]), dtype, chunks=True)
    return f"column {name}: {what}"


def _h5_claims(rng: Rng, path: Path) -> str:
    """All candidates' columns grow to 300 million rows that were never written."""
    with h5py.File(path, "r+") as file:
        for name in [name for name in _datasets(file) if name.startswith("candidates/")]:
            shape, dtype, attributes = file[name].shape, file[name].dtype, dict(file[name].attrs)
            del file[name]
            file.create_dataset(name, (300_000_000, *shape[1:]), dtype, chunks=True)
            file[name].attrs.update(attributes)
    return "300 million candidates claimed"


def _h5_pixel(rng: Rng, path: Path) -> str:
    with h5py.File(path, "r+") as file:
        data = file["patches"] if "patches" in file else file["encoded/blob"]
        place = tuple(int(rng.integers(side)) for side in data.shape)
        data[place] = int(data[place]) ^ 0x55
    return f"stored byte {place} changed"


# zarr


def _zarr_files(path: Path) -> list[Path]:
    return sorted(entry for entry in path.rglob("*") if entry.is_file())


def _zarr_bytes(rng: Rng, path: Path) -> str:
    file = _pick(rng, _zarr_files(path))
    title = (_flip_file if rng.random() < 0.5 and file.stat().st_size else _truncate_file)(rng, file)
    return f"{file.relative_to(path)}: {title}"


def _zarr_lost(rng: Rng, path: Path) -> str:
    file = _pick(rng, _zarr_files(path))
    file.unlink()
    what = _pick(rng, ("lost", "a folder", "a broken link", "a link to itself"))
    if what == "a folder":
        file.mkdir()
    elif what == "a broken link":
        file.symlink_to("nowhere")
    elif what == "a link to itself":
        file.symlink_to(file.name)
    return f"{file.relative_to(path)}: {what}"


def _zarr_attribute(rng: Rng, path: Path) -> str:
    document = json.loads((path / "zarr.json").read_text())
    _, _, title = _attribute(rng, document["attributes"])
    (path / "zarr.json").write_text(json.dumps(document))
    return title


def _zarr_metadata(rng: Rng, path: Path) -> str:
    """Change one field of the description of an array or group."""
    file = _pick(rng, [entry for entry in _zarr_files(path) if entry.name == "zarr.json"])
    document = json.loads(file.read_text())
    name = _pick(rng, sorted(document))
    values = (
        None,
        -1,
        "x",
        [],
        {},
        [300_000_000],
        [2**62, 2, 2, 2],
        "float64",
        "int8",
        [[]],
        {"name": "x"},
        True,
    )
    if rng.random() < 0.15:
        del document[name]
        title = "removed"
    elif rng.random() < 0.1:
        file.write_text(_pick(rng, ("", "null", "[]", "{", "[" * 20_000, '{"zarr_format": 3}')))
        return f"{file.relative_to(path)}: other JSON"
    else:
        document[name] = _pick(rng, values)
        title = f"= {document[name]!r}"
    file.write_text(json.dumps(document))
    return f"{file.relative_to(path)}: {name} {title}"


def _zarr_swap(rng: Rng, path: Path) -> str:
    """One column's folder takes the place of another's."""
    arrays = sorted(entry.parent for entry in path.rglob("zarr.json") if (entry.parent / "c").exists())
    one, other = (arrays[index] for index in rng.choice(len(arrays), 2, replace=False))
    shutil.rmtree(other)
    shutil.copytree(one, other)
    return f"{other.relative_to(path)} is a copy of {one.relative_to(path)}"


DAMAGE: dict[str, tuple[Callable[[Rng, Path], str], ...]] = {
    ".h5": (
        _flip_file,
        _flip_file,
        _truncate_file,
        _h5_attribute,
        _h5_attribute,
        _h5_attribute,
        _h5_column,
        _h5_column,
        _h5_column,
        _h5_link,
        _h5_claims,
        _h5_pixel,
    ),
    ".zarr": (
        _zarr_bytes,
        _zarr_bytes,
        _zarr_lost,
        _zarr_attribute,
        _zarr_attribute,
        _zarr_attribute,
        _zarr_metadata,
        _zarr_metadata,
        _zarr_metadata,
        _zarr_swap,
    ),
}
