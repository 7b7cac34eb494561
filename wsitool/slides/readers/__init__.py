"""Readers of slide files and the choice among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from wsitool.base.urls import file_name, is_url
from wsitool.errors import PluginError, RefusedSlideError, SlideError, UnsupportedSlideError, UsageError
from wsitool.slides.reader_registry import READERS, TIFF_MAGIC, SlideReader
from wsitool.slides.readers.byte_source import ByteSource
from wsitool.slides.readers.channels import check_channels
from wsitool.slides.readers.directories import read_directories
from wsitool.slides.readers.folders import entry_file, series_files, zarr_metadata
from wsitool.slides.readers.foreign import open_foreign
from wsitool.slides.readers.icc import convert_to_srgb
from wsitool.slides.readers.layout import check_directories
from wsitool.slides.readers.source import fingerprint, open_bytes
from wsitool.slides.readers.tiles import TiledSlide, TileLevel
from wsitool.slides.slide import Icc

__all__ = ["READERS", "TileLevel", "TiledSlide", "fingerprint", "open_slide"]

_HEAD_BYTES = 512


def open_slide(
    path: str | Path,
    *,
    reader: str | SlideReader = "auto",
    default_mpp: float | None = None,
    channels: Iterable[int] = (),
    icc: Icc = "keep",
) -> TiledSlide:
    """Open a slide with the named reader.

    "auto" tries those of `READERS` whose magic fits, in their order (`tiff` is fastest), then installed ones,
    and says why in the property "reader_reason"; `tiffslide` only by name, as it fills damaged tags with
    guesses and then shows wrong pixels. `channels` are those shown as red, green and blue, () the file's own
    colors; `icc` "srgb" converts pixels by the file's profile. Raises UsageError for another name,
    RefusedSlideError where the file contradicts itself or claims more than limits allow, whatever the reader,
    UnsupportedSlideError, saying why each reader refused, if none opens it, and PluginError where the one
    asked for is broken.

    >>> with wsitool.open_slide("slide.svs") as slide:
    ...     slide.info.reader, slide.read(0, 0, 64).shape
    ('tiff', (64, 64, 3))
    """
    named = reader if isinstance(reader, SlideReader) else None if reader == "auto" else READERS.get(reader)
    if default_mpp is not None and not 0 < default_mpp < 1000:
        raise UsageError(f"The default mpp must be a positive number of um per pixel, got {default_mpp}.")
    if named is not None and not named.takes_urls and is_url(path):
        raise UnsupportedSlideError(
            f"The reader {named.name} takes local files only; the direct reader takes URLs."
        )
    if icc not in get_args(Icc):
        raise UsageError(f"The option icc must be one of {', '.join(get_args(Icc))}, got {icc!r}.")
    check_channels(channels := tuple(channels))
    if named is not None and channels and not named.takes_channels:
        raise UnsupportedSlideError(f"The reader {named.name} takes no --channels: leave --reader out.")
    is_folder = not is_url(path) and entry_file(Path(path)) is not None
    is_zarr = is_folder and zarr_metadata(Path(path)) is not None
    if is_folder and not is_zarr:
        _check_one_series(Path(path), series_files(Path(path)))
    source = open_bytes(path)
    try:
        slide = _open_source(source, named, default_mpp, channels)
        if is_folder:
            # Of a DICOM series the source is one file only.
            slide.set_origin(str(path), slide.info.fingerprint if is_zarr else fingerprint(path))
        elif source.name == file_name(path) != file_name(source.path):  # a zarr group behind a URL
            slide.set_origin(str(path), slide.info.fingerprint)
        if icc == "srgb":
            try:
                convert_to_srgb(slide)
            except SlideError:
                slide.close()
                raise
        return slide
    except OSError as error:
        source.close()
        raise UnsupportedSlideError(f"'{path}' cannot be read: {error}.") from error
    except BaseException:
        source.close()
        raise


def _check_one_series(folder: Path, files: list[Path]) -> None:
    from wsitool.slides.readers.dicom import dicom_series

    if (count := len(dicom_series(files))) > 1:
        raise UnsupportedSlideError(
            f"'{folder}' holds {count} DICOM series, and a slide is one: name a file of the one you mean."
        )


def _open_source(
    source: ByteSource, named: SlideReader | None, default_mpp: float | None, channels: tuple[int, ...]
) -> TiledSlide:
    """The slide takes the source over, unless this raises."""
    head = source.read(0, _HEAD_BYTES)
    if head.startswith(TIFF_MAGIC):
        check_directories(read_directories(source))
    if named is not None:
        return _open(named, source, default_mpp, channels)
    refusals: list[str] = []
    for reader in _tried(head, refusals):
        if channels and not reader.takes_channels:
            continue
        try:
            slide = _open(reader, source, default_mpp, channels)
        except RefusedSlideError:
            raise  # a laxer reader may open it, and would show pixels that are not there
        except (SlideError, PluginError) as error:
            refusals.append(f"{reader.name}: {str(error).rstrip('.')}")
            continue
        slide.info.properties["reader_reason"] = reader.reason + "".join(f"; {text}" for text in refusals)
        return slide
    hints = [
        f": --reader {reader.name} may, {reader.by_name_only}"
        for reader in READERS.builtin
        if reader.by_name_only and reader.may_take(head)
    ]
    raise UnsupportedSlideError(f"No reader opens '{source.name}' ({'; '.join(refusals)}){''.join(hints)}.")


def _tried(head: bytes, refusals: list[str]) -> Iterator[SlideReader]:
    """The readers for a file that begins with `head`; installed ones are imported once the others refused."""
    yield from (reader for reader in READERS.builtin if _is_tried(reader, head))
    installed, problems = READERS.installed()
    refusals += [str(problem).rstrip(".") for problem in problems]
    yield from (reader for reader in installed if _is_tried(reader, head))


def _is_tried(reader: SlideReader, head: bytes) -> bool:
    return not reader.by_name_only and reader.may_take(head)


def _open(
    reader: SlideReader, source: ByteSource, default_mpp: float | None, channels: tuple[int, ...]
) -> TiledSlide:
    # Most readers have no such option.
    options: dict[str, Any] = {"channels": channels} if channels else {}
    if reader in READERS.builtin:
        slide: TiledSlide = READERS.call(reader, reader.open, source, default_mpp=default_mpp, **options)
        return slide
    return open_foreign(reader, source, default_mpp, **options)
