"""Which patches a slide is cut into: what the user asked for, the level it is read from, and one global grid.

The *canvas* is the slide at the resolution of the patches. Grid positions are whole canvas pixels from the
slide's origin, so that neighbouring patches meet without gap or overlap however far from the origin; level-0
coordinates are these positions scaled and rounded to whole pixels, never accumulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import MissingMppError, SlideError, UsageError
from wsitool.readers.limits import MAX_CANDIDATES, check_limit
from wsitool.slide import SlideInfo
from wsitool.store.schema import Codec

__all__ = [
    "KEPT",
    "Limit",
    "ReadPlan",
    "Resample",
    "TileGrid",
    "TileSpec",
    "decide",
    "plan_grid",
    "plan_read",
]

KEPT = "kept"
Resample = Literal["auto", "exact", "fast"]
_DEFAULT_MPP = 0.5
_SNAP_FACTORS = (2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A patch is rejected for `reason` where its `score` is below `at_least` or above `at_most`."""

    score: str
    reason: str
    at_least: float | None = None
    at_most: float | None = None

    def rejects(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(M,) scores to (M,) bool."""
        rejected = np.zeros(len(values), bool)
        if self.at_least is not None:
            rejected |= values < self.at_least
        if self.at_most is not None:
            rejected |= values > self.at_most
        return rejected


def decide(
    scores: Mapping[str, NDArray[np.float32]], limits: Sequence[Limit]
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The first reason to reject each candidate: (M,) uint8 indexing the reasons returned, 0 is "kept".

    `limits` are tried in order; one whose score is absent is an error of the caller (KeyError).
    """
    reasons = (KEPT, *dict.fromkeys(limit.reason for limit in limits))
    reason = np.zeros(len(next(iter(scores.values()))), np.uint8)
    for limit in limits:
        reason[(reason == 0) & limit.rejects(scores[limit.score])] = reasons.index(limit.reason)
    return reason, reasons


@dataclass(frozen=True, kw_only=True)
class TileSpec:
    """What to cut. At most one of `mpp` (um/px), `magnification` and `level`; none of them means mpp 0.5.

    `patch_size` and `stride` (default: the patch size) are pixels of the patch. A level or a decoder's 1/2,
    1/4 or 1/8 of one is taken as it is where it lies within `mpp_tolerance` (relative) of the resolution
    asked for; otherwise pixels are resampled to it exactly. `limits` come after the one on tissue.
    Raises UsageError for values that cannot be.
    """

    patch_size: int = 224
    mpp: float | None = None
    magnification: float | None = None
    level: int | None = None
    stride: int | None = None
    min_tissue: float = 0.5
    mpp_tolerance: float = 0.02
    resample: Resample = "auto"
    codec: Codec = "jpeg"
    quality: int = 90
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        asked = [name for name in ("mpp", "magnification", "level") if getattr(self, name) is not None]
        if len(asked) > 1:
            raise UsageError(f"Give one of mpp, magnification and level, not {' and '.join(asked)}.")
        for name, ok, need in (
            ("patch_size", 1 <= self.patch_size <= 16_384, "1 to 16384"),
            ("stride", self.stride is None or self.stride >= 1, "at least 1"),
            ("mpp", self.mpp is None or 0 < self.mpp < math.inf, "above 0"),
            ("magnification", self.magnification is None or 0 < self.magnification < math.inf, "above 0"),
            ("level", self.level is None or self.level >= 0, "0 or more"),
            ("min_tissue", 0 <= self.min_tissue <= 1, "a share from 0 to 1"),
            ("mpp_tolerance", 0 <= self.mpp_tolerance < 0.5, "a share from 0 to 0.5"),
            ("quality", 1 <= self.quality <= 100, "1 to 100"),
            ("codec", self.codec in get_args(Codec), f"one of {', '.join(get_args(Codec))}"),
            ("resample", self.resample in get_args(Resample), f"one of {', '.join(get_args(Resample))}"),
        ):
            if not ok:
                raise UsageError(f"{name.replace('_', '-')} must be {need}, got {getattr(self, name)!r}.")

    @property
    def step(self) -> int:
        """The stride in pixels of the patch."""
        return self.stride or self.patch_size

    @property
    def all_limits(self) -> tuple[Limit, ...]:
        """The limits in the order they are tried."""
        return (Limit(score="tissue", reason="low tissue", at_least=self.min_tissue), *self.limits)

    def to_params(self) -> dict[str, Any]:
        """Every option as JSON holds it, to be stored and compared."""
        params = asdict(self) | {"stride": self.step}
        if self.mpp is None and self.magnification is None and self.level is None:
            params["mpp"] = _DEFAULT_MPP
        return params | {"limits": [asdict(limit) for limit in self.limits]}


@dataclass(frozen=True, kw_only=True)
class ReadPlan:
    """From which level a resolution is read, and by which `factor` (x, y) its pixels are brought together.

    `factor` is level pixels per canvas pixel: (1, 1) reads the level as it is, equal whole numbers average
    blocks, anything else is an exact area resample. `downsample` is level-0 pixels per canvas pixel.
    """

    level: int
    factor: tuple[float, float]
    downsample: tuple[float, float]
    canvas: tuple[int, int]
    mpp_requested: float | None
    mpp_effective: float | None
    magnification: float | None

    @property
    def whole_factor(self) -> int | None:
        """The factor where it is one whole number for both axes, else None."""
        x, y = self.factor
        return int(x) if x == y and x == int(x) else None


def plan_read(info: SlideInfo, spec: TileSpec) -> ReadPlan:
    """Choose the level for what `spec` asks of a slide.

    Raises MissingMppError where a resolution is asked for and the slide states none, SlideError where it has
    no such level or is coarser than asked.
    """
    if spec.level is not None:
        if spec.level >= len(info.levels):
            raise SlideError(
                f"'{info.name}' has {len(info.levels)} level(s), so --level must be at most "
                f"{len(info.levels) - 1}, got {spec.level}."
            )
        return _plan(info, spec.level, (1.0, 1.0), requested=None)
    wanted, requested = _wanted_downsample(info, spec)
    tolerance = spec.mpp_tolerance
    near = [
        (abs(level.downsample * factor / wanted - 1), factor, i)
        for i, level in enumerate(info.levels)
        for factor in (1, *_SNAP_FACTORS)
        if level.downsample * factor <= wanted * (1 + tolerance + 1e-9)
    ]
    # A level itself is better than a shrunk finer one, even where that is nearer by a hair.
    for factors in ((1,), _SNAP_FACTORS):
        fits = [(off, -i, factor) for off, factor, i in near if factor in factors and off <= tolerance + 1e-9]
        if fits:
            _, minus_i, factor = min(fits, key=lambda fit: (fit[2], fit[0]))
            return _plan(info, -minus_i, (float(factor), float(factor)), requested=requested)
    finer = [i for i, level in enumerate(info.levels) if level.downsample <= wanted * (1 + 1e-9)]
    if not finer:
        finest = f"{info.mpp:.4g} um/px" if info.mpp else f"{info.objective_power:g}x"
        raise SlideError(
            f"'{info.name}' is {finest} at its finest, coarser than asked for; pixels are never made "
            "up: ask for that resolution, or take --level 0."
        )
    best = max(finer, key=lambda i: info.levels[i].downsample)
    level = info.levels[best]
    factor_xy = (wanted * level.width / info.width, wanted * level.height / info.height)
    return _plan(info, best, factor_xy, requested=requested)


def _wanted_downsample(info: SlideInfo, spec: TileSpec) -> tuple[float, float | None]:
    """Level-0 pixels per patch pixel, and the mpp this means."""
    if spec.magnification is not None:
        if info.objective_power:
            wanted = info.objective_power / spec.magnification
            return wanted, info.mpp * wanted if info.mpp else None
        target, asked = 10.0 / spec.magnification, f"--magnification {spec.magnification:g}"
    else:
        target = spec.mpp if spec.mpp is not None else _DEFAULT_MPP
        asked = f"--mpp {target:g}"
    if info.mpp is None:
        raise MissingMppError(
            f"'{info.name}' states no resolution (mpp) and no objective power, so {asked} cannot be met: "
            "give the slide's own um per pixel with --default-mpp, or take its pixels as they are with "
            "--level 0."
        )
    return target / info.mpp, target


def _plan(info: SlideInfo, index: int, factor: tuple[float, float], *, requested: float | None) -> ReadPlan:
    level = info.levels[index]
    downsample = (info.width / level.width * factor[0], info.height / level.height * factor[1])
    mean = (downsample[0] + downsample[1]) / 2
    return ReadPlan(
        level=index,
        factor=factor,
        downsample=downsample,
        canvas=(math.floor(level.width / factor[0] + 1e-6), math.floor(level.height / factor[1] + 1e-6)),
        mpp_requested=requested,
        mpp_effective=info.mpp * mean if info.mpp else None,
        magnification=info.objective_power / mean if info.objective_power else None,
    )


@dataclass(frozen=True, kw_only=True)
class TileGrid(Sequence[tuple[int, int]]):
    """All grid positions of a slide, in (y, x) order, as level-0 corners; only patches wholly inside it.

    A rest at the right and lower edge narrower than a patch is not cut: it could only be filled with pixels
    that are not there.
    """

    plan: ReadPlan
    patch_size: int
    stride: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        width, height = self.plan.canvas
        return tuple((side - self.patch_size) // self.stride + 1 for side in (height, width))  # type: ignore[return-value]

    @property
    def patch_size_level0(self) -> float:
        """The patch's side in level-0 pixels, mean of both axes."""
        return self.patch_size * sum(self.plan.downsample) / 2

    @property
    def stride_level0(self) -> float:
        """The stride in level-0 pixels, mean of both axes."""
        return self.stride * sum(self.plan.downsample) / 2

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """(M, 2) x, y in canvas pixels."""
        rows, columns = self.shape
        y, x = np.divmod(np.arange(rows * columns, dtype=np.int64), columns)
        return np.stack([x, y], axis=1) * self.stride

    @cached_property
    def coords(self) -> NDArray[np.int64]:
        """(M, 2) x, y of the corners in level-0 pixels."""
        corners: NDArray[np.int64] = np.rint(self.positions * np.array(self.plan.downsample)).astype(np.int64)
        return corners

    def __len__(self) -> int:
        rows, columns = self.shape
        return rows * columns

    def __getitem__(self, index: Any) -> Any:
        x, y = self.coords[range(len(self))[index]]
        return int(x), int(y)


def plan_grid(info: SlideInfo, spec: TileSpec) -> TileGrid:
    """The grid of a slide; SlideError if not even one patch fits into it."""
    plan = plan_read(info, spec)
    if spec.patch_size > min(plan.canvas):
        width, height = plan.canvas
        raise SlideError(
            f"A patch of {spec.patch_size} px does not fit into '{info.name}', which is {width}x{height} px "
            "at this resolution: ask for a smaller --patch-size or a finer resolution."
        )
    grid = TileGrid(plan=plan, patch_size=spec.patch_size, stride=spec.step)
    check_limit(f"Grid positions of '{info.name}' at stride {spec.step}", len(grid), MAX_CANDIDATES)
    return grid
