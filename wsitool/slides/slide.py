"""A slide as the rest of wsitool sees it: geometry, resolution and pixels, whoever reads the file.

Coordinates are level-0 integer pixels (x0, y0) of the top-left corner. Sizes are (width, height).
Pixel arrays are (height, width, 3) uint8 RGB.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    RgbArray = NDArray[np.uint8]

__all__ = ["BLANK_TILES", "ICC_STATE", "NOT_SQUARE", "Icc", "Level", "Slide", "SlideInfo"]

Icc = Literal["keep", "srgb"]
"""What is done with a slide's ICC profile: nothing, or its pixels converted to sRGB."""
ICC_STATE = "icc"
"""The property that says, where a conversion was asked for, what came of it."""
NOT_SQUARE = "not square"
"""The property of a slide whose pixels' sides differ by over 2 %: "0.5 x 0.6 um"; it then has no one mpp."""
BLANK_TILES = "blank tiles"
"""The property of a slide that leaves tiles of level 0 out, which are white: how many."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """One resolution level: its size in its own pixels and its downsample from level 0.

    >>> wsitool.open_slide("slide.svs").info.levels[0]
    Level(width=600, height=600, downsample=1.0)
    """

    width: int
    height: int
    downsample: float


@dataclass(frozen=True, kw_only=True)
class SlideInfo:
    """What is known of a slide before any pixel is read.

    `mpp` is um per level-0 pixel, None where the file states none; `mpp_source` says where it came from
    ("file", "objective", "given"). `fingerprint` identifies the file's content (see `readers`), `icc_profile`
    is the color profile that the file brings, b"" where it has none.

    >>> info = wsitool.open_slide("slide.svs").info
    >>> info.width, info.height, info.mpp, info.mpp_source
    (600, 600, 0.5, 'file')
    """

    path: str
    name: str
    reader: str
    format: str
    levels: tuple[Level, ...]
    mpp: float | None
    mpp_source: str | None
    objective_power: float | None
    fingerprint: str
    properties: dict[str, str] = field(default_factory=dict, repr=False)
    icc_profile: bytes = field(default=b"", repr=False)

    @property
    def width(self) -> int:
        """Level-0 width in pixels."""
        return self.levels[0].width

    @property
    def height(self) -> int:
        """Level-0 height in pixels."""
        return self.levels[0].height


class Slide(Protocol):
    """An open slide; use it as a context manager. One instance serves one thread at a time.

    >>> with wsitool.open_slide("slide.svs") as slide:
    ...     slide.read_region(100, 200, level=0, width=64, height=32).shape
    (32, 64, 3)
    """

    @property
    def info(self) -> SlideInfo: ...

    def read_region(self, x0: int, y0: int, level: int, width: int, height: int) -> RgbArray:
        """Read `width` x `height` pixels of `level` whose top-left corner is level-0 (x0, y0).

        Returns (height, width, 3) uint8; pixels outside the slide, or stored as fully transparent, are white.
        Raises RegionReadError if any needed pixel cannot be decoded.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
