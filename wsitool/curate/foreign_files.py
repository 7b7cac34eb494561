"""What others have written, in words and figures: positions and features of CLAM, TRIDENT and hs2p."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wsitool.slides.coordinates import read_coordinates
from wsitool.store.foreign import CUT_BY, hdf5_in_words

__all__ = ["foreign_facts", "foreign_files"]

_NPZ = ".coordinates.npz"
# Where a folder of theirs has its files: itself, CLAM's features, CLAM's and TRIDENT's positions, hs2p's.
_FOLDERS = ("", "h5_files", "patches", "tiles")


def foreign_files(path: Path) -> list[Path]:
    """The files of positions or features at `path`, or in a folder as the programs lay it out."""
    if path.is_file():
        return [path] if path.suffix in (".h5", ".hdf5") or path.name.endswith(_NPZ) else []
    for folder in _FOLDERS:
        inside = sorted((path / folder).glob("*.h5")) + sorted((path / folder).glob(f"*{_NPZ}"))
        if inside:
            return inside
    return []


def foreign_facts(files: list[Path]) -> tuple[str, dict[str, Any]]:
    """Kind of the first of `files`, in words, and what it states; and how many there are.

    SlideError for positions of hs2p that cannot be read.
    """
    kind, facts = _of_hs2p(files[0]) if files[0].name.endswith(_NPZ) else _of_hdf5(files[0])
    return kind, facts if len(files) == 1 else {"files": len(files), "first": files[0].name, **facts}


def _of_hs2p(path: Path) -> tuple[str, dict[str, Any]]:
    positions = read_coordinates(path, path.name.removesuffix(_NPZ))
    facts = {
        "positions": len(positions.coords),
        "patch size": positions.patch_size,
        "level-0 px per px": positions.downsample,
    }
    return f"positions of patches as hs2p writes them{CUT_BY}", facts


def _of_hdf5(path: Path) -> tuple[str, dict[str, Any]]:
    """Datasets of an HDF5 file and what it says of positions."""
    with h5py.File(path, "r") as file:
        kind = hdf5_in_words(file)
        datasets = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
        facts: dict[str, Any] = {name: list(map(int, item.shape)) for name, item in datasets.items()}
        for name, item in datasets.items():
            attributes = {key: np.asarray(value).tolist() for key, value in item.attrs.items()}
            facts |= {f"{name}.{key}": value for key, value in attributes.items()}
    return kind, facts
