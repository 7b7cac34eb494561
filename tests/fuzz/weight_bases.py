"""A pretraining run, a classifier and labelled stores, all of the smallest network there is."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from classify_stores import labelled_store
from patch_stores import patch_folder
from PIL import Image

from wsitool.cli import main
from wsitool.testing.synthetic import draw_tissue, write_pyramid

__all__ = ["CLASSIFY", "PRETRAIN", "Safetensors", "build_weights"]

_TILE = "tile {base}/slide.svs --out {out}/stores --patch-size 64 --min-tissue 0 --mpp 0.5"
# The commands that made them, so that a run can be gone on with.
PRETRAIN = (
    "pretrain {base}/plain --method rotation --out {out}/pre --init random --backbone timm:test_resnet "
    "--epochs 1 --batch-size 8 --device cpu --keep-checkpoint"
)
CLASSIFY = "classify {base}/train --out {out}/cls --encoder {base}/pre --head linear --c 0.1 --device cpu"


def build_weights(folder: Path) -> None:
    """All a command may need: `folder`/pre is a pretraining run, /cls a classifier's, /train four labelled
    patients, /plain unlabelled stores, /slide.svs a slide, /stores its store, /images pictures.
    """
    pixels = draw_tissue(256, 192, kind="benign", seed=1, glass=0.05)
    write_pyramid(folder / "slide.svs", pixels, tile=64, compression="none", levels=(1,))
    (folder / "images").mkdir()
    for number in range(2):
        picture = Image.fromarray(draw_tissue(64, 64, kind="adh", seed=number, glass=0))
        picture.save(folder / "images" / f"{number}.png")
    for number in range(4):
        labelled_store(folder / "train" / f"p{number}.h5", per_class=4, seed=number)
    patch_folder(folder / "plain", stores=2, each=8)
    for words in (_TILE, PRETRAIN, CLASSIFY):
        main([word.format(base=folder, out=folder) for word in words.split()], standalone_mode=False)


class Safetensors:
    """The header and the bytes of a safetensors file, to be changed without the library's opinion."""

    def __init__(self, data: bytes) -> None:
        length = struct.unpack("<Q", data[:8])[0]
        self.header: dict[str, Any] = json.loads(data[8 : 8 + length])
        self.body = bytearray(data[8 + length :])

    @property
    def metadata(self) -> dict[str, str]:
        found: dict[str, str] = self.header["__metadata__"]
        return found

    @property
    def tensors(self) -> list[str]:
        return sorted(name for name in self.header if name != "__metadata__")

    def write(self) -> bytes:
        head = json.dumps(self.header).encode()
        return struct.pack("<Q", len(head)) + head + bytes(self.body)
