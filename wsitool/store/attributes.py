"""The attributes of a store: `StoreMeta` and the summary, as flat names a person can read.

Text and numbers are themselves; what is compound is JSON. An attribute that is not known is left out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsitool.errors import CorruptStoreError, SchemaVersionError
from wsitool.file_names import printable
from wsitool.store.schema import SCHEMA_VERSION, StoreMeta

__all__ = ["Summary", "coords_attributes", "from_attributes", "magnifications", "plain_text", "to_attributes"]

Attribute = str | int | float | bool

_COMPOUND = ("classes", "params", "counts")
_MPP_AT_1X = 10.0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is known once a store is complete."""

    patches: int
    counts: dict[str, int]
    content_hash: str


def to_attributes(meta: StoreMeta, summary: Summary) -> dict[str, Attribute]:
    """Flatten `meta` and `summary` to root attributes."""
    values: dict[str, Any] = dataclasses.asdict(meta)
    values |= {"patches": summary.patches, "counts": summary.counts, "content_hash": summary.content_hash}
    return {
        name: json.dumps(value, sort_keys=True, default=str) if name in _COMPOUND else value
        for name, value in values.items()
        if value is not None
    }


def from_attributes(path: Path, attributes: Mapping[str, Any]) -> tuple[StoreMeta, Summary]:
    """Read root attributes back; `path` is named in the errors."""
    version = attributes.get("schema_version")
    if version is None:
        raise CorruptStoreError(f"{path} is not a wsitool patch store: it has no attribute 'schema_version'.")
    if int(version) != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path} has store schema {int(version)} and this wsitool reads schema {SCHEMA_VERSION}: "
            "write the store again, or install the wsitool version that wrote it "
            f"({attributes.get('wsitool_version', 'unknown')})."
        )
    try:
        values = {name: _value(name, attributes[name]) for name in attributes}
        summary = Summary(
            patches=values["patches"], counts=values["counts"], content_hash=values["content_hash"]
        )
        fields = {field.name for field in dataclasses.fields(StoreMeta)}
        optional = {"mpp_level0", "mpp_requested", "mpp_effective", "level0_magnification"}
        optional |= {"target_magnification", "quality"}
        known: dict[str, Any] = dict.fromkeys(optional) | {
            name: values[name] for name in fields if name in values
        }
        return StoreMeta(**known), summary
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStoreError(
            f"{path} lacks or garbles a store attribute ({error}): write it again."
        ) from error


def _value(name: str, value: Any) -> Any:
    if hasattr(value, "item"):  # a numpy scalar, as h5py returns
        value = value.item()
    if name in _COMPOUND:
        value = json.loads(value)
        return tuple(value) if name == "classes" else value
    return value


def magnifications(meta: StoreMeta) -> tuple[float, float] | None:
    """(level 0's, the patches') magnification, in the exact ratio of a patch's side at level 0 and its own.

    TRIDENT cuts `round(patch_size * level0 / target)` pixels of level 0, so whole numbers would not do. Where
    the slide states no objective power, 10 um/px is 1x; None where it states no resolution either.
    """
    level0 = meta.level0_magnification or (_MPP_AT_1X / meta.mpp_level0 if meta.mpp_level0 else None)
    return None if level0 is None else (level0, level0 * meta.patch_size / meta.patch_size_level0)


def coords_attributes(meta: StoreMeta, folder: str | Path) -> dict[str, Attribute]:
    """Attributes of `coords` as TRIDENT names them; lengths in pixels, overlap at the patch's resolution.

    Magnifications are left out where none is known.
    """
    level0, target = magnifications(meta) or (None, None)
    values: dict[str, Attribute | None] = {
        "patch_size": meta.patch_size,
        "patch_size_level0": round(meta.patch_size_level0),
        "level0_magnification": level0,
        "target_magnification": target,
        "overlap": max(0, meta.patch_size - meta.stride),
        "name": plain_text(meta.name),
        "savetodir": plain_text(str(folder)),
        "level0_width": meta.level0_width,
        "level0_height": meta.level0_height,
    }
    return {name: value for name, value in values.items() if value is not None}


def plain_text(text: str) -> str:
    """`text` as an attribute of HDF5 can hold it: valid Unicode, without NUL."""
    return printable(text).replace("\0", "\\0")
