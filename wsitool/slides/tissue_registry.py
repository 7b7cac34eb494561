"""The tissue detectors, one entry each; others by entry points of group `wsitool.tissue`.

A new detector is one function in `detectors.py` and one entry below, or a package of its own that registers a
`TissueDetector`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from wsitool.base.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DEFAULT_TISSUE", "TISSUE", "DetectTissue", "TissueDetector"]


class DetectTissue(Protocol):
    """The function a tissue detector is: a thumbnail in, where the tissue is out."""

    def __call__(
        self, thumbnail: NDArray[np.uint8], *, mpp: float | None, unread: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Mask (h, w) bool of the tissue on `thumbnail` (h, w, 3) uint8 RGB, 1 to 4096 pixels a side.

        `mpp` is um per pixel of the thumbnail, about 8, or None where the slide states no resolution.
        `unread` (h, w) bool marks pixels that could not be read, white in the thumbnail: they are no
        evidence, and count as tissue whatever the answer. Inputs stay as they are, and the answer depends on
        nothing else: no seed, no earlier slide. There is no error to raise: no tissue is an answer.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TissueDetector:
    """A rule for what is tissue, in words `about`; `detect` names its `DetectTissue` as "module:name".

    >>> wsitool.TissueDetector(name="pink", detect="my_pink:detect", about="hue and saturation").name
    'pink'
    """

    name: str
    detect: str
    about: str


TISSUE: Registry[TissueDetector] = Registry(
    group="wsitool.tissue",
    noun="tissue detector",
    kind=TissueDetector,
    builtin=(
        TissueDetector(
            name="chroma",
            detect="wsitool.slides.detectors:chroma_tissue",
            about="coloured after the tint of the glass is divided out, Otsu's threshold between two guards",
        ),
        TissueDetector(
            name="otsu",
            detect="wsitool.slides.detectors:otsu_tissue",
            about="saturation (HSV) above Otsu's threshold, as many pipelines have it",
        ),
        TissueDetector(
            name="filled",
            detect="wsitool.slides.detectors:filled_tissue",
            about="as chroma, with all within its outlines: for fat, which is stained in its walls only",
        ),
        TissueDetector(
            name="density",
            detect="wsitool.slides.detectors:density_tissue",
            about="darker than the glass, whatever its color: silver stains, gray scans",
        ),
        TissueDetector(
            name="none",
            detect="wsitool.slides.detectors:all_tissue",
            about="everything is tissue, so that no grid position is left out for want of it",
        ),
    ),
)
DEFAULT_TISSUE = TISSUE.builtin[0].name
