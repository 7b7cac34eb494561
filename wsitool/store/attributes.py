"""The attributes of a store: `StoreMeta` and the summary, as flat names a person can read.

Text and numbers are themselves; what is compound is JSON. An attribute that is not known is left out.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from wsitool.base.json_files import parse_json, typed
from wsitool.base.paths import shown
from wsitool.errors import CorruptStoreError, SchemaVersionError
from wsitool.store.schema import LARGEST_PATCH, SCHEMA_VERSION, Codec, StoreMeta

__all__ = [
    "ATTRIBUTES",
    "Summary",
    "as_stored",
    "clam_attributes",
    "coords_attributes",
    "from_attributes",
    "magnifications",
    "plain_text",
    "problem_of",
    "to_attributes",
]

Attribute = str | int | float | bool

# HDF5 attributes cannot hold mappings, and numpy would make an array of a list; JSON text reads the same in
# both formats.
_COMPOUND = ("classes", "params", "counts")
_MOST_CLASSES = 32_767  # labels are int16
# "2:" where the hash covers the attributes too (see `hashing`); stores of before have the bare SHA-256.
_HASH = re.compile(r"(?:2:)?[0-9a-f]{64}")
# The usual convention: a 10x objective is 1 um/px, 40x is 0.25.
_MPP_AT_1X = 10.0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is known once a store is complete; `psnr` and `note` as in `StoreWriter.finish`."""

    patches: int
    counts: dict[str, int]
    content_hash: str
    psnr: float | None = None
    note: str | None = None


_META = {field.name: field for field in dataclasses.fields(StoreMeta)}
# The order is that of the fields, and so is that of the "is missing" message: the first one lacking is named.
_SUMMARY = {field.name: field for field in dataclasses.fields(Summary)}
ATTRIBUTES = (*_META, *_SUMMARY)
"""The names of all attributes that are read."""


def to_attributes(meta: StoreMeta, summary: Summary) -> dict[str, Attribute]:
    """Flatten `meta` and `summary` to root attributes.

    Compound values are JSON text with sorted keys; what is None is left out.
    """
    values: dict[str, Any] = dataclasses.asdict(meta)
    values |= dataclasses.asdict(summary)
    return {
        # Sorted keys: the same store written twice has the same bytes in its attributes.
        name: json.dumps(as_stored(value), sort_keys=True) if name in _COMPOUND else value
        for name, value in values.items()
        if value is not None
    }


def as_stored(value: Any) -> Any:
    """A compound value as it is read back: of JSON's own kinds, texts as UTF-8 can hold them."""
    if isinstance(value, Mapping):
        return {shown(str(name)): as_stored(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_stored(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else shown(str(value))


def from_attributes(path: Path, attributes: Mapping[str, Any]) -> tuple[StoreMeta, Summary]:
    """Read root attributes back, types and ranges checked; `path` is named in the errors.

    SchemaVersionError for another version's, CorruptStoreError for what wsitool does not write.
    """
    # Before anything else is looked at: a later schema may lack or rename what is required below, and
    # "damaged" would be the wrong advice.
    version = attributes.get("schema_version")
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path} has store schema {version} and this wsitool reads schema {SCHEMA_VERSION}: "
            "write the store again, or install the wsitool version that wrote it "
            f"({attributes.get('wsitool_version', 'unknown')})."
        )
    try:
        values = {name: _parsed(name, attributes[name]) for name in ATTRIBUTES if name in attributes}
        # an attribute that is not known was left out
        # Types are text here (`from __future__ import annotations`), hence the look into it for "| None".
        optional = {name: None for name, field in (_META | _SUMMARY).items() if "None" in str(field.type)}
        missing = [name for name in ATTRIBUTES if name not in optional | values]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        values = optional | values
        meta = typed(StoreMeta, {name: values[name] for name in _META})
        summary = typed(Summary, {name: values[name] for name in _SUMMARY})
        problem = problem_of(meta) or _problem_of_summary(summary)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise CorruptStoreError(f"{path} lacks or garbles a store attribute ({problem}): write it again.")
    return meta, summary


def _parsed(name: str, value: Any) -> Any:
    # Single values are checked by `typed` below, with the field's own type.
    if name not in _COMPOUND:
        return value
    if not isinstance(value, str):
        raise ValueError(f"{name} is not JSON text")
    try:
        return parse_json(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def problem_of(meta: StoreMeta) -> str:
    """What no store may say of itself; "" where all values are in range.

    A clause for the caller's sentence, naming the first attribute that is out of range.
    """
    size, classes = meta.patch_size, meta.classes
    rules: list[tuple[str, bool, str]] = [
        ("patch_size", 1 <= size <= LARGEST_PATCH, f"from 1 to {LARGEST_PATCH}"),
        ("stride", meta.stride >= 1, "at least 1"),
        ("level", meta.level >= 0, "0 or more"),
        ("codec", meta.codec in get_args(Codec), f"one of {', '.join(get_args(Codec))}"),
        ("quality", meta.quality is None or 1 <= meta.quality <= 100, "from 1 to 100"),
        ("subsampling", meta.subsampling is None or meta.codec == "jpeg", "stated of JPEG patches only"),
        # 0 where there is no slide behind the store but ready-made images.
        ("level0_width", 0 <= meta.level0_width < 2**31, "from 0 to 2147483647"),
        ("level0_height", 0 <= meta.level0_height < 2**31, "from 0 to 2147483647"),
        ("classes", len(set(classes)) == len(classes) <= _MOST_CLASSES, "distinct names"),
        ("classes", all(classes), "names that are not empty"),
    ]
    lengths = ("patch_size_level0", "stride_level0", "mpp_level0", "mpp_requested", "mpp_effective")
    for name in (*lengths, "level0_magnification", "target_magnification"):
        value = getattr(meta, name)
        rules.append((name, value is None or 0 < value < math.inf, "finite and above 0"))
    return next(
        (f"{name} must be {need}, got {getattr(meta, name)!r}" for name, ok, need in rules if not ok), ""
    )


def _problem_of_summary(summary: Summary) -> str:
    counts = summary.counts
    if summary.patches < 1:
        return f"patches must be at least 1, got {summary.patches}"
    # Callers may give no counts at all; where "kept" is among them it must be right.
    if any(count < 0 for count in counts.values()) or counts.get("kept", summary.patches) != summary.patches:
        return f"counts {str(counts)[:200]} do not fit {summary.patches} patches"
    if summary.psnr is not None and not 0 <= summary.psnr < math.inf:
        return f"psnr must be finite and 0 or more, got {summary.psnr}"
    return "" if _HASH.fullmatch(summary.content_hash) else "content_hash is no hash"


def magnifications(meta: StoreMeta) -> tuple[float, float] | None:
    """(level 0's, the patches') magnification, in the exact ratio of a patch's side at level 0 and its own.

    TRIDENT cuts `round(patch_size * level0 / target)` pixels of level 0, so whole numbers would not do. Where
    the slide states no objective power, 10 um/px is 1x; None where it states no resolution either.
    """
    # Reached with a `patch_size_level0` above 0 only: `problem_of` has seen to that.
    level0 = meta.level0_magnification or (_MPP_AT_1X / meta.mpp_level0 if meta.mpp_level0 else None)
    return None if level0 is None else (level0, level0 * meta.patch_size / meta.patch_size_level0)


def coords_attributes(meta: StoreMeta, folder: str | Path) -> dict[str, Attribute]:
    """Attributes of `coords` as TRIDENT names them; lengths in pixels, overlap at the patch's resolution.

    Magnifications are left out where none is known.
    """
    level0, target = magnifications(meta) or (None, None)
    values: dict[str, Attribute | None] = {
        "patch_size": meta.patch_size,
        # TRIDENT reads a whole number here, while resampled patches have fractions of a pixel.
        "patch_size_level0": round(meta.patch_size_level0),
        "level0_magnification": level0,
        "target_magnification": target,
        # A stride beyond the patch's side leaves gaps, which TRIDENT has no word for.
        "overlap": max(0, meta.patch_size - meta.stride),
        "name": plain_text(meta.name),
        "savetodir": plain_text(str(folder)),
        "level0_width": meta.level0_width,
        "level0_height": meta.level0_height,
    }
    return {name: value for name, value in values.items() if value is not None}


def clam_attributes(meta: StoreMeta, folder: str) -> dict[str, Any]:
    """Attributes of `coords` as CLAM's create_patches_fp names them; sizes are left out of imported images.

    CLAM's `patch_size` counts pixels of `patch_level`. Level 0 is the one level that fits every resolution
    exactly, so it is used always; CLAM then resizes to its encoder's input.
    """
    dims = [meta.level0_width, meta.level0_height]
    return {
        "patch_size": round(meta.patch_size_level0),
        "patch_level": 0,
        "downsample": [1.0, 1.0],
        **({"downsampled_level_dim": dims, "level_dim": dims} if all(dims) else {}),
        "name": plain_text(meta.name),
        "save_path": folder,
    }


def plain_text(text: str) -> str:
    """`text` as an attribute of HDF5 can hold it: valid Unicode, without NUL."""
    # h5py refuses a text with a NUL in it ("VLEN strings do not support embedded NULLs").
    return shown(text).replace("\0", "\\0")
