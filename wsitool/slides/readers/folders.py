"""Slides of more than one file: by which file they are opened, and where the others lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsitool.base.json_files import parse_json

__all__ = [
    "MIRAX_DATA",
    "SEVERAL_IMAGES",
    "ZARR_METADATA",
    "entry_file",
    "folder_digest",
    "image_attributes",
    "is_dicom",
    "mirax_data",
    "mirax_file",
    "pixel_folder",
    "series_files",
    "zarr_metadata",
]

ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup")
"""Files of a zarr group, of which the first that is there says what it is: format 3, then 2."""
SEVERAL_IMAGES = "bioformats2raw.layout"
"""The attribute of a group whose images are its members 0, 1, ...: slide, label, macro."""
MIRAX_DATA = (".dat", ".ini")
"""What the files end in that hold a MIRAX slide."""
_IMAGES = ("multiscales", SEVERAL_IMAGES, "plate")
_SAMPLES, _SAMPLE_BYTES = 18, 65_536


def is_dicom(path: Path) -> bool:
    """Whether a file is of DICOM: by its suffix, or by its content where the name has none, or a UID's."""
    suffix = path.suffix.lower()
    if suffix == ".dcm" or (suffix and not suffix[1:].isdecimal()):
        return suffix == ".dcm"
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def series_files(folder: Path) -> list[Path]:
    """The files of a DICOM series that is a folder, sorted; [] for a folder without any, or for no folder."""
    if not _is_folder(folder):
        return []
    return sorted(path for path in folder.iterdir() if is_dicom(path) and path.is_file())


def zarr_metadata(folder: Path) -> Path | None:
    """The file that says what a zarr group is; None for another folder, or for no folder."""
    if not _is_folder(folder):
        return None
    return next((path for name in ZARR_METADATA if (path := folder / name).is_file()), None)


def image_attributes(metadata: bytes) -> dict[str, Any]:
    """What the metadata of a zarr group say of an OME-Zarr image; {} where it is none.

    Of version 0.5 under the attribute "ome", of 0.4 the attributes themselves.
    """
    try:
        content = parse_json(metadata.decode())
    except ValueError:
        return {}
    attributes = content.get("attributes", content) if isinstance(content, dict) else {}
    attributes = attributes.get("ome", attributes) if isinstance(attributes, dict) else {}
    is_image = isinstance(attributes, dict) and not attributes.keys().isdisjoint(_IMAGES)
    return attributes if is_image else {}


def mirax_file(folder: Path) -> Path | None:
    """The file by which OpenSlide opens a MIRAX slide whose data are `folder`; None for another folder."""
    # The folder one stands in has no name of its own.
    file = Path(f"{folder if folder.name else folder.resolve()}.mrxs")
    return file if os.path.isfile(folder / "Slidedat.ini") and os.path.isfile(file) else None  # noqa: PTH113


def entry_file(folder: Path) -> Path | None:
    """The file by which a folder that may be a slide is opened; None for another folder, or for no folder."""
    return zarr_metadata(folder) or next(iter(series_files(folder)), None)


def pixel_folder(path: Path) -> Path | None:
    """The folder with the pixels of a slide that is opened by the file `path`; None where they are in it."""
    if path.name in ZARR_METADATA:
        return path.parent
    return path.with_name(f"{path.stem}_files") if path.suffix.lower() == ".dzi" else None


def mirax_data(path: Path) -> Path | None:
    """The folder with the data of a MIRAX slide, whose own file is a picture of the label, or empty."""
    return path.with_suffix("") if path.suffix.lower() == ".mrxs" else None


def folder_digest(folder: Path, suffixes: tuple[str, ...] = ("",)) -> bytes:
    """Identify what a folder holds: SHA-256 over names and sizes of all its files, and samples of some.

    Only files that end in one of the `suffixes` count.

    18 evenly spread files are read, the first and the last among them, 64 KiB of each. Raises OSError.
    """
    files = sorted(entry for entry in _sizes(folder) if entry[0].lower().endswith(suffixes))
    digest = hashlib.sha256("\n".join(f"{name} {size}" for name, size in files).encode(errors="replace"))
    sampled = range(0, len(files), max(1, (len(files) - 1) // (_SAMPLES - 1)))
    for index in dict.fromkeys((*sampled, len(files) - 1)) if files else ():
        with (folder / files[index][0]).open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    """Each file's path within the folder and its size; links to folders are not followed."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                elif entry.is_file():
                    yield name, entry.stat().st_size


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path's raises for a name that is too long
