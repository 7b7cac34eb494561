"""A folder of small things that examples speak of: a slide, stores, images, outlines, an encoder, a run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from drawn_images import draw_image
from patch_stores import small_store

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.classify.model import CLASSIFIER_FILE, Classifier, ClassifierCard, save_classifier
from wsitool.testing import synthetic_slide

__all__ = ["write_material"]

_SQUARE = [[0, 0], [200, 0], [200, 200], [0, 200], [0, 0]]
_CLASSES = ("adh", "benign")


def write_material(folder: Path) -> Path:
    """Write what the examples of public names use; a torch network of 45 MB is the largest."""
    synthetic_slide(folder / "slide.svs", size=(600, 600), glass=0.1)
    for name in ("a", "b"):
        small_store(folder / "stores" / f"{name}.h5", ("benign", "adh") * 3)
    for seed, kind in enumerate((*_CLASSES, *_CLASSES)):
        draw_image(folder / "images" / kind / f"{seed}.png", 32, 32, seed=seed, kind=kind)
    outline = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [_SQUARE]},
        "properties": {"classification": {"name": "tumor"}},
    }
    (folder / "outlines.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [outline]}))
    encoder = build_backbone("resnet18", init="random")
    save_encoder(encoder, folder / "encoder.safetensors", encoder.card)
    card = ClassifierCard(
        classes=_CLASSES,
        head="finetune",
        image_size=16,
        patch_size=16,
        mpp=0.5,
        temperature=1.5,
        groups=(),
        encoder=encoder.card,
    )
    head = torch.nn.Linear(encoder.feature_dim, len(_CLASSES))
    save_classifier(Classifier(encoder, head, card), folder / "run" / CLASSIFIER_FILE)
    return folder
