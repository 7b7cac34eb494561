"""What a slide is cut into and what is kept of it: options only, so that a command's help costs no imports.

Resolutions are um per pixel, sizes pixels of the patch, limits shares of the patch's area in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from wsitool.base.json_files import typed
from wsitool.base.parameters import Params, hparam, internal
from wsitool.errors import UsageError
from wsitool.slides.slide import Icc
from wsitool.slides.tissue_registry import DEFAULT_TISSUE, TISSUE
from wsitool.store.schema import Codec

__all__ = [
    "ADDED_OPTIONS",
    "DEFAULT_MPP",
    "KEPT",
    "CandidateRule",
    "LabelRule",
    "Limit",
    "QualityThresholds",
    "Resample",
    "Subsampling",
    "TileSpec",
]

KEPT = "kept"
# Scores a limit may be on, beside that of tissue.
_SCORES = ("near_black", "near_white", "ink", "pen", "fold", "sharpness")
Resample = Literal["auto", "exact", "fast"]
LabelRule = Literal["area", "centre"]
Subsampling = Literal["auto", "420", "444"]
DEFAULT_MPP = 0.5
ADDED_OPTIONS = ("tissue", "downsample", "subsampling")
"""Options of `TileSpec` younger than stores that are in use: stated only where they are not the default, so
that such a store is what the same command would write today."""
_RESOLUTIONS = ("mpp", "magnification", "level", "downsample")
ADDED_READING = ("channels", "icc")
"""Those of `ReadOptions`."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A patch is rejected for `reason` where its `score` is below `at_least` or above `at_most`.

    NaN, a score that was not measured, is never rejected.
    """

    score: str
    reason: str
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, kw_only=True)
class TileSpec(Params):
    """What to cut. At most one of `mpp` (um/px), `magnification` and `level`; none of them means mpp 0.5.

    `patch_size` and `stride` (default: the patch size) are pixels of the patch. A level or a decoder's 1/2,
    1/4 or 1/8 of one is taken as it is where it lies within `mpp_tolerance` (relative) of the resolution
    asked for; otherwise pixels are resampled to it exactly. `limits` come after the one on tissue.
    Raises UsageError for values that cannot be.

    >>> wsitool.TileSpec(mpp=1, patch_size=224, stride=112).step
    112
    """

    patch_size: int = hparam(224, "Side of a patch.", ge=1, le=16_384, unit="px")
    mpp: float | None = hparam(None, "Resolution of the patches; without any: 0.5.", gt=0, unit="um/px")
    magnification: float | None = hparam(None, "Resolution as an objective power, as in 20.", gt=0)
    level: int | None = hparam(None, "Take this level's pixels as they are; 0 is the finest.", ge=0)
    stride: int | None = hparam(None, "From patch to patch; without it the patch size.", ge=1, unit="px")
    min_tissue: float = hparam(0.5, "Least share of tissue in a patch.", ge=0, le=1)
    mpp_tolerance: float = hparam(
        0.02, "A level this near (relative) to --mpp is taken as it is, not resampled.", ge=0, lt=0.5
    )
    resample: Resample = hparam(
        "auto", "Exact area mean, or the JPEG decoder's own 1/2, 1/4, 1/8; auto: fast where above 45 dB."
    )
    codec: Codec = hparam(
        "jpeg", "jpeg: small, lossy; raw: exact; native: the slide's own JPEG tiles, exact and small."
    )
    quality: int = hparam(90, "JPEG quality.", ge=1, le=100)
    subsampling: Subsampling = hparam(
        "auto",
        "JPEG colour: one for each pixel (444) or for four (420, smaller); auto: as the source has it.",
    )
    tissue: str = hparam(
        DEFAULT_TISSUE,
        f"What finds tissue: {', '.join(TISSUE)}, mask:PATH, onnx:FILE, or one of 'wsitool plugin list'.",
    )
    limits: tuple[Limit, ...] = internal(())
    downsample: float | None = internal(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        # Several ways to say one thing.
        asked = [name for name in _RESOLUTIONS if getattr(self, name) is not None]
        if len(asked) > 1:
            raise UsageError(f"Give one of mpp, magnification and level, not {' and '.join(asked)}.")
        if self.downsample is not None and not 0 < self.downsample < math.inf:
            raise UsageError(f"downsample must be above 0 and finite, got {self.downsample}.")

    @property
    def step(self) -> int:
        """The stride in pixels of the patch."""
        return self.stride or self.patch_size

    @property
    def all_limits(self) -> tuple[Limit, ...]:
        """The limits in the order they are tried."""
        return (Limit(score="tissue", reason="low tissue", at_least=self.min_tissue), *self.limits)

    def to_params(self) -> dict[str, Any]:
        """Every option as JSON holds it, to be stored and compared.

        Two specs that cut alike are equal in this form: defaults are written out.
        """
        # As it will be compared with another run's: defaults written out.
        params = asdict(self) | {"stride": self.step}
        if all(getattr(self, name) is None for name in _RESOLUTIONS):
            params["mpp"] = DEFAULT_MPP
        for name in ADDED_OPTIONS:
            if params[name] == getattr(TileSpec, name):
                del params[name]
        return params | {"limits": [asdict(limit) for limit in self.limits]}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """The inverse of `to_params` and of JSON; other names are left out.

        KeyError where an option is missing that every version wrote, ValueError or UsageError for a value.
        """
        names = {field.name for field in fields(cls)}
        values = {name: params[name] for name in names - set(ADDED_OPTIONS)}
        return typed(cls, values | {name: params[name] for name in ADDED_OPTIONS if name in params})


@dataclass(frozen=True, kw_only=True)
class CandidateRule:
    """Which grid positions become patches, in which colors, as in `ReadOptions`.

    A classifier keeps that of its stores, for `predict` to do alike.

    ValueError for a score that is not known.
    """

    min_tissue: float
    limits: tuple[Limit, ...]
    tissue: str = DEFAULT_TISSUE
    channels: tuple[int, ...] = ()
    icc: Icc = "keep"

    def __post_init__(self) -> None:
        unknown = [limit.score for limit in self.limits if limit.score not in _SCORES]
        if unknown:
            raise ValueError(f"a limit is on the score '{unknown[0]}', and there are {', '.join(_SCORES)}")
        if not 0 <= self.min_tissue <= 1:
            raise ValueError(f"min_tissue must be from 0 to 1, got {self.min_tissue}")

    @classmethod
    def common(cls, params: Iterable[Mapping[str, Any]]) -> Self | None:
        """The rule that all stores with these `params` were tiled by; None where they differ or have none."""
        rules = set()
        for values in params:
            # Of positions chosen elsewhere all were taken, which is no rule for a whole slide.
            if "coords" in values:
                return None
            try:
                added_names = ("tissue", *ADDED_READING)
                added = {name: values[name] for name in added_names if name in values}
                rules.add(typed(cls, {name: values[name] for name in ("min_tissue", "limits")} | added))
            except (KeyError, ValueError):
                return None  # of images, say, which are cut by another rule
        return rules.pop() if len(rules) == 1 else None


@dataclass(frozen=True, kw_only=True)
class QualityThresholds(Params):
    """Limits on the scores; None switches one off.

    Sharpness depends on scanner and stain, so it has no default: look at the stored scores, then choose.

    >>> [limit.reason for limit in wsitool.QualityThresholds(max_pen=None, min_sharpness=2).limits]
    ['near black', 'near white', 'fold', 'blurred']
    """

    min_sharpness: float | None = hparam(
        None, "Least variance of the Laplacian at 2 um/px; depends on the scanner.", ge=0
    )
    max_pen: float | None = hparam(
        0.5, "Largest share of a patch's tissue that is pen ink; 1 switches it off, as below.", ge=0, le=1
    )
    max_fold: float | None = hparam(0.5, "Largest share of dark tissue folds.", ge=0, le=1)
    max_white: float | None = hparam(0.95, "Largest share of nearly white pixels.", ge=0, le=1)
    max_black: float | None = hparam(0.3, "Largest share of nearly black pixels.", ge=0, le=1)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits that are on, in the order they are tried."""
        # The order matters: of several the first is the reason told.
        limits = (
            Limit(score="near_black", reason="near black", at_most=self.max_black),
            Limit(score="near_white", reason="near white", at_most=self.max_white),
            Limit(score="ink", reason="pen", at_most=self.max_pen),
            Limit(score="fold", reason="fold", at_most=self.max_fold),
            Limit(score="sharpness", reason="blurred", at_least=self.min_sharpness),
        )
        return tuple(limit for limit in limits if (limit.at_least, limit.at_most) != (None, None))
