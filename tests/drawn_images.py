"""Pictures of drawn tissue as files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from wsitool.testing import draw_tissue

__all__ = ["draw_image"]


def draw_image(path: Path, width: int, height: int, seed: int = 0, kind: str = "benign") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = draw_tissue(width, height, kind=kind, mpp=0.5, seed=seed, glass=0.0)  # type: ignore[arg-type]
    Image.fromarray(pixels).save(path)
    return path
