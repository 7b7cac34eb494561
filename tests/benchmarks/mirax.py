"""MIRAX slides (`.mrxs`, Slidedat.ini, Index.dat, Data0000.dat), laid out as OpenSlide documents the format.

https://openslide.org/formats/mirax/. Images lie side by side without overlap; no camera positions.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["Images", "write_mirax"]

Images = Mapping[tuple[int, int], bytes]
_VERSION, _ID = "01.02", "A" * 32
_ROOTS = 37  # two pointers after version and id: to the levels, to the rest


def write_mirax(
    path: Path, levels: Sequence[Images], *, side: int, grid: tuple[int, int], mpp: float
) -> Path:
    """Write `path` and the folder beside it; level k halves the scale of level k - 1.

    `levels` map (column, row) of that level to a JPEG of `side` x `side` px, `grid` is the (columns, rows)
    of level 0. Images that a level lacks are blank.
    """
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(b"")
    (folder / "Slidedat.ini").write_text(_description(len(levels), side, grid, mpp), encoding="utf-8-sig")
    with (folder / "Data0000.dat").open("wb") as data, (folder / "Index.dat").open("wb") as index:
        for file in (index, data):
            file.write((_VERSION + _ID).encode())
        table = _ROOTS + 8
        # The rest is an empty table: a slide needs none.
        index.write(struct.pack("<2i", table, table))
        place = table + 4 * len(levels)
        records = []
        for k, images in enumerate(levels):
            index.write(struct.pack("<i", place))
            # A page without entries names the place of the first one with some.
            record = struct.pack("<4i", 0, place + 8, len(images), 0)
            for (column, row), jpeg in sorted(images.items(), key=lambda item: item[0][::-1]):
                number = (row * grid[0] + column) << k
                record += struct.pack("<4i", number, data.tell(), len(jpeg), 0)
                data.write(jpeg)
            records.append(record)
            place += len(record)
        index.write(b"".join(records))
    return path


def _description(levels: int, side: int, grid: tuple[int, int], mpp: float) -> str:
    sections: dict[str, dict[str, object]] = {
        "GENERAL": {
            "SLIDE_VERSION": _VERSION,
            "SLIDE_ID": _ID,
            "IMAGENUMBER_X": grid[0],
            "IMAGENUMBER_Y": grid[1],
            "OBJECTIVE_MAGNIFICATION": 20,
        },
        "HIERARCHICAL": {
            "HIER_COUNT": 1,
            "NONHIER_COUNT": 0,
            "INDEXFILE": "Index.dat",
            "HIER_0_NAME": "Slide zoom level",
            "HIER_0_COUNT": levels,
            **{f"HIER_0_VAL_{k}_SECTION": f"LAYER_0_LEVEL_{k}_SECTION" for k in range(levels)},
        },
        "DATAFILE": {"FILE_COUNT": 1, "FILE_0": "Data0000.dat"},
    }
    for k in range(levels):
        sections[f"LAYER_0_LEVEL_{k}_SECTION"] = {
            "OVERLAP_X": 0,
            "OVERLAP_Y": 0,
            "MICROMETER_PER_PIXEL_X": mpp * 2**k,
            "MICROMETER_PER_PIXEL_Y": mpp * 2**k,
            "IMAGE_FILL_COLOR_BGR": 0xFFFFFF,
            "DIGITIZER_WIDTH": side,
            "DIGITIZER_HEIGHT": side,
            "IMAGE_FORMAT": "JPEG",
            "IMAGE_CONCAT_FACTOR": 0 if k == 0 else 1,
        }
    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
        for name, entries in sections.items()
    )
