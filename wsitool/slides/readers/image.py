"""Reader of ordinary pictures: PNG, JPEG, BMP, WebP whole in memory, TIFF in strips as they come."""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from wsitool.base.limits import check_picture
from wsitool.errors import UnsupportedSlideError
from wsitool.slides.readers.byte_source import ByteSource, stem
from wsitool.slides.readers.codecs import DECODE_ERRORS
from wsitool.slides.readers.directories import TIFF_MAGIC
from wsitool.slides.readers.picture import UPRIGHT, ArrayLevel, upright
from wsitool.slides.readers.resolution import resolve_mpp
from wsitool.slides.readers.source import fingerprint
from wsitool.slides.readers.tiff import open_tiff
from wsitool.slides.readers.tiles import TiledSlide
from wsitool.slides.slide import Level, SlideInfo

__all__ = ["is_coarse_in_color", "open_image", "picture_size"]

RgbArray = NDArray[np.uint8]
_STRIP = 64
_ORIENTATION = 274  # of EXIF
_PILLOWS_420 = 2
# Bytes of a BMP: both headers, that of the file, the least of the picture's, and what some writers add.
_BMP_HEAD, _BMP_FILE, _BMP_INFO, _BMP_PADDING = 54, 14, 40, 4
# Drawn by other programs, or icons, whose size shows only when they are decoded.
_NO_PICTURES = {"EPS", "WMF", "CUR", "ICO", "ICNS"}
# Pillow's plugins report damage through whatever fails first.
_DAMAGED = (OSError, EOFError, SyntaxError, AttributeError, *DECODE_ERRORS)


def open_image(
    source: ByteSource, *, default_mpp: float | None = None, channels: tuple[int, ...] = ()
) -> TiledSlide:
    """Open a picture; its resolution is `default_mpp`, save for a TIFF that states one itself.

    Pixels are turned to RGB, transparent ones to white. Raises UnsupportedSlideError, before any pixel is
    decoded where the picture claims more pixels than `limits` allow.
    """
    if source.read(0, 4) in TIFF_MAGIC:
        return open_tiff(source, default_mpp=default_mpp, channels=channels, strips=True, reader="image")
    if channels:
        raise UnsupportedSlideError(f"'{source.name}' has no channels to choose from: leave --channels out.")
    try:
        format_name, pixels, profile = _decode(source)
    except UnidentifiedImageError as error:
        raise UnsupportedSlideError(f"'{source.name}' is not a picture that Pillow can read.") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UnsupportedSlideError(f"'{source.name}' is damaged: {reason}.") from error
    height, width = pixels.shape[:2]
    mpp, mpp_source = resolve_mpp(None, None, default_mpp)
    info = SlideInfo(
        path=source.path,
        name=stem(source.name),
        reader="image",
        format=f"{format_name} picture",
        levels=(Level(width=width, height=height, downsample=1.0),),
        mpp=mpp,
        mpp_source=mpp_source,
        objective_power=None,
        fingerprint=fingerprint(source),
        icc_profile=profile,
    )
    return TiledSlide(info, (ArrayLevel(pixels),), source)


def _decode(source: ByteSource) -> tuple[str, RgbArray, bytes]:
    """The format's name, the whole picture, upright, its size checked first, and its ICC profile."""
    with source.stream() as stream, _open_unlimited(stream) as image:
        check_picture(source.name, *image.size, source.size)
        format_name = image.format or "image"
        if format_name == "BMP":
            _check_bmp(source.read(0, _BMP_HEAD))
        if format_name == "PNG":
            # Once it has all rows, Pillow does not look at the checksum they came with.
            with source.stream() as again, _open_unlimited(again) as chunks:
                chunks.verify()
        # Of a gray or CMYK picture it is not that of the RGB made of it here.
        profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None
        orientation = image.getexif().get(_ORIENTATION, UPRIGHT)
        # Pillow makes grey pixels up where JPEG data is damaged; simplejpeg refuses.
        if format_name == "JPEG" and image.mode in ("RGB", "L"):
            pixels = np.asarray(simplejpeg.decode_jpeg(source.read(0, source.size)))
        else:
            pixels = _rgb(image)
    # Of a picture, orientations that there are not say nothing: programs show it as it is stored.
    upright_pixels = pixels if orientation not in range(2, 9) else upright(pixels, orientation)
    return format_name, upright_pixels, profile or b""


def _check_bmp(head: bytes) -> None:
    """ValueError where an uncompressed BMP's header contradicts itself: it would be shown sheared."""
    start, header, width, height, bits, compression, stored, colors = struct.unpack(
        "<10xIIii2xHII8xI4x", head
    )
    if header < _BMP_INFO or compression != 0:
        return
    expected = (width * bits + 31) // 32 * 4 * abs(height)
    palette = 4 * (colors or 1 << bits) if bits <= 8 else 0
    if start < _BMP_FILE + header + palette or not (stored == 0 or 0 <= stored - expected <= _BMP_PADDING):
        raise ValueError(
            f"its header says {stored} bytes of pixels from byte {start}, and its size makes {expected} "
            f"from byte {_BMP_FILE + header + palette}"
        )


def picture_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a picture by its header; None where it is none that can be read."""
    try:
        with path.open("rb") as stream, _open_unlimited(stream) as image:
            return image.size
    except _DAMAGED:
        return None


def is_coarse_in_color(path: Path) -> bool:
    """Whether a picture is a JPEG, by its header of no more than a color for four pixels: 4:2:0 or gray."""
    try:
        with path.open("rb") as stream, _open_unlimited(stream) as image:
            if not isinstance(image, JpegImagePlugin.JpegImageFile):
                return False
            return image.mode == "L" or JpegImagePlugin.get_sampling(image) == _PILLOWS_420
    except _DAMAGED:
        return False


_PILLOW_LIMIT = threading.Lock()


def _open_unlimited(stream: BinaryIO) -> Image.Image:
    """Read a picture's header, without Pillow's own limit: that of `check_picture` can be raised."""
    with _PILLOW_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            Image.init()
            return Image.open(stream, formats=sorted(set(Image.OPEN) - _NO_PICTURES))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _rgb(image: Image.Image) -> RgbArray:
    """The pixels by strips: Pillow holds 4 bytes a pixel, and every conversion of the whole as many again."""
    width, height = image.size
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    pixels = np.empty((height, width, 3), np.uint8)
    image.load()
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        strip = np.asarray(image.crop((0, top, width, bottom)).convert("RGBA" if has_alpha else "RGB"))
        pixels[top:bottom] = strip[..., :3]
        if has_alpha:
            pixels[top:bottom][strip[..., 3] == 0] = 255
    return pixels
