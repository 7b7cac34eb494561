"""Import everything once, so that a fork has it: a case then takes a tenth of a second instead of four."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path

__all__ = ["preload"]

# What commands import on first use. Importing must start no thread: a fork would lose it.
_MODULES = (
    "h5py",
    "imagecodecs",
    "matplotlib.pyplot",
    "openslide",
    "PIL.Image",
    "shapely",
    "simplejpeg",
    "skimage.draw",
    "sklearn.linear_model",
    "tifffile",
    "tiffslide",
    "timm",
    "torchvision",
    "wsitool.predict.run",
    "wsitool.classify.run",
    "wsitool.predict.embedding",
    "wsitool.experiment",
    "wsitool.curate.export.run",
    "wsitool.curate.importing",
    "wsitool.curate.refiltering",
    "wsitool.testing.synthetic",
    "wsitool.tiling",
    "wsitool.training.assembly",
    "wsitool.training.run",
    "wsitool.curate.verifying",
    "zarr",
)


def preload() -> None:
    """Import the program and its libraries; AssertionError if that leaves threads behind."""
    from wsitool.cli import COMMANDS

    for name in (*_MODULES, *(module for module, _ in COMMANDS.values())):
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a library has started a thread"
