"""Whole-slide images to patch stores, self-supervised encoders and few-label classifiers.

The names below are the public interface; they are imported on first use, so that `import wsitool` costs
nothing and the tiling half never loads torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "EmbedResult": "wsitool.embedding",
    "embed": "wsitool.embedding",
    "export_encoder": "wsitool.backbones",
    "build_backbone": "wsitool.backbones",
    "Classifier": "wsitool.classify",
    "ClassifyResult": "wsitool.classify",
    "load_classifier": "wsitool.classify",
    "pretrain": "wsitool.training",
    "PretrainResult": "wsitool.training",
    "Slide": "wsitool.slide",
    "QualityThresholds": "wsitool.quality",
    "SlideInfo": "wsitool.slide",
    "TissueMask": "wsitool.tissue",
    "read_annotations": "wsitool.annotations",
    "audit_slides": "wsitool.audit",
    "export_stores": "wsitool.exporting",
    "refilter": "wsitool.refiltering",
    "verify_store": "wsitool.verify",
    "import_images": "wsitool.importing",
    "tissue_mask": "wsitool.tissue",
    "open_slide": "wsitool.slide",
    "TileSpec": "wsitool.grid",
    "RunResult": "wsitool.tiling",
    "SlideResult": "wsitool.tiling",
    "tile_slide": "wsitool.tiling",
    "tile_slides": "wsitool.tiling",
    "PatchStore": "wsitool.store.schema",
    "StoreMeta": "wsitool.store.schema",
    "Collection": "wsitool.store",
    "create_store": "wsitool.store",
    "find_stores": "wsitool.store",
    "open_collection": "wsitool.store",
    "open_store": "wsitool.store",
    "WsitoolError": "wsitool.errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":  # reading it takes longer than all the rest of `import wsitool`
        from importlib.metadata import version

        return version("wsitool")
    if name not in _HOME:
        raise AttributeError(f"module 'wsitool' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
