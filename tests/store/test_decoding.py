"""Which JPEG streams are plain: judged by what writers of other programs make, and by cutting streams up."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from wsitool.store import jpeg
from wsitool.store.decoding import is_plain
from wsitool.testing.stores import example_patches

_SIDE = 32


@pytest.fixture(scope="module")
def patch() -> np.ndarray:  # type: ignore[type-arg]
    return example_patches(1, _SIDE)[0]


def _by_pillow(patch: np.ndarray, mode: str = "RGB", **options: object) -> bytes:  # type: ignore[type-arg]
    out = io.BytesIO()
    Image.fromarray(patch).convert(mode).save(out, "jpeg", quality=90, **options)
    return out.getvalue()


def _segments(stream: bytes) -> list[tuple[int, bytes]]:
    """(marker, segment with it) up to the scan, which is the last and has all that follows."""
    at, found = 2, []
    while True:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at + 1] == 0xDA:
            return [*found, (0xDA, stream[at:])]
        found.append((stream[at + 1], stream[at:end]))
        at = end


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_what_stores_are_written_with_is_plain(patch: np.ndarray, subsampling: str) -> None:  # type: ignore[type-arg]
    assert is_plain(jpeg.encode(patch, 90), _SIDE)
    assert is_plain(simplejpeg.encode_jpeg(patch, colorsubsampling=subsampling), _SIDE)
    assert is_plain(_by_pillow(patch, "L"), _SIDE) and is_plain(_by_pillow(patch, optimize=True), _SIDE)
    assert is_plain(_by_pillow(patch, restart_marker_rows=1), _SIDE)


def test_what_decoders_may_take_differently_is_not(patch: np.ndarray) -> None:  # type: ignore[type-arg]
    whole = jpeg.encode(patch, 90)
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    bare = b"\xff\xd8" + b"".join(body for marker, body in _segments(whole) if marker != 0xE0)
    assert is_plain(bare, _SIDE)
    assert is_plain(bare[:2] + adobe + b"\x01" + bare[2:], _SIDE)
    not_plain = {
        "RGB by Adobe": bare[:2] + adobe + b"\x00" + bare[2:],
        "RGB by names": bare.replace(b"\x03\x01\x22\x00", b"\x03R\x22\x00"),
        "RGB of a library": _by_pillow(patch, keep_rgb=True),
        "CMYK": _by_pillow(patch, "CMYK"),
        "progressive": _by_pillow(patch, progressive=True),
        "lossless": imagecodecs.jpeg_encode(patch, lossless=True),
        "another size": jpeg.encode(example_patches(1, 24)[0], 90),
        "411": simplejpeg.encode_jpeg(patch, colorsubsampling="411"),
        "cut off": whole[:-40],
        "no stream": bytes(100),
        "nothing": b"",
        **{
            f"without segment {left_out} of marker {marker:x}": b"\xff\xd8"
            + b"".join(body for number, (_, body) in enumerate(_segments(whole)) if number != left_out)
            for left_out, (marker, _) in enumerate(_segments(whole))
            if marker != 0xE0
        },
    }
    assert [name for name, stream in not_plain.items() if is_plain(stream, _SIDE)] == []


def test_no_damage_of_the_head_is_an_error_or_another_picture(patch: np.ndarray) -> None:  # type: ignore[type-arg]
    whole = jpeg.encode(patch, 90)
    head = whole.index(b"\xff\xda") + 14
    rng = np.random.default_rng(0)
    for at in range(head):
        assert not is_plain(whole[:at], _SIDE)
        for value in rng.integers(0, 256, 4).tolist():
            damaged = bytearray(whole)
            damaged[at] = value
            if is_plain(bytes(damaged), _SIDE):
                # A table with another value in it makes another picture; its size and colours are as before.
                with Image.open(io.BytesIO(damaged)) as picture:
                    assert (picture.size, picture.mode) == ((_SIDE, _SIDE), "RGB")
