"""PAIP's data as handed out: `<id>.svs`, `<id>.xml`, `<id>_whole.tif` and `<id>_viable.tif` in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wsitool.errors import SlideError
from wsitool.slides.annotation_files import Region
from wsitool.slides.masks import painted, read_mask
from wsitool.slides.slide import SlideInfo
from wsitool.slides.slide_list import SlideInput

__all__ = ["PAIP_IDS", "disagreement", "masks_beside", "without_masks"]

PAIP_IDS: Mapping[str, str] = {"whole": "1", "viable": "2"}
"""The mask's name and the Id of the outlines it is of (PAIP2019: liver, whole and viable tumor)."""
_SIDE = 2048  # of the grid they are compared on
_TOLD = 0.01


def without_masks(slides: Sequence[SlideInput]) -> tuple[SlideInput, ...]:
    """Only what is no mask of PAIP's: its TIFFs would be tiled as slides."""
    endings = tuple(f"_{name}" for name in PAIP_IDS)
    return tuple(slide for slide in slides if not slide.name.lower().endswith(endings))


def masks_beside(slide: SlideInput) -> dict[str, str]:
    """The masks of a slide that are there: Id of their outlines -> path."""
    folder = Path(slide.path).parent
    found = {number: folder / f"{slide.name}_{name}.tif" for name, number in PAIP_IDS.items()}
    return {number: str(path) for number, path in found.items() if path.is_file()}


def disagreement(masks: Mapping[str, str], regions: Sequence[Region], slide: SlideInfo) -> str:
    """Where mask and outlines of an Id disagree: shares of the area that either covers; "" where nowhere.

    A mask that cannot be read or is of another slide is told, too.
    """
    notes = []
    downsample = max(1.0, max(slide.width, slide.height) / _SIDE)
    shape = (int(np.ceil(slide.height / downsample)), int(np.ceil(slide.width / downsample)))
    for number, path in masks.items():
        outlined = painted(tuple(one for one in regions if number in one.names), shape, downsample)
        try:
            mask = read_mask(Path(path), slide, shape, downsample)
        except SlideError as error:
            notes.append(str(error).rstrip("."))
            continue
        either = int((mask | outlined).sum())
        share = float((mask ^ outlined).sum()) / either if either else 0.0
        if share > _TOLD:
            name = Path(path).name
            notes.append(f"{name} and the outlines of Id {number} disagree on {share:.1%} of their area")
    return "; ".join(notes)
