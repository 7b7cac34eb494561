"""Small inputs for every command, made once: slides, images, stores, an encoder, a classifier."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from faults.runs import Server
from PIL import Image

from wsitool.testing.synthetic import synthetic_slide

__all__ = ["NETWORK", "make_material"]

NETWORK = "timm:test_resnet"  # 0.4 million weights
_KINDS = ("benign", "adh")


def make_material(folder: Path, server: Server) -> None:
    """Fill `folder` with what the commands of `faults.commands` read."""
    (folder / "slides").mkdir(parents=True)
    rows = ["path,label,group"]
    for number in range(6):
        kind = _KINDS[number % 2]
        path = folder / "slides" / f"p{number}.svs"
        synthetic_slide(path, organ="breast", kind=kind, size=(320, 256), seed=number)  # type: ignore[arg-type]
        rows.append(f"slides/p{number}.svs,{kind},g{number}")
    (folder / "slides.csv").write_text("\n".join(rows) + "\n")
    _images(folder / "images")
    for argv in (
        ("tile", "{m}/slides.csv", "--out", "{m}/stores", "--patch-size", "32", "--workers", "1"),
        (
            "tile",
            "{m}/slides/p0.svs",
            "--out",
            "{m}/raw",
            "--patch-size",
            "32",
            "--codec",
            "raw",
            "--format",
            "zarr",
        ),
        (
            *("pretrain", "{m}/stores", "--method", "rotation", "--backbone", NETWORK, "--init", "random"),
            *("--epochs", "1", "--batch-size", "16", "--out", "{m}/encoder", "--threads", "1"),
        ),
        (
            *("classify", "{m}/stores", "--encoder", "{m}/encoder", "--out", "{m}/classifier"),
            *("--head", "linear", "--c", "0.1"),
        ),
    ):
        ended = server.run([word.replace("{m}", str(folder)) for word in argv])
        assert ended.code == 0, ended.stderr
    few = folder / "few"
    few.mkdir()
    for number in range(2):
        shutil.copy(folder / "stores" / f"p{number}.h5", few)
        _outline(folder / "outlines" / f"p{number}.geojson", _KINDS[number])


def _outline(path: Path, kind: str) -> None:
    """The left half of a slide."""
    ring = [[0, 0], [160, 0], [160, 256], [0, 256], [0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": kind}},
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


def _images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in _KINDS:
        (folder / kind).mkdir(parents=True)
        for number in range(6):
            low = rng.integers(60, 250, (8, 8, 3), np.uint8)
            Image.fromarray(low).resize((96, 96)).save(folder / kind / f"{kind}{number % 3}_{number}.png")
