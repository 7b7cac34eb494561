"""The readers of slide files, one entry each; others by entry points of group `wsitool.readers`.

A new reader is one file in `readers/` and one entry below, or a package of its own that registers a
`SlideReader`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from wsitool.base.registry import Registry

if TYPE_CHECKING:
    from wsitool.slides.readers.byte_source import ByteSource
    from wsitool.slides.readers.tiles import TiledSlide

__all__ = ["ANY", "READERS", "TIFF_MAGIC", "OpenReader", "SlideReader"]

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ANY = (b"",)
"""What every file begins with: the reader is tried on all that no earlier one took."""


class OpenReader(Protocol):
    """The function a reader is: opens one slide from its bytes."""

    def __call__(self, source: ByteSource, *, default_mpp: float | None = None) -> TiledSlide:
        """Open `source` as a `TiledSlide`, which takes it over and closes it, unless this raises.

        Levels are `TileLevel`s, the finest first: tiles (h, w, 3) uint8 RGB, transparent pixels white, the
        same from any number of threads. `SlideInfo.mpp` is um per level-0 pixel, `default_mpp` where the file
        states none (`resolve_mpp` says which); `reader` is the reader's name, `fingerprint` that of
        `fingerprint(source)`. Nothing of the slide's size is allocated before its claims are checked. A
        reader that `takes_channels` has the option `channels` besides.

        Raises UnsupportedSlideError for a file that is not of its kind, after which the next reader is tried;
        RefusedSlideError for one that is, and is damaged or contradicts itself, which no other may then guess
        at; RegionReadError, while reading, for a tile that cannot be decoded; OSError where the system fails.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SlideReader:
    """A reader of slides: `open` names its `OpenReader` as "module:name".

    A file is tried if it begins with one of `magic`, in the order of the table; `ANY` tries every file, ()
    none. `suffixes` (lower case, with the dot) are what is taken for slides in a folder. `reason` says why it
    was taken. `takes_channels` says that it also takes `channels`, three numbers, and shows these as red,
    green and blue. `by_name_only` keeps it from being tried on its own account, and says what is against it.

    >>> reader = wsitool.SlideReader(name="npy", open="my_npy:open", reason="it is a NumPy file")
    >>> reader.may_take(b"BM")
    False
    """

    name: str
    open: str
    reason: str
    magic: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()
    takes_urls: bool = True
    takes_channels: bool = False
    by_name_only: str = ""

    def may_take(self, head: bytes) -> bool:
        """Whether a file whose first bytes are `head` may be of its kind."""
        return head.startswith(self.magic)


READERS: Registry[SlideReader] = Registry(
    group="wsitool.readers",
    noun="reader",
    kind=SlideReader,
    words=("auto",),
    builtin=(
        SlideReader(
            name="tiff",
            open="wsitool.slides.readers.tiff:open_tiff",
            reason="a tiled TIFF is read directly, which is fastest",
            magic=TIFF_MAGIC,
            suffixes=(".svs", ".tif", ".tiff", ".btf", ".qptiff"),
            takes_channels=True,
        ),
        SlideReader(
            name="ome-zarr",
            open="wsitool.slides.readers.ome_zarr:open_ome_zarr",
            reason="it is an OME-Zarr image",
            magic=(b"{",),
            takes_channels=True,
        ),
        SlideReader(
            name="deepzoom",
            open="wsitool.slides.readers.deepzoom:open_deepzoom",
            reason="it is a Deep Zoom image",
            magic=(b"<", b"\xef\xbb\xbf<"),
            suffixes=(".dzi",),
            takes_urls=False,
        ),
        SlideReader(
            name="openslide",
            open="wsitool.slides.readers.openslide:open_openslide",
            reason="OpenSlide knows the format",
            magic=ANY,
            suffixes=(".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".svslide", ".dcm"),
            takes_urls=False,
        ),
        SlideReader(
            name="czi",
            open="wsitool.slides.readers.czi:open_czi",
            reason="it is a Zeiss CZI file",
            magic=(b"ZISRAWFILE",),
            suffixes=(".czi",),
            takes_urls=False,
            takes_channels=True,
        ),
        SlideReader(
            name="image",
            open="wsitool.slides.readers.image:open_image",
            reason="it is an ordinary picture",
            magic=ANY,
            suffixes=(".png", ".jpg", ".jpeg", ".bmp", ".webp"),
            takes_channels=True,
        ),
        SlideReader(
            name="tiffslide",
            open="wsitool.slides.readers.tiffslide:open_tiffslide",
            reason="it was asked for by name",
            magic=TIFF_MAGIC,
            takes_urls=False,
            by_name_only="but does not notice all damage",
        ),
    ),
)
