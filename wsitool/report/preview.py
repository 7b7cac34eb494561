"""A picture of what tiling decided: the grid over the slide's thumbnail, kept and rejected patches apart."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsitool.base.files import replace_file
from wsitool.report.colors import OTHERS, Rgb
from wsitool.slides.tissue import TissueMask
from wsitool.store.schema import Candidates

__all__ = ["draw_preview", "preview_jpeg"]

# Pixels: small slides are enlarged to the first, large ones reduced to the second.
_LONGEST_SIDE = (1000, 1800)
_KEPT = (0, 122, 92)
_LOW_TISSUE = (176, 176, 184)
_MARGIN, _SWATCH, _FONT_SIZE = 12, 14, 16


def preview_jpeg(
    path: Path, mask: TissueMask, candidates: Candidates, size_level0: float | tuple[float, float]
) -> None:
    """Write the preview of one slide as JPEG; `size_level0` is a patch's side in level-0 pixels."""
    buffer = io.BytesIO()
    draw_preview(mask, candidates, size_level0).save(buffer, format="JPEG", quality=88)
    replace_file(path, buffer.getvalue())


def draw_preview(
    mask: TissueMask, candidates: Candidates, size_level0: float | tuple[float, float]
) -> Image.Image:
    """Draw the thumbnail, the grid (rejected below, kept on top) and a legend with counts.

    `size_level0` is a patch's side, or (width, height), in level-0 pixels. The longer side is 1,000 to 1,800
    px.
    """
    height, width = mask.thumbnail.shape[:2]
    small, large = _LONGEST_SIDE
    zoom = min(max(1.0, small / max(height, width)), large / max(height, width))
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    picture = Image.fromarray(mask.thumbnail).resize(size, Image.Resampling.LANCZOS)
    colors = _colors(candidates.reasons)
    # Images of imported stores may have other scales along x and y.
    sides = size_level0 if isinstance(size_level0, tuple) else (size_level0, size_level0)
    scale = np.array([size[0] / width / mask.downsample[0], size[1] / height / mask.downsample[1]])
    cell = np.array(sides) * scale
    draw = ImageDraw.Draw(picture)
    # Kept ones last, so that no rejected neighbour covers their frame.
    for index in reversed(range(len(candidates.reasons))):
        # Two pixels wide where there is room.
        line = 2 if index == 0 and cell.min() >= 8 else 1
        for x, y in candidates.coords[candidates.reason == index] * scale:
            # Pillow wants right >= left; a cell may be smaller than a pixel.
            right, bottom = max(x, x + cell[0] - 1), max(y, y + cell[1] - 1)
            draw.rectangle((x, y, right, bottom), outline=colors[index], width=line)
    return _with_legend(picture, candidates, colors)


def _colors(reasons: Sequence[str]) -> list[Rgb]:
    colors: list[Rgb] = [_KEPT]
    others = 0
    for reason in reasons[1:]:
        if reason == "low tissue":
            # Low tissue is most of the slide, and grey: it is no fault.
            colors.append(_LOW_TISSUE)
        else:
            colors.append(OTHERS[others % len(OTHERS)])
            others += 1
    return colors


def _with_legend(picture: Image.Image, candidates: Candidates, colors: Sequence[Rgb]) -> Image.Image:
    """Add a white strip below with one swatch, name and count for each reason that occurs."""
    counts = np.bincount(candidates.reason, minlength=len(candidates.reasons))
    entries = [
        (colors[i], f"{name} {counts[i]:,}")
        for i, name in enumerate(candidates.reasons)
        if i == 0 or counts[i]
    ]
    font = ImageFont.load_default(size=_FONT_SIZE)
    places: list[tuple[int, int]] = []
    x, y = _MARGIN, picture.height + _MARGIN
    # Wide enough for one entry, however small the slide.
    width = max(picture.width, 320)
    for _, text in entries:
        length = _SWATCH + 6 + round(font.getlength(text))
        # A new line where the entry does not fit any more.
        if x > _MARGIN and x + length > width - _MARGIN:
            x, y = _MARGIN, y + _FONT_SIZE + 8
        places.append((x, y))
        x += length + 2 * _MARGIN
    canvas = Image.new("RGB", (width, y + _FONT_SIZE + _MARGIN), "white")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for (color, text), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, top + 2, left + _SWATCH, top + 2 + _SWATCH), fill=color)
        draw.text((left + _SWATCH + 6, top), text, fill="black", font=font)
    return canvas
