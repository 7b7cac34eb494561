"""Reader of ordinary pictures: PNG, JPEG, BMP, WebP whole in memory, TIFF in strips as they come."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsitool.errors import RegionReadError, UnsupportedSlideError
from wsitool.readers.resolution import resolve_mpp
from wsitool.readers.source import file_name, fingerprint, open_bytes
from wsitool.readers.tiff import TIFF_MAGIC, open_tiff
from wsitool.readers.tiles import TiledSlide
from wsitool.slide import Level, SlideInfo

__all__ = ["ImageSlide", "open_image"]

RgbArray = NDArray[np.uint8]
_TILE = 1024


class _ArrayLevel:
    shrinks: tuple[int, ...] = ()
    passthrough = False
    tile_width = tile_height = _TILE

    def __init__(self, pixels: RgbArray) -> None:
        self._pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def decode(self, column: int, row: int, *, shrink: int = 1) -> RgbArray:
        return self._pixels[row * _TILE : (row + 1) * _TILE, column * _TILE : (column + 1) * _TILE]

    def jpeg(self, column: int, row: int) -> bytes:
        raise RegionReadError("an ordinary picture has no JPEG tiles")


class ImageSlide(TiledSlide):
    """A picture in memory, as a slide of one level."""

    def __init__(self, info: SlideInfo, pixels: RgbArray) -> None:
        super().__init__(info, (_ArrayLevel(pixels),))


def open_image(path: str | Path, *, default_mpp: float | None = None) -> TiledSlide:
    """Open a picture; its resolution is `default_mpp`, save for a TIFF that states one itself.

    Pixels are turned to RGB, transparent ones to white. Raises UnsupportedSlideError.
    """
    source = open_bytes(path)
    try:
        if source.read(0, 4) in TIFF_MAGIC:
            return open_tiff(path, default_mpp=default_mpp, strips=True, reader="image")
        with source.stream() as stream, warnings.catch_warnings():
            # A slide exported as one picture is larger than Pillow's limit for pictures from strangers.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                format_name = image.format or "image"
                # Pillow makes grey pixels up where JPEG data is damaged; simplejpeg refuses.
                if format_name == "JPEG" and image.mode in ("RGB", "L"):
                    pixels = simplejpeg.decode_jpeg(source.read(0, source.size))
                else:
                    pixels = _rgb(image)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UnsupportedSlideError(f"'{file_name(path)}' is not a picture that Pillow can read.") from error
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise UnsupportedSlideError(f"'{file_name(path)}' is damaged: {error}.") from error
    finally:
        source.close()
    height, width = pixels.shape[:2]
    mpp, mpp_source = resolve_mpp(None, None, default_mpp)
    name = file_name(path)
    info = SlideInfo(
        path=str(path),
        name=name.rsplit(".", 1)[0] if "." in name else name,
        reader="image",
        format=f"{format_name} picture",
        levels=(Level(width=width, height=height, downsample=1.0),),
        mpp=mpp,
        mpp_source=mpp_source,
        objective_power=None,
        fingerprint=fingerprint(path),
    )
    return ImageSlide(info, pixels)


def _rgb(image: Image.Image) -> RgbArray:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        rgb = np.array(rgba[..., :3])
        rgb[rgba[..., 3] == 0] = 255
        return rgb
    return np.array(image.convert("RGB"))
