"""A picture of what tiling decided: over the thumbnail kept patches are framed and rejected ones shaded.

The line is the edge of the tissue. Labelled patches have frames in the color of their class.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wsitool.base.files import replace_file
from wsitool.base.paths import shown
from wsitool.report.colors import INK, OTHERS, Rgb, class_color
from wsitool.slides.tissue import TissueMask
from wsitool.store.schema import Candidates

__all__ = ["draw_preview", "preview_jpeg"]

Labels = NDArray[np.integer] | None

# Pixels: small slides are enlarged to the first, large ones reduced to the second.
_LONGEST_SIDE = (1000, 1800)
_KEPT = (0, 122, 92)
_LOW_TISSUE = (110, 110, 122)
_SHADE, _SHADE_OF_LOW_TISSUE = 0.5, 0.35
_MARGIN, _SWATCH, _FONT_SIZE = 12, 14, 16
_LETTERS = 40


@dataclass(frozen=True)
class _Entry:
    """A line of the legend: a swatch that is filled or a frame, and its text."""

    color: Rgb
    text: str
    filled: bool


def preview_jpeg(
    path: Path,
    mask: TissueMask,
    candidates: Candidates,
    size_level0: float | tuple[float, float],
    *,
    labels: Labels = None,
    classes: Sequence[str] = (),
) -> None:
    """Write the preview of one slide as JPEG; see `draw_preview`."""
    buffer = io.BytesIO()
    picture = draw_preview(mask, candidates, size_level0, labels=labels, classes=classes)
    picture.save(buffer, format="JPEG", quality=88)
    replace_file(path, buffer.getvalue())


def draw_preview(
    mask: TissueMask,
    candidates: Candidates,
    size_level0: float | tuple[float, float],
    *,
    labels: Labels = None,
    classes: Sequence[str] = (),
    longest_side: tuple[int, int] = _LONGEST_SIDE,
) -> Image.Image:
    """Draw the thumbnail, what was rejected, the edge of the tissue, what was kept, and a legend with counts.

    `size_level0` is a patch's side, or (width, height), in level-0 pixels; `labels` are those of the kept
    candidates in their order, -1 for none. The longer side is made at least and at most as long as
    `longest_side` says, in px.
    """
    height, width = mask.thumbnail.shape[:2]
    small, large = longest_side
    zoom = min(max(1.0, small / max(height, width)), large / max(height, width))
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    thumbnail = Image.fromarray(mask.thumbnail).resize(size, Image.Resampling.LANCZOS)
    # Images of imported stores may have other scales along x and y.
    sides = size_level0 if isinstance(size_level0, tuple) else (size_level0, size_level0)
    scale = np.array([size[0] / width / mask.downsample[0], size[1] / height / mask.downsample[1]])
    corners, cell = candidates.coords * scale, np.array(sides) * scale
    colors = _colors(candidates.reasons)
    pixels = _shaded(np.asarray(thumbnail), corners, cell, candidates, colors)
    pixels[_edge(mask.mask, size)] = INK
    picture = Image.fromarray(pixels)
    kept = candidates.reason == 0
    of_class = np.full(int(kept.sum()), -1) if labels is None or len(labels) != kept.sum() else labels
    _frame(ImageDraw.Draw(picture), corners[kept], cell, of_class)
    return _with_legend(picture, _legend(candidates, colors, of_class, classes))


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


def _shaded(
    thumbnail: NDArray[np.uint8],
    corners: NDArray[np.float64],
    cell: NDArray[np.float64],
    candidates: Candidates,
    colors: Sequence[Rgb],
) -> NDArray[np.uint8]:
    """The thumbnail (h, w, 3) with the color of their reason over rejected cells where no kept one is."""
    reason = np.zeros(thumbnail.shape[:2], np.uint8)
    first = np.floor(corners).astype(np.int64)
    last = np.maximum(np.floor(corners + cell).astype(np.int64), first + 1)
    # Kept ones last, as they may overlap rejected neighbours.
    order = np.argsort(candidates.reason == 0, kind="stable")
    boxes = np.concatenate([first, last], axis=1)[order].tolist()
    for (x0, y0, x1, y1), number in zip(boxes, candidates.reason[order].tolist(), strict=True):
        reason[y0:y1, x0:x1] = number
    shade = [0.0, *(_SHADE_OF_LOW_TISSUE if color == _LOW_TISSUE else _SHADE for color in colors[1:])]
    paint = Image.fromarray(np.array(colors, np.uint8)[reason])
    mask = Image.fromarray(np.rint(255 * np.array(shade)).astype(np.uint8)[reason])
    return np.array(Image.composite(paint, Image.fromarray(thumbnail), mask))


def _edge(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where a picture of `size` (w, h) shows the edge of `mask`, two pixels wide."""
    inside = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    edge = np.zeros_like(inside)
    across, down = inside[:, 1:] != inside[:, :-1], inside[1:] != inside[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _frame(
    draw: ImageDraw.ImageDraw,
    corners: NDArray[np.float64],
    cell: NDArray[np.float64],
    labels: NDArray[np.integer],
) -> None:
    # Two pixels wide where there is room.
    line = 2 if cell.min() >= 8 else 1
    for (x, y), label in zip(corners.tolist(), labels.tolist(), strict=True):
        # Pillow wants right >= left; a cell may be smaller than a pixel.
        right, bottom = max(x, x + cell[0] - 1), max(y, y + cell[1] - 1)
        draw.rectangle((x, y, right, bottom), outline=_KEPT if label < 0 else class_color(label), width=line)


def _legend(
    candidates: Candidates, colors: Sequence[Rgb], labels: NDArray[np.integer], classes: Sequence[str]
) -> list[_Entry]:
    """What occurs: kept patches, by class where there are labels, and those of each reason."""
    counts = np.bincount(candidates.reason, minlength=len(candidates.reasons))
    of_class = np.bincount(labels[labels >= 0], minlength=len(classes))
    plain = int(counts[0] - of_class.sum())
    entries = [
        _Entry(class_color(index), f"{shown(name)[:_LETTERS]} {of_class[index]:,}", filled=False)
        for index, name in enumerate(classes)
        if of_class[index]
    ]
    if plain or not entries:
        name = "unlabelled" if entries else candidates.reasons[0]
        entries.append(_Entry(colors[0], f"{name} {plain:,}", filled=False))
    rejected = [index for index in range(1, len(candidates.reasons)) if counts[index]]
    return entries + [
        _Entry(colors[index], f"{candidates.reasons[index]} {counts[index]:,}", filled=True)
        for index in rejected
    ]


def _with_legend(picture: Image.Image, entries: Sequence[_Entry]) -> Image.Image:
    """Add a white strip below with one swatch, name and count for each entry."""
    font = ImageFont.load_default(size=_FONT_SIZE)
    places: list[tuple[int, int]] = []
    x, y = _MARGIN, picture.height + _MARGIN
    # Wide enough for one entry, however small the slide.
    width = max(picture.width, 320)
    for entry in entries:
        length = _SWATCH + 6 + round(font.getlength(entry.text))
        # A new line where the entry does not fit any more.
        if x > _MARGIN and x + length > width - _MARGIN:
            x, y = _MARGIN, y + _FONT_SIZE + 8
        places.append((x, y))
        x += length + 2 * _MARGIN
    canvas = Image.new("RGB", (width, y + _FONT_SIZE + _MARGIN), "white")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for entry, (left, top) in zip(entries, places, strict=True):
        box = (left, top + 2, left + _SWATCH, top + 2 + _SWATCH)
        if entry.filled:
            draw.rectangle(box, fill=entry.color)
        else:
            draw.rectangle(box, outline=entry.color, width=3)
        draw.text((left + _SWATCH + 6, top), entry.text, fill="black", font=font)
    return canvas
