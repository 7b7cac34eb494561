"""Small pictures, and the card by which an object shows itself in a notebook."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SMALL_SIDE", "card", "sheet", "small_jpeg", "smaller"]

SMALL_SIDE = 120  # pixels of a patch on a page
_QUALITY = 82
_CARD_SIDE = 360
_MOST_PICTURES = 4
_MOST_BYTES = 400_000  # of the pictures of a card: notebooks keep every output


def small_jpeg(pixels: NDArray[np.uint8], *, side: int = SMALL_SIDE) -> bytes:
    """A patch or picture (H, W, 3) uint8 as JPEG of at most `side` pixels."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    # The mean over the cells: nuclei do not fall between the samples.
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return _jpeg(picture)


def smaller(path: Path, *, side: int) -> bytes | None:
    """A picture's file as JPEG of at most `side` pixels; None where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            # JPEG is decoded at an eighth to a half where that is enough.
            picture.draft("RGB", (side, side))
            small = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    small.thumbnail((side, side), Image.Resampling.BILINEAR)
    return _jpeg(small)


def sheet(patches: NDArray[np.uint8], *, columns: int = 6, gap: int = 4) -> NDArray[np.uint8]:
    """Patches (N, P, P, 3) uint8 side by side in rows, as one picture (H, W, 3) uint8; N of 0 gives none."""
    number, side = len(patches), patches.shape[1]
    columns = max(1, min(columns, number))
    rows, step = math.ceil(number / columns), side + gap
    picture = np.full((max(1, rows * step - gap), max(1, columns * step - gap), 3), 255, np.uint8)
    for index, patch in enumerate(patches):
        y, x = index // columns * step, index % columns * step
        picture[y : y + side, x : x + side] = patch
    return picture


def card(
    title: str,
    facts: Mapping[str, object] | None = None,
    pictures: Sequence[NDArray[np.uint8] | Path] = (),
) -> str:
    """HTML that shows an object in a notebook: a heading, named facts, and pictures made small.

    All text is escaped and pictures (H, W, 3) uint8, or files, are inlined, so that nothing is fetched. At
    most four pictures and about .5 MB are taken; files that cannot be read are left out.
    """
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(str(name))}</th>"
        f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
        for name, value in (facts or {}).items()
    )
    images, room = "", _MOST_BYTES
    for picture in pictures[:_MOST_PICTURES]:
        data = (
            smaller(picture, side=_CARD_SIDE)
            if isinstance(picture, Path)
            else small_jpeg(picture, side=_CARD_SIDE)
        )
        if data is None or len(data) > room:
            continue
        room -= len(data)
        uri = base64.b64encode(data).decode()
        images += f"<img alt='' style='margin:4px' src='data:image/jpeg;base64,{uri}'>"
    return f"<div><b>{html.escape(title)}</b><table>{rows}</table>{images}</div>"


def _jpeg(picture: Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()
