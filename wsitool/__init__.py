"""Whole-slide images to patch stores, self-supervised encoders and few-label classifiers.

The names below are the public interface; they are imported on first use, so that `import wsitool` costs
nothing and the tiling half never loads torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_HOME = {
    "tile": "wsitool.functions.data",
    "import_images": "wsitool.functions.data",
    "pretrain": "wsitool.functions.learning",
    "embed": "wsitool.functions.learning",
    "classify": "wsitool.functions.learning",
    "predict": "wsitool.functions.learning",
    "experiment": "wsitool.functions.learning",
    "TileResult": "wsitool.tiling.results",
    "ImportResult": "wsitool.curate.importing",
    "PretrainResult": "wsitool.training.result",
    "EmbedResult": "wsitool.predict.result",
    "ClassifyResult": "wsitool.classify.result",
    "PredictResult": "wsitool.predict.result",
    "ExperimentPart": "wsitool.experiment.parts",
    "ExperimentResult": "wsitool.experiment.run",
    "PatchDataset": "wsitool.loading.dataset",
    "PatchLoader": "wsitool.loading.loader",
    "export_encoder": "wsitool.backbones.export",
    "BackboneSource": "wsitool.backbones.source",
    "Network": "wsitool.backbones.network",
    "PublishedEncoder": "wsitool.backbones.published",
    "build_backbone": "wsitool.backbones.build",
    "FittedSlideHead": "wsitool.mil.head_contract",
    "SlideBags": "wsitool.mil.bags",
    "SlideHead": "wsitool.mil.head_registry",
    "SlideSettings": "wsitool.mil.options",
    "Classifier": "wsitool.classify.model",
    "load_classifier": "wsitool.classify.model",
    "ByteSource": "wsitool.slides.readers.byte_source",
    "Level": "wsitool.slides.slide",
    "SlideReader": "wsitool.slides.reader_registry",
    "Slide": "wsitool.slides.slide",
    "TileLevel": "wsitool.slides.readers.tiles",
    "TiledSlide": "wsitool.slides.readers.tiles",
    "TissueDetector": "wsitool.slides.tissue_registry",
    "check_picture": "wsitool.base.limits",
    "fingerprint": "wsitool.slides.readers.source",
    "resolve_mpp": "wsitool.slides.readers.resolution",
    "Export": "wsitool.curate.export.formats",
    "ExportOutcome": "wsitool.curate.export.parts",
    "ExportPart": "wsitool.curate.export.parts",
    "ExportPlan": "wsitool.curate.export.parts",
    "ExportSource": "wsitool.curate.export.parts",
    "part_per_store": "wsitool.curate.export.parts",
    "replace_file": "wsitool.base.files",
    "QualityThresholds": "wsitool.slides.spec",
    "SlideInfo": "wsitool.slides.slide",
    "TissueMask": "wsitool.slides.tissue",
    "read_annotations": "wsitool.slides.annotations",
    "audit_slides": "wsitool.curate.audit",
    "export_stores": "wsitool.curate.export.run",
    "refilter": "wsitool.curate.refiltering",
    "verify_store": "wsitool.curate.verifying",
    "tissue_mask": "wsitool.slides.tissue",
    "open_slide": "wsitool.slides.readers",
    "TileSpec": "wsitool.slides.spec",
    "SlideResult": "wsitool.tiling.results",
    "PatchStore": "wsitool.store.schema",
    "StoreMeta": "wsitool.store.schema",
    "Collection": "wsitool.store.collection",
    "create_store": "wsitool.store.opening",
    "find_stores": "wsitool.store.opening",
    "open_collection": "wsitool.store.collection",
    "open_store": "wsitool.store.opening",
    "WsitoolError": "wsitool.errors",
}

# From the table, so that a name cannot be public without a home.
__all__ = sorted(_HOME)


class _Front(ModuleType):
    """The package, whose functions are not hidden by rooms of their name.

    Python makes a subpackage an attribute of its package when it is imported, and `wsitool.classify` would
    then be the room. Rooms are imported from (`from wsitool.classify.run import ...`), never reached by dots.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Front


def __getattr__(name: str) -> Any:
    if name == "__version__":  # reading it takes longer than all the rest of `import wsitool`
        from importlib.metadata import version

        return version("wsitool")
    if name not in _HOME:
        raise AttributeError(f"module 'wsitool' has no attribute {name!r}")
    # Not kept in the module's globals: Python's import system has the module already.
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
