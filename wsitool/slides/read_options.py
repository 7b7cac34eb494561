"""How a slide is opened: options only, so that a command's help costs no imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wsitool.base.parameters import Params, hparam
from wsitool.slides.reader_registry import READERS
from wsitool.slides.slide import Icc

__all__ = ["ReadOptions"]


@dataclass(frozen=True, kw_only=True)
class ReadOptions(Params):
    """How a slide is opened."""

    reader: str = hparam("auto", f"What reads slides: {', '.join(READERS)}, or one of 'wsitool plugin list'.")
    default_mpp: float | None = hparam(
        None, "Of level 0 of slides that do not state it.", gt=0, lt=1000, unit="um/px"
    )
    channels: tuple[int, ...] = hparam(
        (), "Of files without colors, those shown as red, green and blue: 0,2,1.", ge=0
    )
    icc: Icc = hparam("keep", "srgb: convert colors by the slide's own ICC profile; keep: as they are.")

    def how(self, default_mpp: float | None = None) -> dict[str, Any]:
        """The options as `open_slide` takes them; a slide's own `default_mpp` goes before that for all."""
        mpp = self.default_mpp if default_mpp is None else default_mpp
        return {"reader": self.reader, "default_mpp": mpp, "channels": self.channels, "icc": self.icc}
