"""What an HDF5 file or zarr folder is that is no patch store, in words."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py

__all__ = ["CUT_BY", "features_folder", "hdf5_in_words", "is_foreign", "zarr_in_words"]

CUT_BY = ", which 'wsitool tile SLIDE --coords FILE' cuts"
_OURS = {"schema_version", "wsitool_version", "content_hash"}


def features_folder(path: Path) -> Path:
    """Where the files of a folder of features lie: in its h5_files, as CLAM has them, or in itself."""
    inner = path / "h5_files"
    return inner if inner.is_dir() else path


def is_foreign(attributes: Collection[str]) -> bool:
    """Whether root attributes of these names are not a store's, not even a damaged one's."""
    return not _OURS & set(attributes)


def hdf5_in_words(file: h5py.File) -> str:
    """What an open HDF5 file seems to be, by the names in it."""
    # Type 0 is a hard link: `file[name]` of a soft or external one would open what it points to.
    names = sorted(name for name in list(file)[:1000] if file.id.links.get_info(name.encode()).type == 0)
    coords: Any = file["coords"].attrs if "coords" in names else {}
    if "features" in names:
        ours = "content_hash" in file["features"].attrs
        return (
            "features written by 'wsitool embed'"
            if ours
            else "features of patches, as CLAM and TRIDENT write"
        )
    if "imgs" in names:
        return "patches as CLAM writes them"
    if "patch_level" in coords:
        return f"positions of patches as CLAM writes them{CUT_BY}"
    if "patch_size_level0" in coords:
        return f"positions of patches as TRIDENT writes them{CUT_BY}"
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"another HDF5 file ({f'with {shown}' if names else 'empty'})"


def zarr_in_words(path: Path, metadata: dict[str, Any] | None) -> str:
    """What the folder at `path` seems to be, by its zarr.json or, where that is None, by its files."""
    # Attributes may be anything in another program's file.
    if metadata is not None:
        attributes = metadata.get("attributes")
        ome = isinstance(attributes, dict) and bool({"ome", "multiscales"} & set(attributes))
        return "an OME-Zarr image" if ome else f"another zarr {json.dumps(metadata.get('node_type'))[:40]}"
    if any((path / name).is_file() for name in (".zgroup", ".zattrs", ".zarray")):
        return "data of zarr's version 2"
    return "a folder without zarr.json"
