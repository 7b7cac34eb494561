"""What a TIFF slide says about itself: vendor format, resolution and objective."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

import tifffile
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from wsitool.slides.readers.resolution import length_um, number

__all__ = ["TiffFacts", "tiff_facts"]

_OME_DEFAULT_UNIT = "µm"  # of the OME schema, where no unit is given
_INCH, _CENTIMETER = 2, 3
_UNITS = {_INCH: "inch", _CENTIMETER: "cm", 4: "mm", 5: "um"}  # of the tag ResolutionUnit
_MOST_LETTERS = 4000
_ICC_PROFILE = 34675


@dataclass(frozen=True, kw_only=True)
class TiffFacts:
    """Sides `mpp_x`, `mpp_y` of a level-0 pixel in um and `objective_power`; None where not stated.

    `icc_profile` is b"" where there is none.
    """

    format: str
    mpp_x: float | None
    mpp_y: float | None
    objective_power: float | None
    description: str
    icc_profile: bytes = b""


def tiff_facts(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> TiffFacts:
    """What is said of the pyramid whose largest level is `page`.

    From Aperio's and Philips's descriptions, OME-XML (of the image that has the page's size), ImageJ's
    metadata, or the resolution tags.
    """
    first = tiff.pages.first
    description = str(first.description or "")
    power: float | None = None
    if tiff.is_svs:
        name = "Aperio SVS"
        x = y = _search(r"\bMPP\s*=\s*([0-9.,]+)", description)
        power = _search(r"\bAppMag\s*=\s*([0-9.,]+)", description)
    elif tiff.is_philips:
        name = "Philips TIFF"
        x, y = _philips_mpp(_xml(description))
    elif tiff.is_ome:
        name = "OME-TIFF"
        x, y, power = _ome(_xml(tiff.ome_metadata or description), page)
    else:
        name = "TIFF"
        unit = (tiff.imagej_metadata or {}).get("unit") if tiff.is_imagej else None
        x, y = (_resolution(page, tag, unit) for tag in ("XResolution", "YResolution"))
    profile = page.tags.valueof(_ICC_PROFILE, b"")
    return TiffFacts(
        format=name,
        mpp_x=x,
        mpp_y=y,
        objective_power=power,
        description=description[:_MOST_LETTERS],
        icc_profile=profile if isinstance(profile, bytes) else b"",
    )


def _search(pattern: str, text: str) -> float | None:
    match = re.search(pattern, text)
    return number(match.group(1)) if match else None


def _xml(text: str) -> Element | None:
    """The root of a description; None where it is no XML, or of a kind that parsers are attacked with."""
    try:
        root: Element = fromstring(text)
    except (ParseError, DefusedXmlException, ValueError):
        return None
    return root


def _ome(root: Element | None, page: tifffile.TiffPage) -> tuple[float | None, float | None, float | None]:
    """Both sides of a pixel, and the objective's magnification, of the image with the size of `page`."""
    images = [] if root is None else root.findall("{*}Image")
    size = (str(page.imagewidth), str(page.imagelength))
    for image in images:
        pixels = image.find("{*}Pixels")
        if pixels is not None and (pixels.get("SizeX"), pixels.get("SizeY")) == size:
            x, y = (_side(pixels, axis) for axis in "XY")
            return x, y, _ome_power(root, image)
    return None, None, None


def _side(pixels: Element, axis: str) -> float | None:
    unit = pixels.get(f"PhysicalSize{axis}Unit", _OME_DEFAULT_UNIT)
    return length_um(number(pixels.get(f"PhysicalSize{axis}")), unit)


def _ome_power(root: Element | None, image: Element) -> float | None:
    objectives = [] if root is None else root.findall(".//{*}Objective")
    used = image.find("{*}ObjectiveSettings")
    for objective in objectives:
        # Without a reference from the image it is known only where there is one.
        if (used is None and len(objectives) == 1) or (
            used is not None and objective.get("ID") == used.get("ID")
        ):
            return number(objective.get("NominalMagnification"))
    return None


def _philips_mpp(root: Element | None) -> tuple[float | None, float | None]:
    """Column and row spacing of the slide itself: label and macro state their own (DICOM says rows first)."""
    scans = [] if root is None else root.iter("DataObject")
    for scan in scans:
        kinds = [part.text for part in scan.findall("Attribute") if part.get("Name") == "PIM_DP_IMAGE_TYPE"]
        if scan.get("ObjectType") != "DPScannedImage" or [(kind or "").strip() for kind in kinds] != ["WSI"]:
            continue
        for part in scan.iter("Attribute"):
            if part.get("Name") == "DICOM_PIXEL_SPACING":
                spacing = [number(text) for text in (part.text or "").replace('"', " ").split()]
                if len(spacing) == 2:
                    return length_um(spacing[1], "mm"), length_um(spacing[0], "mm")
    return None, None


def _resolution(page: tifffile.TiffPage, name: str, unit: object) -> float | None:
    """um per pixel from a resolution tag, in pixels per `unit`, else per the unit of the tags."""
    tag, of_tags = page.tags.get(name), page.tags.get("ResolutionUnit")
    if tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 2:
        return None
    pixels, units = tag.value
    if not isinstance(unit, str):
        unit = _UNITS.get(int(of_tags.value) if of_tags else _INCH)
    return length_um(units / pixels, unit) if pixels and units else None
