"""What a TIFF slide says about itself: vendor format, resolution and objective."""

from __future__ import annotations

import re
from dataclasses import dataclass

import tifffile

__all__ = ["TiffFacts", "tiff_facts"]

_OME_UNITS = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}


@dataclass(frozen=True, kw_only=True)
class TiffFacts:
    """`mpp` in um per level-0 pixel and `objective_power`, None where the file does not state them."""

    format: str
    mpp: float | None
    objective_power: float | None
    description: str


def tiff_facts(tiff: tifffile.TiffFile) -> TiffFacts:
    """Read vendor metadata: Aperio and Philips descriptions, OME-XML, or the plain resolution tags."""
    page = tiff.series[0].levels[0].keyframe
    description = str(page.description or "")
    power: float | None = None
    if tiff.is_svs:
        name = "Aperio SVS"
        mpp = _number(r"\bMPP\s*=\s*([0-9.]+)", description)
        power = _number(r"\bAppMag\s*=\s*([0-9.]+)", description)
    elif tiff.is_philips:
        name = "Philips TIFF"
        spacing = _number(r'DICOM_PIXEL_SPACING"[^>]*>\s*(?:&quot;|")?([0-9.eE+-]+)', description)
        mpp = None if spacing is None else spacing * 1000
    elif tiff.is_ome:
        name = "OME-TIFF"
        mpp = _ome_mpp(description)
        power = _number(r'NominalMagnification="([0-9.]+)"', description)
    else:
        name = "TIFF"
        mpp = _resolution(page)
    return TiffFacts(format=name, mpp=mpp, objective_power=power or None, description=description[:4000])


def _number(pattern: str, text: str) -> float | None:
    match = re.search(pattern, text)
    try:
        return float(match.group(1)) if match else None
    except ValueError:
        return None


def _ome_mpp(xml: str) -> float | None:
    size = _number(r'PhysicalSizeX="([0-9.eE+-]+)"', xml)
    unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', xml)
    factor = _OME_UNITS.get(unit.group(1) if unit else "µm")
    return None if size is None or factor is None else size * factor


def _resolution(page: tifffile.TiffPage) -> float | None:
    """um per pixel from XResolution; None where its unit is not a length."""
    tag, unit = page.tags.get("XResolution"), page.tags.get("ResolutionUnit")
    um = {2: 25_400.0, 3: 10_000.0}.get(int(unit.value) if unit else 2)
    if tag is None or um is None or not isinstance(tag.value, tuple) or len(tag.value) != 2:
        return None
    pixels, units = tag.value
    return um * units / pixels if pixels and units else None
