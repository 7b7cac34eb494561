"""Patch positions as hs2p writes them, and slide2vec reads them: two files per slide, and their list.

The layout is that of hs2p's page on its artifacts: `tiles/<slide>.coordinates.npz` with `x`, `y`,
`tissue_fractions` and `tile_index`, by x and then y, and a .meta.json beside it. What hs2p notes of its own
segmentation and filters is null, as none of it was used.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsitool.base.files import replace_file
from wsitool.curate.export.parts import ExportOutcome, ExportPart, ExportPlan, ExportSource, part_per_store
from wsitool.curate.export.tables import table_part
from wsitool.errors import StoreError
from wsitool.store.opening import open_store

__all__ = ["plan_hs2p"]

_LISTED = (
    *("sample_id", "annotation", "image_path", "mask_path", "requested_backend", "backend"),
    *("tiling_status", "num_tiles", "coordinates_npz_path", "coordinates_meta_path", "tiles_tar_path"),
    *("mask_preview_path", "tiling_preview_path", "error", "traceback"),
)
_SEGMENTATION = (
    *("tissue_method", "requested_seg_downsample", "seg_downsample", "seg_level", "seg_spacing_um"),
    *("sthresh", "sthresh_up", "mthresh", "close", "sam2_checkpoint_path", "sam2_config_path", "mask_path"),
    *("ref_tile_size_px", "tissue_mask_tissue_value", "mask_level", "mask_spacing_um"),
)
_FILTERING = (
    *("a_t", "a_h", "filter_white", "filter_black", "white_threshold", "black_threshold"),
    *("fraction_threshold", "filter_grayspace", "grayspace_saturation_threshold"),
    *("grayspace_fraction_threshold", "filter_blur", "blur_threshold", "qc_spacing_um"),
)
_BACKEND = "openslide"


def plan_hs2p(sources: Sequence[ExportSource], *, classes: Sequence[str], shard_size: int) -> ExportPlan:
    """Two files of positions per store, for hs2p and slide2vec, and process_list.csv."""
    plan = part_per_store(sources, _part)
    failed = {name for name, _ in plan.failed}
    listed = [source for source in sources if source.name not in failed]
    table = [table_part("process_list.csv", listed, _LISTED, _row)] if listed else []
    return ExportPlan(parts=[*plan.parts, *table], failed=plan.failed)


def _part(source: ExportSource) -> ExportPart:
    meta, names = _described(source), _names(source)

    def write(out: Path) -> ExportOutcome:
        with open_store(source.path) as store:
            coords, tissue = store.coords, store.tissue
        order = np.lexsort((coords[:, 1], coords[:, 0]))  # by x, then y
        buffer = io.BytesIO()
        np.savez(
            buffer,
            tile_index=np.arange(len(order), dtype=np.int32),
            x=coords[order, 0],
            y=coords[order, 1],
            tissue_fractions=tissue[order],
        )
        replace_file(out / names[0], buffer.getvalue())
        replace_file(out / names[1], json.dumps(meta, indent=2).encode())
        return ExportOutcome(patches=source.patches)

    return ExportPart(
        name=source.name,
        made_of={"files": names, "store": source.identity, "meta": meta},
        files=lambda: names,
        write=write,
        patches=source.patches,
    )


def _names(source: ExportSource) -> list[str]:
    return [f"tiles/{source.slide}.coordinates.{suffix}" for suffix in ("npz", "meta.json")]


def _described(source: ExportSource) -> dict[str, Any]:
    """What the .meta.json says; StoreError where no resolution is known, without which hs2p reads nothing.

    Pixels are stated as to be read at level 0, the one level that fits every resolution exactly.
    """
    if source.of_images:
        raise source.has_no_slide()
    meta = source.meta
    if meta.mpp_level0 is None or meta.mpp_effective is None:
        raise StoreError(
            f"The store of '{meta.name}' states no mpp, which hs2p needs: tile the slide with --default-mpp."
        )
    side = round(meta.patch_size_level0)
    return {
        "provenance": {
            "sample_id": source.slide,
            "image_path": meta.source,
            "mask_path": None,
            "backend": _BACKEND,
            "requested_backend": _BACKEND,
            "spacing_at_level_0": None,
            "mask_backend": None,
            "requested_mask_backend": None,
        },
        "slide": {
            "dimensions": [meta.level0_width, meta.level0_height],
            "base_spacing_um": meta.mpp_level0,
            "level_downsamples": [1.0],
        },
        "tiling": {
            "requested_tile_size_px": meta.patch_size,
            "requested_spacing_um": meta.mpp_effective,
            "read_level": 0,
            "read_tile_size_px": side,
            "read_spacing_um": meta.mpp_level0,
            "tile_size_lv0": side,
            "tolerance": 0.0,
            "step_px_lv0": round(meta.stride_level0),
            "overlap": max(0.0, 1 - meta.stride / meta.patch_size),
            "min_tissue_fraction": float(meta.params.get("min_tissue", 0.0)),
            "is_within_tolerance": math.isclose(meta.mpp_level0, meta.mpp_effective, rel_tol=1e-9),
            "n_tiles": source.patches,
        },
        "segmentation": dict.fromkeys(_SEGMENTATION),
        "filtering": dict.fromkeys(_FILTERING),
        "artifact": {
            "coordinate_space": "level0_px",
            "tile_order": "x_then_y",
            "annotation": None,
            "selection_strategy": None,
            "output_mode": None,
        },
    }


def _row(source: ExportSource) -> Sequence[object]:
    npz, meta = _names(source)
    known = {
        "sample_id": source.slide,
        "image_path": source.meta.source,
        "requested_backend": _BACKEND,
        "backend": _BACKEND,
        "tiling_status": "success",
        "num_tiles": source.patches,
        "coordinates_npz_path": npz,
        "coordinates_meta_path": meta,
    }
    return [known.get(name) for name in _LISTED]
