"""JPEG as the stores keep it: baseline, one complete stream per patch."""

from __future__ import annotations

from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsitool.store.schema import Sampling

__all__ = ["decode", "decode_into", "encode", "problem_of_decoding", "sampling_of", "size_of"]


def encode(patch: NDArray[np.uint8], quality: int, sampling: Sampling = "420") -> bytes:
    """Encode (H, W, 3) uint8 RGB as a JPEG of `quality` 1-100; releases the GIL.

    `sampling` "444" keeps a color for every pixel, "420" one for four.
    """
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(patch), quality=quality, colorspace="RGB", colorsubsampling=sampling
    )
    return encoded


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode a JPEG to (H, W, 3) uint8 RGB; ValueError if it is damaged."""
    image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB")
    return image


def decode_into(data: bytes, out: NDArray[np.uint8]) -> None:
    """Decode a JPEG straight into `out`, C-contiguous (H, W, 3) uint8; releases the GIL.

    Raises ValueError if the stream is damaged or its size is not that of `out`.
    """
    # Given too much room simplejpeg decodes all the same and returns a smaller view, hence the comparison;
    # given too little it raises ValueError itself.
    image: NDArray[Any] = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=out)
    if image.shape != out.shape:
        raise ValueError(
            f"JPEG of {image.shape[1]} x {image.shape[0]} pixels, not {out.shape[1]} x {out.shape[0]}"
        )


def problem_of_decoding(data: bytes, out: NDArray[np.uint8], row: int) -> str:
    """Decode as `decode_into`, or say why not; "" is success. `row` is for others in its place."""
    try:
        decode_into(data, out)
    except ValueError as error:
        return str(error)
    return ""


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG, from its header; ValueError if it is damaged."""
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    return int(width), int(height)


def sampling_of(data: bytes) -> str:
    """The chroma subsampling a JPEG's header states: "444", "420", ..., or "Gray"; ValueError if damaged."""
    return str(simplejpeg.decode_jpeg_header(data)[3])
