"""What a store says of the patches that a task cuts."""

from __future__ import annotations

from typing import Any

from wsitool.slides.grid import TileGrid
from wsitool.slides.readers.icc import profile_name
from wsitool.slides.slide import SlideInfo
from wsitool.slides.spec import TileSpec
from wsitool.store.schema import Sampling, StoreMeta

__all__ = ["meta_of"]


def meta_of(
    info: SlideInfo,
    grid: TileGrid,
    spec: TileSpec,
    *,
    group: str | None,
    classes: tuple[str, ...],
    params: dict[str, Any],
    sampling: Sampling | None = None,
) -> StoreMeta:
    """The attributes of a store of the patches of `grid`; `sampling` is that of JPEG patches."""
    plan = grid.plan
    return StoreMeta(
        name=info.name,
        group=group or info.name,
        source=info.path,
        fingerprint=info.fingerprint,
        level0_width=info.width,
        level0_height=info.height,
        patch_size=spec.patch_size,
        patch_size_level0=grid.patch_size_level0,
        stride=grid.stride,
        stride_level0=grid.stride_level0,
        level=plan.level,
        mpp_level0=info.mpp,
        mpp_requested=plan.mpp_requested,
        mpp_effective=plan.mpp_effective,
        level0_magnification=info.objective_power,
        target_magnification=plan.magnification,
        codec=spec.codec,
        # Native tiles have the scanner's quality, which nobody states.
        quality=spec.quality if spec.codec == "jpeg" else None,
        reader=info.reader,
        icc_profile=profile_name(info.icc_profile) or None,
        subsampling=sampling if spec.codec == "jpeg" else None,
        format=info.format,
        mpp_source=info.mpp_source,
        classes=classes,
        params=params,
    )
