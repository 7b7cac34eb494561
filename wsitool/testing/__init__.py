"""What tests of wsitool and of its plugins share: synthetic slides and conformance checks."""

from __future__ import annotations

import importlib
from typing import Any

# Imported on first use: drawing a slide must not load torch, which the method checks need.
_HOME = {
    "CheckResult": "wsitool.testing.results",
    "KINDS": "wsitool.testing.synthetic",
    "check_backbone": "wsitool.testing.backbone_checks",
    "check_export": "wsitool.testing.export_checks",
    "check_head": "wsitool.testing.head_checks",
    "check_method": "wsitool.testing.methods",
    "check_reader": "wsitool.testing.reader_checks",
    "check_tissue": "wsitool.testing.tissue_checks",
    "draw_tissue": "wsitool.testing.synthetic",
    "parametrize_method_checks": "wsitool.testing.methods",
    "synthetic_slide": "wsitool.testing.synthetic",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wsitool.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
