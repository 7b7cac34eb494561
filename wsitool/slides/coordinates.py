"""Where patches lie, as others have written it: files of CLAM, TRIDENT, hs2p and wsitool, tables of x and y.

All hold corners in level-0 pixels, x before y. What a patch is differs: CLAM counts its side in pixels of a
level, TRIDENT and hs2p in pixels after resizing a square of level 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.base.limits import MAX_CANDIDATES, check_limit
from wsitool.base.tables import decimal, read_table
from wsitool.errors import SlideError, UsageError, WsitoolError
from wsitool.slides.spec import QualityThresholds, TileSpec

__all__ = ["PatchCoordinates", "check_coordinates", "find_coordinates", "read_coordinates"]

# How CLAM, TRIDENT and hs2p name the file of a slide, and the folders in theirs that hold them.
_ENDINGS = (".h5", "_patches.h5", ".coordinates.npz", ".csv")
_FOLDERS = ("", "patches", "tiles")
_META = (".npz", ".meta.json")
_FAR = 2**31  # no slide is wider, and float32 and int32 files end there
_TABLES = (".csv", ".tsv")
_SIZES = ("patch_size", "patch_size_level0")


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchCoordinates:
    """Corners `coords` (N, 2) int64 x, y in level-0 pixels, in (y, x) order, each once.

    Of what the file states: `patch_size` px, and the `level` whose pixels these are or their `downsample`
    (level-0 px per px). None where it does not state it. `repeated` counts corners that stood there again.
    """

    path: Path
    coords: NDArray[np.int64]
    patch_size: int | None = None
    level: int | None = None
    downsample: float | None = None
    repeated: int = 0

    @classmethod
    def of(cls, path: Path, coords: NDArray[Any], **stated: Any) -> Self:
        """Sort and check corners of any numeric type; ValueError for what cannot be positions."""
        # CLAM's older files keep an axis of one slide in front.
        coords = coords[0] if coords.ndim == 3 and len(coords) == 1 else coords
        if coords.ndim != 2 or coords.shape[1] != 2 or coords.dtype.kind not in "iuf":
            raise ValueError(f"expected coords (N, 2), got {coords.dtype} {coords.shape}")
        if not len(coords):
            raise ValueError("it holds no position")
        if not (np.abs(coords) < _FAR).all() or (coords != np.rint(coords)).any():
            raise ValueError("positions must be whole level-0 pixels")
        corners = np.unique(coords.astype(np.int64)[:, ::-1], axis=0)[:, ::-1]  # sorts by its first column
        repeated = len(coords) - len(corners)
        return cls(path=path, coords=np.ascontiguousarray(corners), repeated=repeated, **stated)

    @property
    def digest(self) -> str:
        """Tells apart positions, wherever they came from."""
        return hashlib.sha256(self.coords.tobytes()).hexdigest()[:16]

    def spec(self, asked: TileSpec) -> TileSpec:
        """What is cut at these positions: all of them, at the size and resolution the file states.

        UsageError where `asked` names a resolution too, SlideError for another size or one that cannot be.
        """
        taken = replace(asked, min_tissue=0.0, limits=())
        if self.patch_size is None:
            return taken
        where = f"level {self.level}" if self.level is not None else f"1/{self.downsample:g} of level 0"
        stated = f"'{self.path}' states patches of {self.patch_size} px at {where}"
        # A resolution is at odds with every file, a size perhaps with this one only.
        if named := [name for name in ("mpp", "magnification", "level") if getattr(asked, name) is not None]:
            raise UsageError(f"{stated}: leave out --{named[0]}.")
        if asked.patch_size not in (TileSpec.patch_size, self.patch_size):
            raise SlideError(f"{stated}: leave out --patch-size.")
        try:
            return replace(taken, patch_size=self.patch_size, level=self.level, downsample=self.downsample)
        except UsageError as error:
            raise SlideError(f"{stated}, which cannot be: {error}") from None


def check_coordinates(location: str | Path, asked: TileSpec, slides: int) -> None:
    """UsageError where `asked` is at odds with positions from `location`, for so many slides."""
    path = Path(location)
    if not path.exists():
        raise UsageError(f"There is no file or folder '{path}' of --coords: check the spelling.")
    if slides > 1 and path.is_file() and path.suffix.lower() not in _TABLES:
        raise UsageError(
            f"'{path}' holds the positions of one slide, and there are {slides}: give --coords the folder "
            "with a file for each, or a table with the columns slide, x and y."
        )
    if asked.stride is not None:
        raise UsageError("--coords says where each patch lies: leave out --stride.")
    # The defaults of the command line, and those of a plain `TileSpec`.
    if asked.min_tissue != TileSpec.min_tissue or asked.limits not in ((), QualityThresholds().limits):
        raise UsageError(
            "Of --coords all positions are taken: leave out --min-tissue and the other limits, and filter "
            "afterwards with 'wsitool refilter'."
        )


def find_coordinates(location: str | Path, slide: str) -> Path:
    """The file with the positions of the slide of that name; SlideError where there is none, or several."""
    root = Path(location)
    if not root.is_dir():
        return root
    found = [
        path
        for folder in _FOLDERS
        for ending in _ENDINGS
        if (path := root / folder / f"{slide}{ending}").is_file()
    ]
    if not found:
        raise SlideError(
            f"There are no positions of '{slide}' in '{root}': expected {slide}.h5 (CLAM), "
            f"{slide}_patches.h5 (TRIDENT), {slide}.coordinates.npz (hs2p) or {slide}.csv, there or in its "
            "patches or tiles."
        )
    if len(found) > 1:
        names = " and ".join(f"'{path.relative_to(root)}'" for path in found)
        raise SlideError(f"Positions of '{slide}' stand in {names}: give --coords the one that is meant.")
    return found[0]


def read_coordinates(path: Path, slide: str) -> PatchCoordinates:
    """The positions in `path`, of a table those of `slide`; SlideError where they cannot be had."""
    readers = {".h5": _from_hdf5, ".hdf5": _from_hdf5, ".npz": _from_hs2p}
    suffix = path.suffix.lower()
    try:
        if suffix in _TABLES:
            return _from_table(path, slide)
        if suffix not in readers:
            raise ValueError("expected .h5 of CLAM or TRIDENT, .npz of hs2p, or .csv")
        return readers[suffix](path)
    except WsitoolError:
        raise
    # RuntimeError is h5py's for much of what damage makes.
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise SlideError(f"The positions in '{path}' cannot be used: {what}.") from None


def _from_hdf5(path: Path) -> PatchCoordinates:
    """/coords of CLAM, of TRIDENT, of either's features, or of a patch store."""
    with h5py.File(path, "r") as file:
        # A hard link: others lead out of the file.
        kind = file.get("coords", getclass=True, getlink=True)
        if kind is not h5py.HardLink or not isinstance(dataset := file["coords"], h5py.Dataset):
            raise ValueError("it has no dataset 'coords'")
        check_limit(f"Positions in '{path}'", dataset.size // 2, MAX_CANDIDATES)
        coords, stated = dataset[()], dict(dataset.attrs)
    if "patch_level" in stated:
        level, size = _whole(stated, "patch_level", 0), _whole(stated, "patch_size", 1)
        return PatchCoordinates.of(path, coords, patch_size=size, level=level)
    if "patch_size_level0" in stated:
        size = _whole(stated, "patch_size", 1)
        downsample = _whole(stated, "patch_size_level0", 1) / size
        return PatchCoordinates.of(path, coords, patch_size=size, downsample=downsample)
    return PatchCoordinates.of(path, coords)


def _from_hs2p(path: Path) -> PatchCoordinates:
    """`<slide>.coordinates.npz` and the .meta.json beside it."""
    with np.load(path, allow_pickle=False) as file:
        coords = np.stack([file["x"], file["y"]], axis=-1)
    beside = path.with_name(path.name.removesuffix(_META[0]) + _META[1])
    if not beside.is_file():
        raise ValueError(f"'{beside.name}', which says how large its patches are, is not beside it")
    meta = json.loads(beside.read_text())
    tiling = meta["tiling"] if isinstance(meta, dict) else {}
    size = _whole(tiling, "requested_tile_size_px", 1)
    downsample = _whole(tiling, "tile_size_lv0", 1) / size
    return PatchCoordinates.of(path, coords, patch_size=size, downsample=downsample)


def _from_table(path: Path, slide: str) -> PatchCoordinates:
    """Rows with x and y; where it has them the columns slide, and patch_size with patch_size_level0."""
    rows = _table(path, path.stat().st_mtime_ns)
    # Without a column "slide" the table is of one.
    own = rows.get(slide, rows.get(None))
    if own is None:
        raise ValueError(f"it has no row of the slide '{slide}'")
    coords, sizes = own
    if len(sizes) > 1:
        raise ValueError(f"its patches of '{slide}' are of {len(sizes)} sizes: make a table for each")
    (stated,) = sizes
    if stated is None:
        return PatchCoordinates.of(path, coords)
    size = _whole({"patch_size": stated[0]}, "patch_size", 1)
    return PatchCoordinates.of(path, coords, patch_size=size, downsample=stated[1] / size)


_OfSlide = tuple[NDArray[np.float64], set[tuple[float, float] | None]]


@lru_cache(maxsize=1)  # of many slides: each process reads it once
def _table(path: Path, changed: int) -> dict[str | None, _OfSlide]:
    table = read_table(path, needs=("x", "y"), knows=("slide", *_SIZES), what="table of positions")
    sized = all(name in table.headers for name in _SIZES)
    places: dict[str | None, list[tuple[float, float]]] = {}
    sizes: dict[str | None, set[tuple[float, float] | None]] = {}
    for row in table.rows:
        name = row["slide"] if "slide" in table.headers else None
        try:
            if row.problem:
                raise ValueError(row.problem)
            places.setdefault(name, []).append((decimal(row["x"]), decimal(row["y"])))
            side = (decimal(row[_SIZES[0]]), decimal(row[_SIZES[1]])) if sized else None
        except ValueError as error:
            raise ValueError(f"line {row.line}: {error}") from None
        sizes.setdefault(name, set()).add(side)
    return {name: (np.array(own), sizes[name]) for name, own in places.items()}


def _whole(stated: Mapping[str, Any], name: str, least: int) -> int:
    """A whole number of at least `least` among what a file states; ValueError."""
    value = np.asarray(stated[name]).ravel()
    is_number = value.size == 1 and value.dtype.kind in "iuf" and np.isfinite(value[0])
    if not is_number or value[0] != int(value[0]) or value[0] < least:
        raise ValueError(f"its {name} must be a whole number of at least {least}, got {stated[name]!r}")
    return int(value[0])
