"""`imagecodecs_jpeg` for zarr-python, where imagecodecs does not bring it itself (before Python 3.12).

Registered as an entry point, so that plain `zarr.open(store)["patches"]` works wherever wsitool is installed.
Where wsitool is not, `imagecodecs.zarr.register_codecs()` of a newer imagecodecs does the same.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import imagecodecs
import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

__all__ = ["JpegCodec"]

_NAME = "imagecodecs_jpeg"


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """JPEG of one (1, H, W, 3) uint8 chunk; `level` is the quality 1-100."""

    # Each patch is as long as its JPEG: zarr may not compute places from sizes.
    is_fixed_size = False

    level: int | None = None
    subsampling: str | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        configuration = data.get("configuration") or {}
        return cls(**configuration)

    def to_dict(self) -> dict[str, Any]:
        values = {"level": self.level, "subsampling": self.subsampling}
        return {"name": _NAME, "configuration": {key: v for key, v in values.items() if v is not None}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise ValueError("The size of a JPEG is known only once it is encoded.")

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        # In a thread: the event loop of zarr-python serves other chunks meanwhile.
        image = await asyncio.to_thread(imagecodecs.jpeg8_decode, chunk_data.to_bytes())
        return chunk_spec.prototype.nd_buffer.from_numpy_array(image.reshape(chunk_spec.shape))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        image = np.ascontiguousarray(chunk_data.as_numpy_array()).reshape(chunk_spec.shape[-3:])
        data = await asyncio.to_thread(
            imagecodecs.jpeg8_encode, image, level=self.level, subsampling=self.subsampling
        )
        return chunk_spec.prototype.buffer.from_bytes(data)
