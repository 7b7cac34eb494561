"""What `pretrain --stream` cuts out of slides: the options of `tile` that concern patches nobody stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsitool.base.parameters import Params, hparam, same_as
from wsitool.errors import UsageError
from wsitool.slides.read_options import ReadOptions
from wsitool.slides.slide import Icc
from wsitool.slides.spec import QualityThresholds, Resample, TileSpec
from wsitool.tiling.options import TileOptions

__all__ = ["StreamOptions", "stream_options"]


@dataclass(frozen=True, kw_only=True)
class StreamOptions(Params):
    """As in `TileSpec`, `QualityThresholds` and `TileOptions`; UsageError for values that cannot be."""

    stream: bool = hparam(
        False, "Read patches straight from slides, which are named in place of stores; none is stored."
    )
    patch_size: int = same_as(TileSpec, "patch_size")
    mpp: float | None = same_as(TileSpec, "mpp")
    magnification: float | None = same_as(TileSpec, "magnification")
    level: int | None = same_as(TileSpec, "level")
    stride: int | None = same_as(TileSpec, "stride")
    min_tissue: float = same_as(TileSpec, "min_tissue")
    mpp_tolerance: float = same_as(TileSpec, "mpp_tolerance")
    resample: Resample = same_as(TileSpec, "resample")
    tissue: str = same_as(TileSpec, "tissue")
    min_sharpness: float | None = same_as(QualityThresholds, "min_sharpness")
    max_pen: float | None = same_as(QualityThresholds, "max_pen")
    max_fold: float | None = same_as(QualityThresholds, "max_fold")
    max_white: float | None = same_as(QualityThresholds, "max_white")
    max_black: float | None = same_as(QualityThresholds, "max_black")
    reader: str = same_as(ReadOptions, "reader")
    default_mpp: float | None = same_as(ReadOptions, "default_mpp")
    channels: tuple[int, ...] = same_as(ReadOptions, "channels")
    icc: Icc = same_as(ReadOptions, "icc")
    group_regex: str | None = same_as(TileOptions, "group_regex")

    @property
    def spec(self) -> TileSpec:
        """What is cut, as a store of raw patches would have it."""
        limits = QualityThresholds(**self._values(QualityThresholds)).limits
        return TileSpec(**self._values(TileSpec), limits=limits, codec="raw")

    @property
    def reading(self) -> ReadOptions:
        """How slides are opened."""
        return ReadOptions(**self._values(ReadOptions))

    def _values(self, kind: type[Params]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in kind.names() if name in self.names()}


def stream_options(stream: bool, given: Mapping[str, Any]) -> StreamOptions | None:
    """The options of streaming, None where nothing is streamed; `given` are those that somebody gave.

    UsageError where some are given and nothing is streamed.
    """
    if stream:
        options = StreamOptions(stream=True, **given)
        options.spec  # noqa: B018  # raises UsageError
        return options
    if given:
        flags = {spec.name: spec.option for spec in StreamOptions.hparams()}
        names = ", ".join(flags[name] for name in given)
        raise UsageError(
            f"{names}: patches of stores are cut already; pass --stream to cut them out of slides, or leave "
            "it out."
        )
    return None
