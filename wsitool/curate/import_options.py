"""How ready-made patch images become stores: the options of `wsitool.import_images`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsitool.base.parameters import Params, hparam, same_as
from wsitool.slides.spec import Subsampling, TileSpec
from wsitool.store.schema import LARGEST_PATCH, Format

__all__ = ["ImportOptions"]


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Params):
    """Labels and groups of images, how they are cut and what is kept; UsageError for what cannot be.

    `min_tissue` is judged by min(R, G, B) < 215 alone, which small images without a background need.
    """

    labels: str | None = hparam(
        None, "CSV with the columns file, label and optionally group; else subfolders are classes."
    )
    group_regex: str | None = hparam(
        None, "Finds the group (patient) in a file name; without it each image is one."
    )
    patch_size: int | None = hparam(
        None,
        "Side of a patch; without it the images' own size if all are alike, else 224.",
        ge=8,
        le=LARGEST_PATCH,
        unit="px",
    )
    stride: int | None = hparam(None, "From patch to patch; without it the patch size.", ge=1, unit="px")
    min_tissue: float = hparam(
        0.3, "Least share of pixels with min(R,G,B) < 215; 0 keeps every patch.", ge=0, le=1
    )
    mpp: float | None = hparam(None, "Resolution of the images, to be recorded.", gt=0, unit="um/px")
    format: Format = hparam("hdf5", "Of stores.")
    codec: Literal["jpeg", "raw"] = hparam("jpeg", "jpeg: small, lossy; raw: exact.")
    quality: int = same_as(TileSpec, "quality")
    subsampling: Subsampling = same_as(TileSpec, "subsampling")
    overwrite: bool = hparam(False, "Replace stores that exist.")
