"""A contact sheet: rows of small pictures under headings, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wsitool.base.files import replace_file

__all__ = ["contact_sheet", "draw_contact_sheet"]

# Pixels.
_GAP, _HEADING, _FONT_SIZE = 8, 28, 16
_SMALLEST = 112  # a patch smaller than this is enlarged, as nuclei cannot be judged otherwise


def contact_sheet(path: Path, columns: Mapping[str, NDArray[np.uint8]]) -> None:
    """Write the sheet of `draw_contact_sheet` as PNG."""
    buffer = io.BytesIO()
    draw_contact_sheet(columns).save(buffer, format="PNG")
    replace_file(path, buffer.getvalue())


def draw_contact_sheet(columns: Mapping[str, NDArray[np.uint8]]) -> Image.Image:
    """Draw one column per entry, (N, H, W, 3) uint8 each with the same N, under its name.

    Patches below 112 px are enlarged without smoothing. The caller owns the picture.
    """
    side = max(_SMALLEST, *(images.shape[1] for images in columns.values()))
    rows = len(next(iter(columns.values())))
    width = _GAP + len(columns) * (side + _GAP)
    picture = Image.new("RGB", (width, _HEADING + rows * (side + _GAP)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT_SIZE)
    for number, (name, images) in enumerate(columns.items()):
        x = _GAP + number * (side + _GAP)
        draw.text((x, _GAP // 2), name, fill="black", font=font)
        for row, image in enumerate(images):
            shown = Image.fromarray(image)
            # Nearest, so that what is looked at are the patch's own pixels.
            if shown.size != (side, side):
                shown = shown.resize((side, side), Image.Resampling.NEAREST)
            picture.paste(shown, (x, _HEADING + row * (side + _GAP)))
    return picture
