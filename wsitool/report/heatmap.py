"""The probability of one class, or the called class, over the picture of a slide.

Where there are patches the tissue is shown in grey beneath the colour, so that only the map has a hue; around
them the slide keeps its own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wsitool.base.files import replace_file
from wsitool.base.paths import shown
from wsitool.report.colors import class_color

__all__ = ["DRAWN_SIDE", "draw_called", "draw_heatmap", "heat", "heat_colors"]

DRAWN_SIDE = 1260  # pixels of the longer side of the picture itself
_SMALLEST_SIDE = 640  # smaller ones are magnified, or a slide could not be recognised
_MOST_BYTES = 200_000
_QUALITIES = (88, 78, 66, 52)
_SHADE = 0.62
# Ends of the map as OKLab (B. Ottosson 2020): a dark blue and a light yellow. On a straight line between them
# lightness only grows and steps look equal, and no kind of colour blindness takes blue for yellow.
_LOW, _HIGH = (0.38, -0.02, -0.17), (0.92, -0.01, 0.17)
_MARGIN, _FONT_SIZE, _LINE, _BAR = 12, 15, 20, 14  # pixels of the legend


def heat(
    shape: tuple[int, int],
    downsample: tuple[float, float],
    coords: NDArray[np.int64],
    size_level0: float,
    values: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean of `values` (N,) of the patches over each pixel of a picture of `shape` (h, w); NaN where none is.

    `coords` (N, 2) are level-0 corners, `downsample` (fx, fy) level-0 pixels per pixel of the picture.
    """
    # Two passes over the patches: overlapping ones are averaged.
    total, count = np.zeros(shape), np.zeros(shape)
    first = np.floor(coords / np.array(downsample)).astype(np.int64)
    # to the next patch's first pixel, so that neighbours neither overlap nor leave a gap
    last = np.maximum(np.floor((coords + size_level0) / np.array(downsample)).astype(np.int64), first + 1)
    for (x0, y0), (x1, y1), value in zip(first.tolist(), last.tolist(), values.tolist(), strict=True):
        total[y0:y1, x0:x1] += value
        count[y0:y1, x0:x1] += 1
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
    return mean


@cache
def heat_colors() -> NDArray[np.uint8]:
    """The map: (256, 3) uint8 from probability 0 to 1."""
    share = np.linspace(0, 1, 256)[:, None]
    lightness, a, b = ((1 - share) * np.array(_LOW) + share * np.array(_HIGH)).T
    # OKLab to linear light, and that to sRGB.
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=1,
    ).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * encoded), np.uint8)


def draw_heatmap(
    path: str | Path, thumbnail: NDArray[np.uint8], heat_map: NDArray[np.float64], *, title: str
) -> None:
    """Write a JPEG of `heat_map` (h, w), probabilities or NaN, over `thumbnail` (h, w, 3), of 200 kB at most.

    A colour bar and `title` are below it.
    """
    known = np.isfinite(heat_map)
    index = np.rint(255 * np.clip(np.where(known, heat_map, 0), 0, 1)).astype(np.uint8)
    picture = _over(thumbnail, heat_colors()[index], known)
    _write(path, _with_legend(picture, title, _bar()))


def draw_called(
    path: str | Path,
    thumbnail: NDArray[np.uint8],
    called: NDArray[np.integer],
    classes: Sequence[str],
    *,
    title: str,
) -> None:
    """Write a JPEG of the class number `called` (h, w), -1 where there is none, as `draw_heatmap` does."""
    colors = np.array([class_color(index) for index in range(len(classes))], np.uint8)
    picture = _over(thumbnail, colors[np.maximum(called, 0)], called >= 0)
    _write(path, _with_legend(picture, title, _swatches(classes)))


def _over(thumbnail: NDArray[np.uint8], color: NDArray[np.uint8], known: NDArray[np.bool_]) -> Image.Image:
    """`color` (h, w, 3) over the grey of `thumbnail` where `known` (h, w), enlarged where it is small."""
    height, width = thumbnail.shape[:2]
    zoom = max(1.0, _SMALLEST_SIDE / max(height, width))
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    slide = Image.fromarray(thumbnail)
    paint, mask = Image.fromarray(color), Image.fromarray((known * round(255 * _SHADE)).astype(np.uint8))
    if zoom > 1:
        # The slide smooth, the patches with sharp edges.
        slide = slide.resize(size, Image.Resampling.BICUBIC)
        paint, mask = (one.resize(size, Image.Resampling.NEAREST) for one in (paint, mask))
    grey = Image.composite(
        slide.convert("L").convert("RGB"), slide, mask.point(lambda value: 255 if value else 0)
    )
    return Image.composite(paint, grey, mask)


def _bar() -> Image.Image:
    """The map from left to right, with 0, 0.5 and 1 below."""
    font = ImageFont.load_default(size=_FONT_SIZE - 2)
    bar = Image.new("RGB", (256 + 60, _BAR + 22), "white")
    bar.paste(Image.fromarray(np.broadcast_to(heat_colors()[None], (_BAR, 256, 3)).copy()), (0, 0))
    draw = ImageDraw.Draw(bar)
    for x, text, anchor in ((0, "0", "la"), (128, "0.5", "ma"), (256, "1", "ra")):
        draw.text((x, _BAR + 4), text, fill="black", font=font, anchor=anchor)
    return bar


def _swatches(classes: Sequence[str]) -> Image.Image:
    font = ImageFont.load_default(size=_FONT_SIZE)
    rows = Image.new("RGB", (400, _LINE * len(classes)), "white")
    draw = ImageDraw.Draw(rows)
    for index, name in enumerate(classes):
        draw.rectangle((0, _LINE * index + 3, _BAR, _LINE * index + 3 + _BAR), fill=class_color(index))
        draw.text((_BAR + 8, _LINE * index + 1), _cut(name, 46), fill="black", font=font)
    return rows


def _with_legend(picture: Image.Image, title: str, legend: Image.Image) -> Image.Image:
    """Add a white strip below with the lines of `title` and then the legend."""
    font = ImageFont.load_default(size=_FONT_SIZE)
    width = max(picture.width, 420)
    lines = [line for part in title.split("\n") for line in _wrapped(shown(part), font, width - 2 * _MARGIN)]
    below = picture.height + _MARGIN
    canvas = Image.new("RGB", (width, below + _LINE * len(lines) + 6 + legend.height + _MARGIN), "white")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, below + _LINE * number), line, fill="black", font=font)
    canvas.paste(legend, (_MARGIN, below + _LINE * len(lines) + 6))
    return canvas


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> Iterator[str]:
    line = ""
    for word in text.split(" "):
        if line and font.getlength(f"{line} {word}") > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield _cut(line, 200)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _write(path: str | Path, picture: Image.Image) -> None:
    """As JPEG of the best quality that is small enough, complete or not at all; smaller where none is."""
    while True:
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            picture.save(buffer, format="JPEG", quality=quality)
            if buffer.tell() <= _MOST_BYTES:
                replace_file(Path(path), buffer.getvalue())
                return
        picture = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.LANCZOS)
