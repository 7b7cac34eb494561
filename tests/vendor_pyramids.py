"""OME and Philips pyramids, written by tifffile after their documents, as no file is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsitool.testing.synthetic import draw_tissue

__all__ = ["write_ome", "write_philips"]

_TILE = 128
_SPACING_MM = 0.00025


def write_ome(path: Path, *, compression: str = "zlib") -> Path:
    """Three levels, the smaller ones in SubIFDs, as Bio-Formats writes them."""
    pixels = draw_tissue(1100, 900, kind="benign", mpp=0.25, seed=4)
    options = {"tile": (_TILE, _TILE), "photometric": "rgb", "compression": compression}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as writer:
        metadata = {
            "axes": "YXS",
            "PhysicalSizeX": 250,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 250,
            "PhysicalSizeYUnit": "nm",
        }
        writer.write(
            pixels, subifds=2, metadata=metadata, resolution=(40000, 40000), resolutionunit=3, **options
        )
        for factor in (2, 4):
            writer.write(pixels[::factor, ::factor], subfiletype=1, **options)
    return path


def write_philips(path: Path) -> tuple[Path, list[NDArray[np.uint8]]]:
    """Levels 1, 2, 4, each filled up to whole tiles with white; returns the true pixels of each, too.

    The true size of a level is not in its tags: it follows from the pixel spacings of the description.
    """
    whole = draw_tissue(_TILE * 9, _TILE * 7, kind="adh", mpp=0.25, seed=5)
    true = [whole[::factor, ::factor] for factor in (1, 2, 4)]
    parts = "".join(_object("PixelDataRepresentation", _spacing(factor)) for factor in (1, 2, 4))
    scanned = (
        _attribute("PIM_DP_IMAGE_TYPE", "IString", "WSI")
        + _spacing(1)
        + _attribute("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", "IDataObjectArray", f"<Array>{parts}</Array>")
    )
    image = _object("DPScannedImage", scanned)
    description = '<?xml version="1.0" encoding="UTF-8" ?>' + _object(
        "DPUfsImport",
        _attribute("DICOM_MANUFACTURER", "IString", "PHILIPS")
        + _attribute("PIM_DP_SCANNED_IMAGES", "IDataObjectArray", f"<Array>{image}</Array>"),
    )
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for number, pixels in enumerate(true):
            height, width = (-(-side // _TILE) * _TILE for side in pixels.shape[:2])
            filled = np.full((height, width, 3), 255, np.uint8)
            filled[: pixels.shape[0], : pixels.shape[1]] = pixels
            writer.write(
                filled,
                tile=(_TILE, _TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 95},
                subfiletype=1 if number else 0,
                description=description if number == 0 else f"level={number}",
                software="Philips DP v1.0",
                metadata=None,
            )
    return path, true


def _object(kind: str, content: str) -> str:
    return f'<DataObject ObjectType="{kind}">{content}</DataObject>'


def _attribute(name: str, kind: str, content: str) -> str:
    return f'<Attribute Name="{name}" Group="0x301D" Element="0x1003" PMSVR="{kind}">{content}</Attribute>'


def _spacing(factor: int) -> str:
    side = f"&quot;{_SPACING_MM * factor:.9f}&quot;"
    return _attribute("DICOM_PIXEL_SPACING", "IDoubleArray", f"{side} {side}")
