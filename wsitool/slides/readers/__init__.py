"""Readers of slide files and the choice among them."""

from __future__ import annotations

from pathlib import Path

from wsitool.errors import RefusedSlideError, SlideError, UnsupportedSlideError, UsageError
from wsitool.slides.readers.byte_source import ByteSource, is_url
from wsitool.slides.readers.directories import TIFF_MAGIC, read_directories
from wsitool.slides.readers.layout import check_directories
from wsitool.slides.readers.source import fingerprint, open_bytes
from wsitool.slides.readers.tiff import open_tiff
from wsitool.slides.readers.tiles import TiledSlide, TileLevel

__all__ = ["READERS", "TileLevel", "TiledSlide", "fingerprint", "open_slide"]

_REASONS = {
    "tiff": "a tiled TIFF is read directly, which is fastest",
    "openslide": "OpenSlide knows the format",
    "image": "it is an ordinary picture",
}
READERS = ("auto", "tiff", "openslide", "image", "tiffslide")


def open_slide(path: str | Path, *, reader: str = "auto", default_mpp: float | None = None) -> TiledSlide:
    """Open a slide with the named reader.

    "auto" takes `tiff` for tiled TIFF files (fastest), else `openslide`, else `image`, and says why in the
    property "reader_reason"; `tiffslide` only by name, as it fills damaged tags with guesses and then shows
    wrong pixels. Raises UsageError for another name, RefusedSlideError where the file contradicts itself or
    claims more than limits allow, whatever the reader, and UnsupportedSlideError, saying why each reader
    refused, if none opens it.
    """
    if reader not in READERS:
        raise UsageError(f"There is no reader '{reader}': choose one of {', '.join(READERS)}.")
    if default_mpp is not None and not 0 < default_mpp < 1000:
        raise UsageError(f"The default mpp must be a positive number of um per pixel, got {default_mpp}.")
    if reader in ("openslide", "tiffslide") and is_url(path):
        raise UnsupportedSlideError(
            f"The reader {reader} takes local files only; the direct reader takes URLs."
        )
    source = open_bytes(path)
    try:
        return _open_source(source, reader, default_mpp)
    except OSError as error:
        source.close()
        raise UnsupportedSlideError(f"'{path}' cannot be read: {error}.") from error
    except BaseException:
        source.close()
        raise


def _open_source(source: ByteSource, reader: str, default_mpp: float | None) -> TiledSlide:
    """The slide takes the source over, unless this raises."""
    is_tiff = source.read(0, 4) in TIFF_MAGIC
    if is_tiff:
        check_directories(read_directories(source))
    if reader != "auto":
        return _open(reader, source, default_mpp)
    refusals = []
    for name in ("tiff", "openslide", "image") if is_tiff else ("openslide", "image"):
        try:
            slide = _open(name, source, default_mpp)
        except RefusedSlideError:
            raise  # a laxer reader may open it, and would show pixels that are not there
        except SlideError as error:
            refusals.append(f"{name}: {str(error).rstrip('.')}")
            continue
        slide.info.properties["reader_reason"] = _REASONS[name] + "".join(f"; {text}" for text in refusals)
        return slide
    hint = ": --reader tiffslide may, but does not notice all damage" if is_tiff else ""
    raise UnsupportedSlideError(f"No reader opens '{source.name}' ({'; '.join(refusals)}){hint}.")


def _open(reader: str, source: ByteSource, default_mpp: float | None) -> TiledSlide:
    if reader == "tiff":
        return open_tiff(source, default_mpp=default_mpp)
    if reader == "openslide":
        from wsitool.slides.readers.openslide import open_openslide

        return open_openslide(source, default_mpp=default_mpp)
    if reader == "tiffslide":
        from wsitool.slides.readers.tiffslide import open_tiffslide

        return open_tiffslide(source, default_mpp=default_mpp)
    from wsitool.slides.readers.image import open_image

    return open_image(source, default_mpp=default_mpp)
