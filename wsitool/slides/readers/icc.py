"""A slide's own ICC profile: its name, and the conversion to sRGB by littleCMS where that is asked for."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from wsitool.errors import RefusedSlideError, RegionReadError
from wsitool.slides.readers.tiles import TiledSlide, TileLevel
from wsitool.slides.slide import ICC_STATE

__all__ = ["convert_to_srgb", "profile_name"]

_BROKEN = (ImageCms.PyCMSError, OSError, ValueError, TypeError)
_RGB_SPACE = "RGB"


def profile_name(profile: bytes) -> str:
    """What a profile calls itself, and its hash: "ScanScope v1 (sha256 0123456789abcdef)"; "" for none."""
    if not profile:
        return ""
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except _BROKEN:
        name = "damaged"
    return f"{' '.join(name.split())} (sha256 {hashlib.sha256(profile).hexdigest()[:16]})"


def convert_to_srgb(slide: TiledSlide) -> None:
    """Convert what is read of a slide from its own profile to sRGB, by the profile's own intent.

    A slide without a profile is left as it is, and says so in its property `ICC_STATE`. Raises
    RefusedSlideError for a profile that is damaged or not of RGB.
    """
    info = slide.info
    if not info.icc_profile:
        info.properties[ICC_STATE] = "it has no ICC profile, so its colors are taken for sRGB"
        return
    name = profile_name(info.icc_profile)
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(info.icc_profile))
        if profile.profile.xcolor_space.strip() != _RGB_SPACE:
            raise ValueError(f"it is of {profile.profile.xcolor_space.strip()} colors")
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            renderingIntent=ImageCms.Intent(ImageCms.getDefaultIntent(profile)),
        )
    except _BROKEN as error:
        reason = str(error).strip().rstrip(".")
        raise RefusedSlideError(
            f"The ICC profile of '{info.name}', {name}, cannot be used ({reason}): leave --icc srgb out."
        ) from error
    slide.wrap_levels(lambda level: _SrgbLevel(level, transform))
    info.properties[ICC_STATE] = f"converted to sRGB from {name}"


class _SrgbLevel:
    """A level whose pixels are converted as they are decoded; its stored JPEG tiles are not given."""

    passthrough = False

    def __init__(self, level: TileLevel, transform: ImageCms.ImageCmsTransform) -> None:
        self._level, self._transform = level, transform
        self.width, self.height = level.width, level.height
        self.tile_width, self.tile_height = level.tile_width, level.tile_height
        self.shrinks = level.shrinks

    def decode(self, column: int, row: int, *, shrink: int = 1) -> NDArray[np.uint8]:
        """See `TileLevel.decode`."""
        picture = Image.fromarray(np.ascontiguousarray(self._level.decode(column, row, shrink=shrink)))
        return np.asarray(ImageCms.applyTransform(picture, self._transform))

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        """See `TileLevel.prefetch`."""
        self._level.prefetch(places)

    def jpeg(self, column: int, row: int) -> bytes:
        """See `TileLevel.jpeg`."""
        raise RegionReadError("its colors are converted, so its own JPEG tiles are not given")
