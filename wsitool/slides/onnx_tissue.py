"""Tissue by a network in an ONNX file, on the slide's thumbnail; needs the extra `[onnx]`."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import PluginError, UsageError

__all__ = ["check_onnx", "onnx_mpp", "onnx_tissue"]

_MULTIPLE = 32  # networks halve their input up to five times
_DEFAULT_MPP = 8.0
_TISSUE = 0.5


def check_onnx(path: str) -> None:
    """UsageError unless the file is there and can be run."""
    if not Path(path).is_file():
        raise UsageError(f"There is no file '{path}': check --tissue onnx:{path}.")
    if importlib.util.find_spec("onnxruntime") is None:
        raise UsageError("--tissue onnx:FILE needs onnxruntime: install wsitool[onnx].")
    _session(path)


def onnx_mpp(path: str) -> float:
    """um per pixel that the network wants: `mpp` of the file's metadata, else 8."""
    text = _session(path).get_modelmeta().custom_metadata_map.get("mpp", "")
    try:
        mpp = float(text) if text else _DEFAULT_MPP
    except ValueError:
        mpp = 0.0
    if not 0.1 <= mpp <= 100:
        raise PluginError(f"The network '{path}' states the mpp '{text}': expected 0.1 to 100 um per pixel.")
    return mpp


def onnx_tissue(path: str, thumbnail: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mask (h, w) of `thumbnail` (h, w, 3) uint8: where the network's share of tissue is above a half.

    It is given float32 (1, 3, H, W) RGB in [0, 1], padded with white to multiples of 32, and must answer
    float (1, 1, H, W) in [0, 1]. PluginError for anything else.
    """
    height, width = thumbnail.shape[:2]
    pads = [(0, -side % _MULTIPLE) for side in (height, width)]
    padded = np.pad(thumbnail, (*pads, (0, 0)), constant_values=255)
    images = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32) / 255
    session = _session(path)
    try:
        share = session.run(None, {session.get_inputs()[0].name: images})[0]
    except Exception as error:  # onnxruntime's own, of many kinds
        raise PluginError(f"The network '{path}' fails on (1, 3, H, W) float32: {error}.") from error
    if (
        share.shape != (1, 1, *padded.shape[:2])
        or not (np.nan_to_num(share, nan=-1) >= 0).all()
        or share.max() > 1
    ):
        raise PluginError(
            f"The network '{path}' must answer shares in [0, 1] of shape (1, 1, {padded.shape[0]}, "
            f"{padded.shape[1]}), got {share.shape} from {share.min():g} to {share.max():g}: export it with "
            "its softmax."
        )
    return np.asarray(share[0, 0, :height, :width] > _TISSUE)


@lru_cache(maxsize=1)
def _session(path: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # slides are tiled side by side
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, of many kinds
        raise PluginError(f"'{path}' is no ONNX file that onnxruntime opens: {error}.") from error
