"""Synthetic slides: real pyramidal files, drawn on the spot, that OpenSlide opens as Aperio SVS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsitool.testing.histology import KINDS, draw_tissue

__all__ = ["KINDS", "draw_tissue", "synthetic_slide", "write_pyramid"]

Compression = Literal["jpeg", "jpeg2000", "none"]

_TIFF_COMPRESSION = {"jpeg": "jpeg", "jpeg2000": "aperio_jp2000_rgb", "none": None}


def synthetic_slide(
    path: str | Path,
    *,
    organ: Literal["kidney", "breast"] = "breast",
    kind: Literal["benign", "adh", "dcis"] = "benign",
    size: tuple[int, int] = (2048, 2048),
    seed: int = 0,
    mpp: float | None = 0.5,
    tile: int = 256,
    compression: Compression = "jpeg",
    levels: Sequence[int] = (1, 4),
    glass: float = 0.35,
) -> Path:
    """Draw tissue of (width, height) `size` and write it as an Aperio-like pyramid; returns `path`.

    `kind` matters for breast only. `mpp=None` leaves resolution and objective power out of the file.
    """
    # A slide without resolution is drawn at 0.5 um/px all the same.
    pixels = draw_tissue(
        *size, kind="kidney" if organ == "kidney" else kind, mpp=mpp or 0.5, seed=seed, glass=glass
    )
    return write_pyramid(path, pixels, mpp=mpp, tile=tile, compression=compression, levels=levels)


def write_pyramid(
    path: str | Path,
    pixels: NDArray[np.uint8],
    *,
    mpp: float | None = 0.5,
    tile: int = 256,
    compression: Compression = "jpeg",
    levels: Sequence[int] = (1, 4),
    quality: int = 90,
) -> Path:
    """Write (height, width, 3) uint8 `pixels` as an Aperio-like tiled pyramid with the given downsamples.

    Levels are exact box means, rounded. `mpp` None leaves resolution and objective power out of the file; no
    label or macro image is written.
    """
    path = Path(path)
    height, width = pixels.shape[:2]
    options = {"level": quality} if compression == "jpeg" else None
    with tifffile.TiffWriter(path) as writer:
        for factor in levels:
            # Exact means, so that tests can compare levels with level 0.
            level = _box_mean(pixels, factor)
            writer.write(
                level,
                photometric="rgb",
                tile=(tile, tile),
                compression=_TIFF_COMPRESSION[compression],
                compressionargs=options,
                description=_aperio_description(width, height, level.shape, tile, mpp),
                # Tags that tifffile adds by itself (shape, software) would not be Aperio's.
                metadata=None,
                software=False,
            )
    return path


def _box_mean(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    if factor == 1:
        return pixels
    # A rest at the edge is left out, as scanners do.
    height, width = (side // factor * factor for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return np.asarray(np.rint(blocks.mean(axis=(1, 3))), dtype=np.uint8)


def _aperio_description(width: int, height: int, shape: tuple[int, ...], tile: int, mpp: float | None) -> str:
    size = f"{width}x{height} [0,0 {width}x{height}] ({tile}x{tile})"
    if shape[:2] != (height, width):
        size += f" -> {shape[1]}x{shape[0]}"
    # 10x is taken as 1 um/px.
    stated = f"|AppMag = {round(10 / mpp)}|MPP = {mpp:g}" if mpp else ""
    # OpenSlide knows Aperio by the beginning of this text.
    return f"Aperio Image Library v1.0\r\n{size} drawn by wsitool{stated}"
