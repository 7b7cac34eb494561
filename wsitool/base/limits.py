"""How large an input may claim to be: checked before anything is allocated, so that no header fills memory.

The limits lie far above real slides (the largest of whole organs have some 6e10 pixels). The environment
variable WSITOOL_RAISE_LIMITS=N multiplies all of them by N, in this process and in those it starts.
"""

from __future__ import annotations

import os

from wsitool.errors import RefusedSlideError, UsageError

__all__ = [
    "MAX_CANDIDATES",
    "MAX_DIRECTORIES",
    "MAX_LEVEL_PIXELS",
    "MAX_PICTURE_PIXELS",
    "MAX_TAG_BYTES",
    "MAX_TILES",
    "MAX_TILE_PIXELS",
    "RAISE_LIMITS",
    "as_pyramid",
    "check_limit",
    "check_picture",
    "limit_factor",
]

RAISE_LIMITS = "WSITOOL_RAISE_LIMITS"

MAX_LEVEL_PIXELS = 2**37
"""Pixels of one level: 370,000 x 370,000."""
MAX_TILE_PIXELS = 2**25
"""Pixels of one tile, which is decoded at once, a few at a time: 5,792 x 5,792."""
MAX_PICTURE_PIXELS = 178_956_970
"""Pixels of an ordinary picture, or a strip, held whole in memory; Pillow's own limit."""
MAX_TILES = 2**23
"""Tiles of one level; 16 bytes each are kept."""
MAX_DIRECTORIES = 10_000
"""Directories of a TIFF; a slide has tens, a fluorescence stack may have thousands."""
MAX_TAG_BYTES = 2**28
"""Bytes of all tags of a TIFF together, tables of tiles and ICC profiles among them."""
MAX_CANDIDATES = 20_000_000
"""Grid positions of one slide; about 100 bytes each while they are scored."""

# Real pictures, blank glass included, have under 100 pixels a byte; what has more is a bomb, or a drawing.
_ALWAYS_FINE_PIXELS, _PIXELS_PER_BYTE = 2**25, 200


def limit_factor() -> float:
    """What all limits are multiplied by; UsageError where the environment says no such number."""
    text = os.environ.get(RAISE_LIMITS, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    # 1 at least: limits can be raised, not lowered.
    if not 1 <= factor < 1e9:
        raise UsageError(
            f"{RAISE_LIMITS} must be a number of 1 or more, as in {RAISE_LIMITS}=4, got '{text}'."
        )
    return factor


def check_limit(what: str, value: int, limit: int, *, instead: str = "") -> None:
    """Raise RefusedSlideError where `what` has a larger `value` than the limit allows.

    The message names the value of WSITOOL_RAISE_LIMITS that would let it pass, and what to do `instead`.
    """
    if value > limit * limit_factor():
        raise RefusedSlideError(
            f"{what}: {value:,}, where at most {limit:,} are taken to be true; if they are, set the "
            # The factor that would do, rounded up.
            f"environment variable {RAISE_LIMITS}={-(-value // limit)}, which multiplies all limits on size"
            f"{instead and '; '}{instead}."
        )


def as_pyramid(name: str, pixels: int) -> str:
    """What to do with a file of so many pixels that are only had all at once."""
    return (
        f"it would be held in memory whole, {pixels * 3 / 1e6:,.0f} MB, and a pyramid is not: make one by "
        f"'vips tiffsave {name} pyramid.tif --tile --pyramid --bigtiff --compression jpeg --Q 95'"
    )


def check_picture(name: str, width: int, height: int, stored_bytes: int) -> None:
    """Raise RefusedSlideError where a picture of `stored_bytes` claims more pixels than it can truly have.

    Two limits: on its pixels, and, above 33 million of them, on pixels a stored byte, which tells a
    decompression bomb.

    >>> wsitool.check_picture("a.png", width=1000, height=1000, stored_bytes=200_000)
    """
    whole = f"Pixels of the picture '{name}' ({width} x {height})"
    check_limit(whole, width * height, MAX_PICTURE_PIXELS, instead=as_pyramid(name, width * height))
    fine = max(_ALWAYS_FINE_PIXELS, stored_bytes * _PIXELS_PER_BYTE)
    what = f"Pixels of the picture '{name}' ({width} x {height} from {stored_bytes:,} bytes)"
    check_limit(what, width * height, fine)
