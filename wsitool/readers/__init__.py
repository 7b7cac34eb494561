"""Readers of slide files and the choice among them."""

from __future__ import annotations

from pathlib import Path

from wsitool.errors import SlideError, UnsupportedSlideError, UsageError
from wsitool.readers.source import file_name, fingerprint, open_bytes
from wsitool.readers.tiff import TIFF_MAGIC, open_tiff
from wsitool.readers.tiles import TiledSlide, TileLevel

__all__ = ["READERS", "TileLevel", "TiledSlide", "fingerprint", "open_with"]

_REASONS = {
    "tiff": "a tiled TIFF is read directly, which is fastest",
    "openslide": "OpenSlide knows the format",
    "image": "it is an ordinary picture",
}
READERS = ("auto", "tiff", "openslide", "image", "tiffslide")


def open_with(path: str | Path, *, reader: str = "auto", default_mpp: float | None = None) -> TiledSlide:
    """Open a slide with the named reader.

    "auto" takes `tiff` for tiled TIFF files (fastest), else `openslide`, else `image`, and says why in the
    property "reader_reason"; `tiffslide` only by name, as it fills damaged tags with guesses and then shows
    wrong pixels. Raises UsageError for another name and
    UnsupportedSlideError, saying why each reader refused, if none opens the file.
    """
    if reader not in READERS:
        raise UsageError(f"There is no reader '{reader}': choose one of {', '.join(READERS)}.")
    if default_mpp is not None and not 0 < default_mpp < 1000:
        raise UsageError(f"The default mpp must be a positive number of um per pixel, got {default_mpp}.")
    if reader != "auto":
        return _open(reader, path, default_mpp)
    source = open_bytes(path)
    try:
        is_tiff = source.read(0, 4) in TIFF_MAGIC
    except OSError as error:
        raise UnsupportedSlideError(f"'{path}' cannot be read: {error}.") from error
    finally:
        source.close()
    refusals = []
    for name in ("tiff", "openslide", "image") if is_tiff else ("openslide", "image"):
        try:
            slide = _open(name, path, default_mpp)
        except SlideError as error:
            refusals.append(f"{name}: {str(error).rstrip('.')}")
            continue
        slide.info.properties["reader_reason"] = _REASONS[name] + "".join(f"; {text}" for text in refusals)
        return slide
    hint = ": --reader tiffslide may, but does not notice all damage" if is_tiff else ""
    raise UnsupportedSlideError(f"No reader opens '{file_name(path)}' ({'; '.join(refusals)}){hint}.")


def _open(reader: str, path: str | Path, default_mpp: float | None) -> TiledSlide:
    if reader == "tiff":
        return open_tiff(path, default_mpp=default_mpp)
    if reader == "openslide":
        from wsitool.readers.openslide import open_openslide

        return open_openslide(path, default_mpp=default_mpp)
    if reader == "tiffslide":
        from wsitool.readers.tiffslide import open_tiffslide

        return open_tiffslide(path, default_mpp=default_mpp)
    from wsitool.readers.image import open_image

    return open_image(path, default_mpp=default_mpp)
